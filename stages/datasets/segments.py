"""Turns COCO's ``segmentation`` into pixels: polygons, or run lengths as a list or a compressed string.

Pixels are those of cocodataset/cocoapi (``annToMask``, ``common/maskApi.c``). Every number is checked before memory that
depends on it is allocated.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray

from stages.images import ImageFailure
from stages.names import type_name
from store import rle
from store.errors import RleError

MAX_OUTLINE_PX = 10**7
"""maskApi.c allocates memory for every pixel of an outline, inside the image or not."""


@dataclass(frozen=True)
class Region:
    """What a segmentation marks. mask: bool [H, W].

    overlaps: parts of it have pixels in common, which dvlab-research/LISA adds up to values above 1. dropped: how many polygons
    were left out because they have fewer than three points or an odd number of coordinates.
    """

    mask: NDArray[np.bool_]
    overlaps: bool = False
    dropped: int = 0


def read_segmentation(value: Any, height_px: int, width_px: int) -> Region:
    """The region of a ``segmentation`` in an image of this size: a list of polygons or of run lengths, or run lengths alone.

    An empty list marks nothing.

    Raises:
        ImageFailure: it has another form, a number is not finite or far outside, or run lengths have another size.
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


def read_counts(value: Any, height_px: int, width_px: int) -> tuple[str, int]:
    """COCO RLE of the region of :func:`read_segmentation`, and how many polygons were dropped. Polygons are not decoded.

    Raises:
        ImageFailure: as there.
    """
    if isinstance(value, Mapping):
        return _counts_of(value, height_px, width_px), 0
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        found = read_segmentation(value, height_px, width_px)
        return rle.encode(found.mask), found.dropped
    checked = [_polygon(part) for part in value if len(part) >= 6 and len(part) % 2 == 0]
    outlines = [points for points, _ in checked]
    if not outlines:
        return rle.union([], height_px, width_px), len(value)
    _check_outline(sum(outline_px for _, outline_px in checked), "polygons have outlines")
    merged = pycocotools.mask.merge(pycocotools.mask.frPyObjects(outlines, height_px, width_px))
    return merged["counts"].decode("ascii"), len(value) - len(outlines)


def polygons(value: Any) -> list[Any]:
    """Polygons in any of their usual shapes, as COCO's ``segmentation`` has them: each a flat list of x and y in px.

    Args:
        value: points of one polygon, ``[[x, y], ...]``, or of several, ``[[[x, y], ...], ...]``; or flat polygons,
            ``[[x, y, x, y, ...], ...]``, or a single one, ``[x, y, x, y, ...]``. Numbers are not checked.

    Raises:
        ImageFailure: it is not a list, is empty, or has a point that is not ``[x, y]``.
    """
    if not isinstance(value, list) or not value:
        raise ImageFailure(f"mask is {reprlib.repr(value)}, expected polygons")
    if not isinstance(value[0], list):
        return [value]
    if all(isinstance(each, list) and len(each) == 2 and not isinstance(each[0], list) for each in value):
        return [_flat(value)]
    return [_flat(each) if isinstance(each, list) and each and isinstance(each[0], list) else each for each in value]


def _flat(points: list[Any]) -> list[Any]:
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ImageFailure(f"polygon is {reprlib.repr(points)}, expected points [x, y]")
    return [coordinate for point in points for coordinate in point]


def _from_polygon(points: Any, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The pixels of one polygon ``[x0, y0, x1, y1, ...]`` in px, bool [H, W]."""
    (found,) = pycocotools.mask.frPyObjects([_polygon(points)[0]], height_px, width_px)
    return rle.decode(found["counts"].decode("ascii"), height_px, width_px)


def _polygon(points: Any) -> tuple[list[float], float]:
    """The numbers of one polygon, once its outline is known to be short enough for maskApi.c's memory."""
    if not isinstance(points, list) or not set(map(type, points)) <= {int, float}:
        raise ImageFailure(f"polygon is {reprlib.repr(points)}, expected a flat list of numbers")
    # The comparison is exact for an integer of any size, and false for NaN.
    if not all(-MAX_OUTLINE_PX <= each <= MAX_OUTLINE_PX for each in (min(points), max(points))) or not all(
        map(math.isfinite, points)
    ):
        raise ImageFailure(f"polygon has numbers beyond {MAX_OUTLINE_PX} px, or that are not finite")
    corners = np.array(points, np.float64).reshape(-1, 2)
    outline_px = float(np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum())
    _check_outline(outline_px, "polygon has an outline")
    return corners.ravel().tolist(), outline_px


def _check_outline(outline_px: float, what: str) -> None:
    if outline_px > MAX_OUTLINE_PX:
        raise ImageFailure(f"{what} of {outline_px:.0f} px, expected at most {MAX_OUTLINE_PX}")


def _from_runs(value: Mapping[str, Any], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The pixels of ``{size: [h, w], counts: ...}``, bool [H, W]; counts are a list, or compressed to a string."""
    return rle.decode(_counts_of(value, height_px, width_px), height_px, width_px)


def _counts_of(value: Mapping[str, Any], height_px: int, width_px: int) -> str:
    """COCO RLE of such run lengths, which must have the size of the image."""
    size, counts = value.get("size"), value.get("counts")
    if size is not None and list(size if isinstance(size, Sequence) else ()) != [height_px, width_px]:
        raise ImageFailure(f"run lengths are of an image of {reprlib.repr(size)} px, expected {[height_px, width_px]}")
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    try:
        if isinstance(counts, list):
            counts = _compressed(counts, height_px * width_px)
        if not isinstance(counts, str):
            raise ImageFailure(f"'counts' is {type_name(counts)}, expected a list of numbers or a string")
        return rle.union([counts], height_px, width_px)
    except RleError as error:
        raise ImageFailure(f"run lengths: {error}") from error


def _compressed(runs: list[Any], pixels: int) -> str:
    if not all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each <= pixels for each in runs):
        raise ImageFailure(f"run lengths are {reprlib.repr(runs)}, expected whole numbers from 0 to {pixels}")
    if len(runs) > 2 * pixels + 2:
        raise ImageFailure(f"found {len(runs)} run lengths, too many for {pixels} pixels")
    return rle.from_runs(np.array(runs or [0], np.int64))
