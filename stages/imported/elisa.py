"""ELISA's JSONL (its ``preprocess.py``): per picture the contours of masks at 1024 x 1024 px, and one vector per mask.

``findContours`` gives contours of holes as well, on pixels that belong to the mask. All contours of a mask filled together, by the
even-odd rule and with their lines, give the mask of 1024 x 1024 px back exactly, holes and thin parts included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from stages.datasets.jsonfile import field, text
from stages.images import ImageFailure
from stages.imported import Each, Foreign
from stages.imported.records import vectors_of
from store import rle

SIDE_PX = 1024
"""Pictures and masks were squashed to a square of this side."""
MAX_LINE_BYTES = 2**26
MAX_POINTS = 2**20
"""Largest number of points of one mask."""


def read_jsonl(path: Path, each: Each) -> None:
    """Call ``each`` for every line of a file, with one line in memory at a time; an error in a line becomes its ``trouble``.

    Raises:
        ImageFailure: a line is too long to be a picture's.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise ImageFailure(f"line {number} has more than {MAX_LINE_BYTES} bytes")
            if line.strip():
                each(_entry(line, number))


def _entry(line: bytes, number: int) -> Foreign:
    name = ""
    try:
        try:
            value = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise ImageFailure(f"not JSON: {error}") from error
        name = text(value.get("img") if isinstance(value, dict) else None, "img")
        if "sam_shapes" not in value:
            raise ImageFailure(
                "no sam_shapes: an early ELISA wrote vectors without their masks, which belong to nothing"
            )
        masks = [{"segmentation": _mask(shape)} for shape in field(value, "sam_shapes", list)]
        vectors = _vectors(value, "sam_embs", len(masks), "sam_shapes")
        regions = [_mask(shape) for shape in value.get("gt_shapes") or ()]
        found = _vectors(value, "gt_embs", len(regions), "gt_shapes") if regions else None
    except (ImageFailure, TypeError) as error:
        return Foreign(name, trouble=f"line {number}: {error}")
    return Foreign(name, masks, (SIDE_PX, SIDE_PX), True, vectors, regions, found)


def _vectors(value: dict[str, Any], key: str, count: int, shapes: str) -> Any:
    vectors = vectors_of(field(value, key, list), key)
    if len(vectors) != count:
        raise ImageFailure(f"{len(vectors)} {key} and {count} {shapes}, expected as many")
    return vectors


def _mask(contours: Any) -> dict[str, Any]:
    """COCO RLE of the mask that has these contours, lists of [x, y] px."""
    import cv2

    points = []
    if not isinstance(contours, list) or sum(len(each) for each in contours if isinstance(each, list)) > MAX_POINTS:
        raise ImageFailure("a shape is no list of contours, or has too many points")
    for contour in contours:
        try:
            array = np.array(contour)
        except ValueError:
            array = np.empty(0)
        if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu":
            raise ImageFailure("a contour is no list of points [x, y] in whole px")
        if array.min() < 0 or array.max() >= SIDE_PX:
            raise ImageFailure(f"a contour leaves the {SIDE_PX} x {SIDE_PX} px that ELISA works at")
        points.append(array.astype(np.int32))
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    if points:
        cv2.fillPoly(mask, points, 1)
    return {"size": [SIDE_PX, SIDE_PX], "counts": rle.encode(mask)}
