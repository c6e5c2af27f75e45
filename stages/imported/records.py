"""Masks from another program, converted to what the store keeps: checked, in the frame of the picture, with SAM's fields."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.images import ImageFailure
from stages.imported import Vectors
from stages.names import type_name
from store import rle
from store.errors import RleError

MAX_MASKS = 2**16
"""Largest number of masks of one picture."""
MAX_FRAME_PX = 2**26
"""Largest height times width of masks that have another size than the picture, as these are decoded."""

Size = tuple[int, int]


def checked(masks: Sequence[Any], picture: Size, frame: Size | None, squashed: bool) -> list[dict[str, Any] | None]:
    """The record of each mask, in the same order; None for a mask without a pixel, which is not a proposal.

    ``area`` and ``bbox`` are computed from the mask, whatever the file says. A missing score is 1, a missing prompt is the
    middle of the box, a missing crop the whole picture.

    Args:
        masks: as in :class:`stages.imported.Foreign`.
        picture, frame: (height, width) px of the picture, and of the masks where that may be another size.
        squashed: the frame need not have the picture's proportions.

    Raises:
        ImageFailure: a mask is malformed, or its size contradicts the picture's.
    """
    if len(masks) > MAX_MASKS:
        raise ImageFailure(f"{len(masks)} masks, expected at most {MAX_MASKS}")
    size = frame or picture
    require_frame(size, picture, squashed)
    found = []
    for number, mask in enumerate(masks):
        try:
            found.append(_record(mask, size, picture))
        except (ImageFailure, RleError) as error:
            raise ImageFailure(f"mask {number}: {error}") from error
    return found


def require_frame(frame: Size, picture: Size, squashed: bool) -> None:
    """Raise ImageFailure where masks of this size cannot be brought to the picture's."""
    if frame == picture:
        return
    (height, width), (rows, columns) = frame, picture
    if min(frame) < 1 or height * width > MAX_FRAME_PX:
        raise ImageFailure(f"masks of {height} x {width} px, expected at most {MAX_FRAME_PX} px in all")
    # int(side * scale) may be one pixel off on one side
    if not squashed and abs(height * columns - width * rows) > max(rows, columns):
        raise ImageFailure(f"masks of {height} x {width} px do not have the proportions of {_px(picture)}")


def _px(picture: Size) -> str:
    return f"the picture, which has {picture[0]} x {picture[1]} px (height x width, upright)"


def counts_of(segmentation: Any, size: Size) -> str:
    """COCO RLE counts, compressed and as pycocotools writes them, of a segmentation that has to be of this size.

    Raises:
        ImageFailure, RleError: it is not COCO RLE, has another size, or does not cover that size.
    """
    if not isinstance(segmentation, dict) or "counts" not in segmentation:
        raise ImageFailure("segmentation is no COCO RLE of size and counts")
    given = segmentation.get("size", list(size))
    if not isinstance(given, list | tuple) or [*given] != [*size] or any(isinstance(side, bool) for side in given):
        turned = " (height and width exchanged?)" if given in ([size[1], size[0]], (size[1], size[0])) else ""
        raise ImageFailure(f"size is {given!s:.40}, expected {list(size)}{turned}")
    counts = segmentation["counts"]
    if isinstance(counts, bytes):
        counts = counts.decode("latin-1")
    if isinstance(counts, list):
        counts = rle.from_runs(_runs(counts))
    if not isinstance(counts, str):
        raise ImageFailure(f"counts are {type_name(counts)}, expected a text or a list of run lengths")
    if len(counts) > 7 * (size[0] * size[1] + 1):
        raise ImageFailure(f"counts have {len(counts)} characters, too many for {size[0]} x {size[1]} px")
    runs = rle.to_runs(counts)
    if (covered := int(runs.sum())) != size[0] * size[1]:
        raise ImageFailure(f"counts cover {covered} px, expected {size[0]} x {size[1]} = {size[0] * size[1]}")
    return counts if runs[1:].all() else rle.union([counts], *size)  # without runs of length 0


