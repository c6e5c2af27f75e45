"""An answer given as a box counts as the filled box."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stages.evaluate.cases import Question
from stages.predictions import PredictionError
from store import rle

_EXPECTED = "expected [x, y, width, height] in px, as COCO's bbox, or null for the empty answer"


def filled_box(where: str, bbox: Any, question: Question) -> str | None:
    """COCO RLE counts of the pixels whose centres lie in a box ``[x, y, width, height]``, px; None if there are no such pixels.

    A box may reach beyond the image, which cuts it off.

    Raises:
        PredictionError: ``bbox`` is not such a list, or the box lies outside the image.
    """
    if bbox is None:
        return None
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_number(value) for value in bbox):
        raise PredictionError(f"{where}: bbox: found {str(bbox)[:80]}, {_EXPECTED}")
    x, y, width, height = (float(value) for value in bbox)
    if width < 0 or height < 0:
        raise PredictionError(f"{where}: bbox: found {bbox} with a negative size, {_EXPECTED}")
    frame = f"{question.width_px} x {question.height_px} px of {question.image_id!r}"
    if x >= question.width_px or y >= question.height_px or x + width < 0 or y + height < 0:
        raise PredictionError(f"{where}: bbox: {bbox} lies outside the image, expected a box in {frame}")
    columns, rows = _inside(x, width, question.width_px), _inside(y, height, question.height_px)
    mask = np.zeros((question.height_px, question.width_px), bool)
    mask[rows, columns] = True
    return rle.encode(mask) if mask.any() else None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _inside(first: float, length: float, size_px: int) -> slice:
    """The pixels along one axis whose centres lie in the box."""
    start, stop = (math.ceil(min(max(edge, 0), size_px) - 0.5) for edge in (first, first + length))
    return slice(start, stop)
