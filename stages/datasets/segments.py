"""COCO's ``segmentation``: polygons, or run lengths as a list or a compressed string, to pixels.

Pixels are those of cocodataset/cocoapi (``annToMask``, ``common/maskApi.c``). Every number is looked at before any memory is taken
that depends on it.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray

from stages.images import ImageFailure
from store import rle
from store.errors import RleError

MAX_OUTLINE_PX = 10**7
"""maskApi.c takes memory for every pixel of an outline, inside the image or not."""


@dataclass(frozen=True)
class Region:
    """What a segmentation marks. mask: bool [H, W].

    overlaps: parts of it have pixels in common, which dvlab-research/LISA adds up to values above 1. dropped: polygons that are
    none, as they have fewer than three points or half a point.
    """

    mask: NDArray[np.bool_]
    overlaps: bool = False
    dropped: int = 0


def read_segmentation(value: Any, height_px: int, width_px: int) -> Region:
    """The region of a ``segmentation`` in an image of this size: a list of polygons or of run lengths, or run lengths alone.

    An empty list marks nothing.

    Raises:
        ImageFailure: it is none of these, a number is not finite or far outside, or run lengths are of another size.
    """
    if isinstance(value, Mapping):
        return Region(_from_runs(value, height_px, width_px))
    if not isinstance(value, list):
        raise ImageFailure(f"segmentation is {reprlib.repr(value)}, expected polygons or run lengths")
    canvas = np.zeros((height_px, width_px), np.int32)
    dropped = 0
    for part in value:
        if isinstance(part, Mapping):
            canvas += _from_runs(part, height_px, width_px)
        elif isinstance(part, list) and (len(part) < 6 or len(part) % 2):
            dropped += 1
        else:
            canvas += _from_polygon(part, height_px, width_px)
    return Region(canvas > 0, bool((canvas > 1).any()), dropped)


def _from_polygon(points: Any, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The pixels of one polygon ``[x0, y0, x1, y1, ...]`` in px, bool [H, W]."""
    if not isinstance(points, list) or not all(_is_number(each) for each in points):
        raise ImageFailure(f"polygon is {reprlib.repr(points)}, expected a flat list of numbers")
    # An integer of any size is compared exactly, and NaN is not within.
    if not all(-MAX_OUTLINE_PX <= each <= MAX_OUTLINE_PX for each in points):
        raise ImageFailure(f"polygon has numbers beyond {MAX_OUTLINE_PX} px, or that are not finite")
    corners = np.array(points, np.float64).reshape(-1, 2)
    outline_px = np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum()
    if outline_px > MAX_OUTLINE_PX:
        raise ImageFailure(f"polygon has an outline of {outline_px:.0f} px, expected at most {MAX_OUTLINE_PX}")
    (found,) = pycocotools.mask.frPyObjects([corners.ravel().tolist()], height_px, width_px)
    return rle.decode(found["counts"].decode("ascii"), height_px, width_px)


def _from_runs(value: Mapping[str, Any], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The pixels of ``{size: [h, w], counts: ...}``, bool [H, W]; counts are a list, or compressed to a string."""
    size, counts = value.get("size"), value.get("counts")
    if size is not None and list(size if isinstance(size, Sequence) else ()) != [height_px, width_px]:
        raise ImageFailure(f"run lengths are of an image of {reprlib.repr(size)} px, expected {[height_px, width_px]}")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    try:
        if isinstance(counts, list):
            counts = _compressed(counts, height_px * width_px)
        if not isinstance(counts, str):
            raise ImageFailure(f"'counts' is {type(counts).__name__}, expected a list of numbers or a string")
        return rle.decode(counts, height_px, width_px)
    except RleError as error:
        raise ImageFailure(f"run lengths: {error}") from error


def _compressed(runs: list[Any], pixels: int) -> str:
    if not all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each <= pixels for each in runs):
        raise ImageFailure(f"run lengths are {reprlib.repr(runs)}, expected whole numbers from 0 to {pixels}")
    if len(runs) > 2 * pixels + 2:
        raise ImageFailure(f"found {len(runs)} run lengths, too many for {pixels} pixels")
    return rle.from_runs(np.array(runs or [0], np.int64))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