def _runs(counts: list[Any]) -> rle.Runs:
    runs = np.array(counts) if len(counts) <= rle.MAX_CHARS else np.empty(0)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or not runs.size:
        raise ImageFailure("counts are no list of whole numbers")
    return runs.astype(np.int64)


def resized(counts: str, frame: Size, picture: Size) -> str:
    """A mask at the size of the picture: each pixel takes the nearest one of the frame."""
    if frame == picture:
        return counts
    import cv2

    mask = np.ascontiguousarray(rle.decode(counts, *frame)).astype(np.uint8)
    return rle.encode(np.asarray(cv2.resize(mask, picture[::-1], interpolation=cv2.INTER_NEAREST_EXACT), np.uint8))


def _record(mask: Any, frame: Size, picture: Size) -> dict[str, Any] | None:
    if not isinstance(mask, dict):
        raise ImageFailure(f"found {type_name(mask)}, expected an object")
    counts = resized(counts_of(mask.get("segmentation"), frame), frame, picture)
    (left, top, width, height), area = rle.bbox_and_area(counts, picture[0])
    if not area:
        return None
    up, across = picture[0] / frame[0], picture[1] / frame[1]
    point = [left + width / 2, top + height / 2]
    if "point_coords" in mask:
        points = mask["point_coords"]
        x, y = _numbers(points[0] if isinstance(points, list) and points else points, 2, "point_coords")
        point = [x * across, y * up]
    crop = [0, 0, picture[1], picture[0]]
    if "crop_box" in mask:
        x, y, w, h = _numbers(mask["crop_box"], 4, "crop_box")
        if min(x, y, w, h) < 0 or x + w > frame[1] or y + h > frame[0]:
            raise ImageFailure(f"crop_box {mask['crop_box']!s:.60} is not inside {frame[0]} x {frame[1]} px")
        crop = [round(x * across), round(y * up), round(w * across), round(h * up)]
    scores = {name: _numbers([mask.get(name, 1.0)], 1, name)[0] for name in ("predicted_iou", "stability_score")}
    if not 0 <= scores["stability_score"] <= 1:
        raise ImageFailure(f"stability_score is {scores['stability_score']:.6g}, expected 0 to 1")
    box = rle.sam_bbox([left, top, width, height]).tolist()
    return {"segmentation": counts, "bbox": box, "area": area, **scores, "point_coords": [point], "crop_box": crop}


def _numbers(values: Any, count: int, name: str) -> list[float]:
    """``values`` as ``count`` finite numbers that fit float32."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ImageFailure(f"{name} is {values!s:.40}, expected {count} numbers")
    for value in values:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (isinstance(value, int) or math.isfinite(value)) or abs(value) > 1e9:
            raise ImageFailure(f"{name} is {value!s:.40}, expected a finite number")
    return [float(value) for value in values]


def vectors_of(values: Any, what: str) -> Vectors:
    """Lists of numbers as float32 [K, D]; a middle axis of length 1 is dropped. Raises ImageFailure for anything else."""
    try:
        array = np.array(values)
    except ValueError:
        array = np.empty(0, object)
    if array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    if array.size == 0 and array.ndim < 2:
        array = np.zeros((0, 0))
        if len(values):
            raise ImageFailure(f"{what}: expected one list of numbers per mask, all of one length")
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise ImageFailure(f"{what}: found {array.dtype} {list(array.shape)}, expected numbers [masks, dim]")
    with np.errstate(over="ignore"):  # require_storable reports the overflow
        return array.astype(np.float32)


def require_storable(vectors: Vectors) -> None:
    """Raise ImageFailure where vectors are not finite in float16, which they are stored in."""
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(vectors.astype(np.float16)).all(axis=1))
    if len(bad):
        kind = "NaN" if np.isnan(vectors[bad[0]]).any() else "a number that float16 cannot hold"
        raise ImageFailure(f"vector {bad[0]} has {kind}")
