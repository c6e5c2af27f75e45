"""Pixels that a prediction and its target share, counted on run lengths: no image is decoded.

Ignored pixels are first removed from both (``dvlab-research/LISA``, ``utils/utils.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from store import rle

NC_SIDE_PX = 1024
"""Side of the square that masks are resized to for ncIoU (LLM-Seg, arXiv 2404.08767)."""


def shared_pixels(target: str, prediction: str, ignore: str, height_px: int, width_px: int) -> SharedPixels:
    """Compare a prediction with its target, without the ignored pixels.

    Args:
        target, prediction, ignore: COCO RLE counts of one image, height_px x width_px.

    Raises:
        store.errors.RleError: counts are malformed or of another size.
    """
    truth, guess = rle.subtract(target, ignore), rle.subtract(prediction, ignore)
    common = rle.subtract(truth, rle.subtract(truth, guess))
    either = rle.union([truth, guess], height_px, width_px)
    return SharedPixels(
        rle.area(common),
        rle.area(either),
        resized_area(common, height_px, width_px),
        resized_area(either, height_px, width_px),
        hull_area(either, height_px),
    )


def resized_area(counts: str, height_px: int, width_px: int, side_px: int = NC_SIDE_PX) -> int:
    """Area of a mask resized to side_px x side_px by nearest neighbour, as in ``torch``: place i shows source place i * in // out.

    A source pixel is shown as often as its row times its column, so running sums over the runs suffice.
    """
    rows, columns = (_running_shows(side, side_px) for side in (height_px, width_px))
    starts, ends = _spans(counts)
    before = [
        columns[places // height_px] * side_px
        + np.diff(columns, append=columns[-1])[places // height_px] * rows[places % height_px]
        for places in (starts, ends)
    ]
    return int((before[1] - before[0]).sum())


def _running_shows(source: int, side: int) -> NDArray[np.int64]:
    """Running sum, [source + 1]: entry i counts those of the ``side`` output places that show a source place below i."""
    shows = np.bincount(np.arange(side) * source // side, minlength=source)
    return np.concatenate([[0], np.cumsum(shows)])


def hull_area(counts: str, height_px: int) -> float:
    """Area, px, of the convex hull of a mask's pixels, each taken as a square; 0 for the empty mask.

    Squares, not centres: the hull then contains the mask, and a convex mask's hull has the mask's own area.
    """
    starts, ends = _spans(counts)
    if not starts.size:
        return 0.0
    first, last = starts // height_px, (ends - 1) // height_px
    top, bottom = starts % height_px, (ends - 1) % height_px + 1
    several = last > first
    # A run that goes on in the next column ends at the bottom of its first and begins at the top of its last.
    lower, upper = np.where(several, height_px, bottom), np.where(several, 0, top)
    corners = [
        (first, top),
        (first, lower),
        (first + 1, upper),
        (last, lower),
        (last + 1, upper),
        (last + 1, bottom),
    ]
    points = np.concatenate([np.stack(corner, axis=1) for corner in corners]).astype(np.int32)
    return float(cv2.contourArea(cv2.convexHull(points[:, None])))


def _spans(counts: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First place and place after the last, in column-major order, of every non-empty run of ones."""
    runs = rle.to_runs(counts)
    ends = np.cumsum(runs)
    is_set = (np.arange(runs.size) % 2 == 1) & (runs > 0)
    return ends[is_set] - runs[is_set], ends[is_set]


@dataclass(frozen=True)
class SharedPixels:
    """Pixels of a prediction and its target, without the ignored ones.

    ``nc_``: counted with both resized to 1024 x 1024. hull_px: area of the convex hull of both.
    """

    intersection_px: int
    union_px: int
    nc_intersection_px: int
    nc_union_px: int
    hull_px: float

    @property
    def iou(self) -> float:
        """0/0 is 1."""
        return self.intersection_px / self.union_px if self.union_px else 1.0

    @property
    def giou_hull(self) -> float:
        """IoU - (hull - union) / hull, from -1 to 1; 0/0 is 1."""
        return self.iou - (self.hull_px - self.union_px) / self.hull_px if self.hull_px else 1.0
