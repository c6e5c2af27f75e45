"""What stored features know about where things are: linear probes on the demo's store, fitted on train, judged on val.

`python -m demo.measure.places`. A language model can only find what its patch tokens place, and choose among like objects only
by what a mask's vector says of its place.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.encoders import ENCODERS
from store import Split, open_split

F64 = npt.NDArray[np.float64]
RIDGE = 10.0
MEAN = "demo"
"""The train mean of the demo's params."""


def tokens(split: Split, encoder: str) -> tuple[F64, F64]:
    """Patch tokens [n, C] of all images, and the cell of each, one-hot [n, P]."""
    found = [record[f"image_features/{encoder}"].astype(np.float64) for record in split]
    cells = len(found[0])
    return np.concatenate(found), np.tile(np.eye(cells), (len(found), 1))


def masks(split: Split, encoder: str) -> tuple[F64, F64]:
    """Centred mask embeddings [n, D], and the middle of each mask's box as fractions of the image's size, x and y, [n, 2]."""
    vectors, middles = [], []
    for record in split:
        own = record[f"centered/{MEAN}/mask_embeddings/{encoder}"]
        vectors.append(own.astype(np.float64))
        for mask in record.masks[: len(own)]:
            x, y, w, h = mask["bbox"]
            middles.append([(x + w / 2) / record.width_px, (y + h / 2) / record.height_px])
    return np.concatenate(vectors), np.array(middles)


def fit(known: tuple[F64, F64], asked: F64) -> F64:
    """Predict the targets of the features ``asked`` by a ridge regression fitted on ``known``, features and targets."""
    features, targets = known
    mean, spread = features.mean(0), features.std(0) + 1e-9
    standard = (features - mean) / spread
    inner = standard.T @ standard + RIDGE * np.eye(standard.shape[1])
    slope = np.linalg.solve(inner, standard.T @ (targets - targets.mean(0)))
    found: F64 = (asked - mean) / spread @ slope + targets.mean(0)
    return found


def cells_right(known: tuple[F64, F64], asked: tuple[F64, F64]) -> tuple[float, float]:
    """Share of the tokens whose cell is found, and by chance."""
    features, cells = asked
    return float((fit(known, features).argmax(1) == cells.argmax(1)).mean()), 1 / cells.shape[1]


def explained(known: tuple[F64, F64], asked: tuple[F64, F64]) -> F64:
    """R2 of x and y [2]; at most 1, and below 0 where the mean would be the better guess."""
    features, middles = asked
    missed = ((fit(known, features) - middles) ** 2).sum(0)
    found: F64 = 1 - missed / ((middles - middles.mean(0)) ** 2).sum(0)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.measure.places", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("data/store"))
    arguments = parser.parse_args()
    train, val = (open_split(arguments.store, "demo", split, proposer="demo_sam") for split in ("train", "val"))
    right, chance = cells_right(tokens(train, "demo_clip"), tokens(val, "demo_clip"))
    side = math.isqrt(ENCODERS["demo_clip"].tokens)
    print(
        f"demo_clip: cell of {side} x {side} right for {100 * right:.1f} % of the tokens, by chance {100 * chance:.1f} %"
    )
    for encoder in ("demo_alphaclip", "demo_dinov2", "demo_sam"):
        x, y = explained(masks(train, encoder), masks(val, encoder))
        print(f"{encoder}: R2 of a mask's middle {x:.2f} (x), {y:.2f} (y)")


if __name__ == "__main__":
    main()
