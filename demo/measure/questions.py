"""How many of the demo asker's faults the checks and the verifier find, and what training on the questions that passed gains.

`make repro-questions`, or after its trainings `python -m demo.measure.questions`. Intervals are paired bootstraps over scenes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from demo.measure.mixture import difference
from demo.questions.arms import ARMS, ROOT, lines_of
from stages.evaluate.metrics import Samples
from stages.evaluate.score import score
from stages.predictions import read
from store import open_split

VERIFIER = ("verifier", "ambiguous", "unreadable_verdict")
"""Reasons of the verifier; all others are those of the checks."""
GOAL = 8.0
"""By how many points passed has to be better than rejected."""
Said = Mapping[str, Any]


def truths(path: Path) -> list[Said]:
    """What the asker's server wrote, each question once."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        said = json.loads(line)
        found[said["number"], said["question"], said["answer"]] = said
    return list(found.values())


def outcomes(said: Iterable[Said], folder: Path) -> list[tuple[Said, str]]:
    """Each question with the reason that rejected it, ``passed``, or ``whole`` where everything about its image was rejected."""
    passed = {
        (image_id, target["texts"][0])
        for image_id, row in lines_of(folder / "train.jsonl").items()
        for target in row["targets"]
    }
    reasons: dict[str, list[tuple[str, str]]] = {}
    for line in (folder / "rejected.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        reasons.setdefault(row["image_id"], []).append((row["what"], row["reason"]))
    found = []
    for each in said:
        image_id = f"{each['number']:012d}"
        why = [reason for what, reason in reasons.get(image_id, []) if what.startswith(each["question"])]
        found.append((each, "passed" if (image_id, each["question"]) in passed else (why or ["whole"])[0]))
    return found


def counted(name: str, found: Iterable[tuple[bool, bool]]) -> str:
    """A row of the table. found: whether each question is bad, and whether it was rejected."""
    pairs = list(found)
    bad, gone = sum(each for each, _ in pairs), sum(each for _, each in pairs)
    both = sum(one and other for one, other in pairs)
    precision, recall = 100 * both / max(1, gone), 100 * both / max(1, bad)
    return f"| {name} | {len(pairs)} | {bad} | {gone} | {precision:.1f} % | {recall:.1f} % |"


def samples_of(store: Path, runs: Path) -> dict[str, Samples]:
    """What the arms answered to the same questions."""
    split = open_split(store, "asked", "val")
    answers = {name: read(runs / name / "predictions/asked/val.parquet")[1] for name in ARMS}
    first, *others = ARMS
    further = {name: answers[name] for name in others}
    found = score(split, answers[first], system=first, further=further, missing="empty")
    return {name: found.systems[name] for name in ARMS}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m demo.measure.questions", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    found = outcomes(truths(options.root / "truth.jsonl"), options.root / "passed")
    print("| who | questions | bad | rejected | precision | recall |\n|---|---|---|---|---|---|")
    spoilt = [(each["fault"] not in ("", "wrong object") and not each["right"], why) for each, why in found]
    print(counted("checks", ((bad, why not in ("passed", *VERIFIER)) for bad, why in spoilt)))
    reached = [(not each["right"], why) for each, why in found if why in ("passed", *VERIFIER)]
    print(counted("verifier", ((bad, why != "passed") for bad, why in reached)))
    print(counted("both", ((not each["right"], why != "passed") for each, why in found)))
    arms = samples_of(options.root / "store", options.root / "train")
    print("\n| LLM-Seg trained on | questions asked | mean IoU |\n|---|---|---|")
    for name in ARMS:
        print(f"| {name} | {len(arms[name])} | {100 * float(np.mean(arms[name].iou)):.1f} |")
    for other, goal in (("rejected", GOAL), ("unfiltered", None)):
        mean, low, high = difference(arms["passed"], arms[other])
        reached_ = "" if goal is None else f"; goal +{goal:.0f}: {'reached' if mean >= goal else 'missed'}"
        print(f"\npassed minus {other}: {mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f}){reached_}")


if __name__ == "__main__":
    main()
