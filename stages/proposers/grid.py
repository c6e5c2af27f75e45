"""The image cut into rectangles, several sizes at once: masks that need no model and do not depend on what the image shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from stages.proposers import Found, Memo, Pixels
from stages.proposers.params import GridParams
from store import rle


def build(
    params: GridParams, paths: Mapping[str, Path], device: str, points_per_batch: int | None, shared: Memo
) -> Grid:
    """A :class:`stages.proposers.Proposer`."""
    return Grid(params)


class Grid:
    """Cells of n x n grids."""

    def __init__(self, params: GridParams) -> None:
        self.params = params

    @staticmethod
    def prepare(image: Pixels) -> tuple[int, int]:
        """(height, width) px of the image: no pixel is looked at."""
        return image.shape[0], image.shape[1]

    def propose(self, images: Sequence[tuple[int, int]], memo: Memo) -> Iterator[Found]:
        """The cells of each image."""
        return (Found(partial(self._records, *size)) for size in images)

    def _records(self, height: int, width: int) -> list[dict[str, Any]]:
        found = []
        for count in self.params.cells_per_side:
            rows, columns = (np.linspace(0, side, count + 1).round().astype(int).tolist() for side in (height, width))
            for (top, bottom), (left, right) in product(pairwise(rows), pairwise(columns)):
                area = (bottom - top) * (right - left)
                if area >= max(1, self.params.min_area):
                    found.append(_record(height, width, left, top, right, bottom, area))
        return found


def _record(height: int, width: int, left: int, top: int, right: int, bottom: int, area: int) -> dict[str, Any]:
    mask = np.zeros((height, width), bool)
    mask[top:bottom, left:right] = True
    return {
        "segmentation": rle.encode(mask),
        "bbox": [left, top, right - left - 1, bottom - top - 1],  # SAM's: from the first to the last pixel
        "area": area,
        "predicted_iou": 1.0,
        "stability_score": 1.0,
        "point_coords": [[(left + right) / 2, (top + bottom) / 2]],
        "crop_box": [0, 0, width, height],
    }
