"""ELISA's segmentation figures as its released code computes them (DavidC001/LISA_ACV, ``preprocess.py`` and ``validation.py``).

Every mask is resized to 1024 x 1024, whatever its image's shape, and becomes the polygons of its contours, which run through the
centres of its border pixels. A contour that meets itself is no valid polygon and is left out. Answer and ground truth are the
unions of their masks' polygons. Where one of the two has no valid polygon, both areas, IoU and gIoU are 0: a miss, a false alarm
and a right refusal alike.

The released code hands the polygons to Shapely. Their edges are horizontal, vertical or diagonal, so a polygon consists of
quarters of the unit squares between pixel centres (a square cut along both diagonals). Sets of quarters give the same areas
exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from store import rle

SIDE_PX = 1024
"""Side of the square that masks are resized to."""
_TOP, _LEFT, _RIGHT, _BOTTOM = 1, 2, 4, 8


def elisa_areas(truths: Sequence[str], guesses: Sequence[str], height_px: int, width_px: int) -> Areas:
    """Compare an answer's masks with the target's instances, COCO RLE counts of one image each.

    Raises:
        store.errors.RleError: counts are malformed or of another size.
    """
    truth, guess = (
        [polygons(counts, height_px, width_px) for counts in masks if rle.area(counts)] for masks in (truths, guesses)
    )
    in_truth, in_guess = (
        np.bitwise_or.reduce([np.zeros((SIDE_PX, SIDE_PX), np.uint8), *(shape.quarters for shape in shapes)])
        for shapes in (truth, guess)
    )
    if not (in_truth.any() and in_guess.any()):
        return Areas(0.0, 0.0, 0.0, 0.0)
    common, either = (float(np.bitwise_count(both).sum()) / 4 for both in (in_truth & in_guess, in_truth | in_guess))
    corners = np.concatenate([shape.corners for shape in (*truth, *guess)])
    hull = float(cv2.contourArea(cv2.convexHull(corners)))
    return Areas(common, either, common / either, common / either - (hull - either) / hull)


class Areas(NamedTuple):
    """Areas in square pixels at 1024 x 1024, their ratio (IoU), and the IoU minus the share of the hull outside the union."""

    elisa_intersection: float
    elisa_union: float
    elisa_iou: float
    elisa_giou: float


@lru_cache(maxsize=64)  # an image's questions share their candidates
def polygons(counts: str, height_px: int, width_px: int) -> Polygons:
    """A mask's valid polygons."""
    mask = np.ascontiguousarray(rle.decode(counts, height_px, width_px)).astype(np.uint8) * 255
    squashed = cv2.resize(mask, (SIDE_PX, SIDE_PX))
    contours, _ = cv2.findContours(squashed, cv2.RETR_TREE, cv2.CHAIN_APPROX_NONE)
    rings = [contour[:, 0] for contour in contours if _is_simple(contour[:, 0])]
    inside = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    for ring in rings:
        left, top = ring.min(axis=0)
        found = _quarters(ring - (left, top))
        inside[top : top + found.shape[0], left : left + found.shape[1]] |= found
    corners = np.concatenate([np.empty((0, 2), np.int32), *rings])
    return Polygons(inside, corners.astype(np.int32))


class Polygons(NamedTuple):
    """The union of a mask's valid polygons: the quarters of each unit square as bits, and the corners, int32 [n, 2] (x, y)."""

    quarters: NDArray[np.uint8]
    corners: NDArray[np.int32]


def _is_simple(ring: NDArray[Any]) -> bool:
    """Whether a contour [n, 2] through neighbouring pixels meets no pixel twice: then it is a valid polygon."""
    return len(ring) > 2 and len(np.unique(ring @ (1, SIDE_PX))) == len(ring)


def _quarters(ring: NDArray[Any]) -> NDArray[np.uint8]:
    """The quarters of each square that lie inside a simple ring [n, 2] which begins at 0: bits, [height, width].

    By the even-odd rule: an edge from one row of pixels to the next flips every quarter to its right, in the row of squares
    between them.
    """
    after = np.roll(ring, -1, axis=0)
    crossing = ring[:, 1] != after[:, 1]
    (x, y), (next_x, next_y) = ring[crossing].T, after[crossing].T
    row, square = np.minimum(y, next_y), np.minimum(x, next_x)
    # All quarters from `square` on, except those to the left of a diagonal in the diagonal's own square.
    falls = (next_x - x) * (next_y - y) > 0  # from upper left to lower right
    climbs = (next_x - x) * (next_y - y) < 0
    width, height = ring.max(axis=0)
    flips = np.zeros((height, width + 1), np.uint8)
    first = ((_TOP, climbs), (_LEFT, falls | climbs), (_RIGHT, False), (_BOTTOM, falls))
    for quarter, is_left in first:
        np.bitwise_xor.at(flips, (row, square + is_left), quarter)
    return np.bitwise_xor.accumulate(flips, axis=1)[:, :width]
