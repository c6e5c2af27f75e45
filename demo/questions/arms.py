"""Three training sets with equally many questions: questions that passed, questions drawn from all, and rejected questions.

`python -m demo.questions.arms`, after both sets of params/questions_demo.yaml were made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

ROOT = Path("data/questions_demo")
ARMS = ("passed", "unfiltered", "rejected")


def lines_of(path: Path) -> dict[str, dict[str, Any]]:
    """image_id -> line, of a file of the format generated."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {row["image_id"]: row for row in rows}


def arms_of(passed: dict[str, dict[str, Any]], every: dict[str, dict[str, Any]]) -> dict[str, list[tuple[str, int]]]:
    """Arm -> equally many questions: image_id and number of the target in the line of ``every``.

    Each arm gets the questions whose digests come first, so that the draw depends on nothing but the questions.
    """
    kept = {(image_id, target["texts"][0]) for image_id, row in passed.items() for target in row["targets"]}
    found: dict[str, list[tuple[str, int]]] = {arm: [] for arm in ARMS}
    for image_id, row in every.items():
        for number, target in enumerate(row["targets"]):
            arm = "passed" if (image_id, target["texts"][0]) in kept else "rejected"
            found[arm].append((image_id, number))
            found["unfiltered"].append((image_id, number))
    count = min(map(len, found.values()))
    return {arm: sorted(sorted(places, key=_digest)[:count]) for arm, places in found.items()}


def _digest(place: tuple[str, int]) -> bytes:
    return hashlib.sha256(f"arms/{place[0]}/{place[1]}".encode()).digest()


def main() -> None:
    """Write ``arms/<arm>/train.jsonl``, and say how many questions each has."""
    parser = argparse.ArgumentParser(prog="python -m demo.questions.arms", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    every = lines_of(options.root / "unfiltered/train.jsonl")
    for arm, places in arms_of(lines_of(options.root / "passed/train.jsonl"), every).items():
        numbers: dict[str, list[int]] = {}
        for image_id, number in places:
            numbers.setdefault(image_id, []).append(number)
        folder = options.root / "arms" / arm
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            {**every[image_id], "targets": [every[image_id]["targets"][number] for number in chosen]}
            for image_id, chosen in sorted(numbers.items())
        ]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "train.jsonl").write_text(text, encoding="utf-8")
        print(f"{folder}: {len(places)} questions about {len(rows)} pictures")


if __name__ == "__main__":
    main()
