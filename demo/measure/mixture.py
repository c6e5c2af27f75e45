"""Whether the mixture helps: LLM-Seg trained on it, next to LLM-Seg trained on its long questions alone, question by question.

`make repro-mixture`, or after its trainings `python -m demo.measure.mixture`. Intervals are paired bootstraps over scenes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from stages.evaluate.bootstrap import interval, replicates
from stages.evaluate.metrics import Samples
from stages.evaluate.score import score
from stages.predictions import read
from store import open_split

RESAMPLES = 2000
MIXED, ALONE = "mixture", "alone"
GOALS = {"refcoco": 8.0, "reasonseg": -10.0}
"""Data set -> by how many points the mixture has to be better at least."""


def samples_of(store: Path, runs: Path, dataset: str) -> dict[str, Samples]:
    """What both systems answered to the questions of a data set's split val."""
    split = open_split(store, dataset, "val")
    answers = {name: read(runs / name / "predictions" / dataset / "val.parquet")[1] for name in (MIXED, ALONE)}
    found = score(split, answers[MIXED], system=MIXED, further={ALONE: answers[ALONE]}, missing="empty")
    return {name: found.systems[name] for name in (MIXED, ALONE)}


def difference(mixed: Samples, alone: Samples) -> tuple[float, float, float]:
    """Mean of the differences in IoU, in points, and its 95 % interval."""
    values = 100 * (np.asarray(mixed.iou, np.float64) - np.asarray(alone.iou, np.float64))
    low, high = interval(replicates(values, np.ones(len(values)), mixed.image_index, RESAMPLES, 0))
    return float(values.mean()), low, high


def main() -> None:
    """Print a row per data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("data/mixture_store"))
    parser.add_argument("--runs", type=Path, default=Path("data/train/mixture"))
    options = parser.parse_args()
    print(
        "| questions of | how many | mixture | long questions alone | difference, points | 95 % interval | goal | reached |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for dataset in ("refcoco", "reasonseg", "grefcoco"):
        systems = samples_of(options.store, options.runs, dataset)
        mean, low, high = difference(systems[MIXED], systems[ALONE])
        goal = GOALS.get(dataset)
        reached = "" if goal is None else "yes" if mean >= goal and (goal < 0 or low > 0) else "no"
        means = [f"{100 * float(np.mean(systems[name].iou)):.1f}" for name in (MIXED, ALONE)]
        cells = [dataset, str(len(systems[MIXED])), *means, f"{mean:+.1f}", f"{low:+.1f} to {high:+.1f}"]
        print(f"| {' | '.join(cells)} | {'' if goal is None else f'{goal:+.0f} or more'} | {reached} |")
    mixed = samples_of(options.store, options.runs, "grefcoco")[MIXED]
    exists, empty = np.asarray(mixed.exists, bool), np.asarray(mixed.empty, bool)
    print(
        f"\ngrefcoco, mixture: N-acc {100 * empty[~exists].mean():.1f} %, T-acc {100 * (~empty[exists]).mean():.1f} %"
    )


if __name__ == "__main__":
    main()
