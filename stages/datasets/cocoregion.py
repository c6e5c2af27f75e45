"""The pixels that an annotation in COCO's form marks, and the frame in which it was drawn."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.datasets.cocofile import Record, name_of
from stages.datasets.frame import upright_counts
from stages.datasets.shapes import TARGET, Shape
from stages.datasets.sizes import UPRIGHT, drawn_on
from stages.images import ImageFailure

FILLED_BOX = "instances are boxes: an annotation without segmentation is its filled box"
NO_POLYGON = "polygon with fewer than three points or half a point, dropped"


@dataclass(frozen=True)
class Region:
    """The pixels of an annotation. counts: COCO RLE in the frame of the upright image. is_box: they are a filled box."""

    counts: str
    is_box: bool
    notes: tuple[str, ...]


def read_region(annotation: dict[str, Any], height_px: int, width_px: int, turn: int) -> Region:
    """The region of an annotation in an upright image of this size.

    turn: the EXIF orientation that must still be applied, or UPRIGHT. Raises ImageFailure if the region is missing or unusable.
    """
    segmentation = annotation.get("segmentation")
    is_box = segmentation is None or segmentation == []
    if is_box:
        segmentation = [_corners(annotation)]
    size = (height_px, width_px) if turn == UPRIGHT else (width_px, height_px)
    counts, dropped = upright_counts(segmentation, size, turn)
    return Region(counts, is_box, (FILLED_BOX,) * is_box + (NO_POLYGON,) * dropped)


def frame_of(
    record: Record,
    annotations: Sequence[dict[str, Any]],
    height_px: int,
    width_px: int,
    orientation: Callable[[], int],
) -> int:
    """The EXIF orientation that must still be applied to an image's annotations, or UPRIGHT.

    Decided as in :func:`stages.datasets.sizes.drawn_on`. An image without annotations is UPRIGHT, whatever size the file states.
    """
    document = {"height": record.height, "width": record.width}
    if not annotations:
        return UPRIGHT
    if record.height in (None, height_px) and record.width in (None, width_px):
        return UPRIGHT
    shapes = [_outline(each) for each in annotations]
    return drawn_on(document, shapes, height_px, width_px, orientation, ("height", "width"))


def _outline(annotation: dict[str, Any]) -> Shape:
    try:
        return Shape("", "polygon", np.array(_points(annotation), float).reshape(-1, 2), TARGET)
    except ImageFailure as error:
        raise ImageFailure(f"{name_of(annotation)}: {error}") from error


def _points(annotation: dict[str, Any]) -> list[float]:
    """Corners of what an annotation marks, alternating x and y; for run lengths, the last corner of their image."""
    found = annotation.get("segmentation") or [_corners(annotation)]
    points: list[float] = []
    for part in found if isinstance(found, list) else [found]:
        if isinstance(part, dict):
            size = part.get("size")
            points += size[::-1] if isinstance(size, list) and len(size) == 2 and all(map(_is_number, size)) else []
        elif isinstance(part, list) and len(part) % 2 == 0 and all(map(_is_number, part)):
            points += part
    return points


def _corners(annotation: dict[str, Any]) -> list[float]:
    """The box of an annotation as a polygon, as pycocotools converts it."""
    if annotation.get("bbox") is None:
        raise ImageFailure(
            "neither 'segmentation' nor 'bbox': nothing says which pixels it is (keypoints are no region)"
        )
    box = annotation["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        raise ImageFailure(f"'bbox' is {reprlib.repr(box)}, expected [x, y, width, height] in px")
    x, y, width, height = box
    return [x, y, x, y + height, x + width, y + height, x + width, y]


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53 and math.isfinite(value)
    )
