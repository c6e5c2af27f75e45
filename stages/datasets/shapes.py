"""labelme's shapes: the pixels that each of them marks.

A polygon, and a shape without ``shape_type``, is painted as dvlab-research/LISA paints it (``utils/data_processing.py``): points
are cut to integers, outline and inside with OpenCV. Every other type is drawn as labelme 6 draws it (wkentaro/labelme,
``shape_to_mask`` and ``shapes_to_label`` in ``labelme/utils/shape.py``): with Pillow, lines 10 px wide, a point as a disc of
radius 5 px, a mask placed at its box. Only a circle is painted exactly: the pixels at most its radius from its centre. Pillow's
ellipse, which labelme draws, is half a pixel wider all around (1313 instead of 1257 px at radius 20). labelme itself makes no
region from ``points`` or from an unknown type.
"""

from __future__ import annotations

import base64
import io
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from stages.datasets.jsonfile import field, text
from stages.images import DECODE_ERRORS, ImageFailure

MAX_COORDINATE_PX = 10**6
"""OpenCV walks every row that a polygon spans, inside the image or not, which takes seconds per polygon near 2**31."""
TARGET, IGNORE = 1, 255
"""The values that shapes are painted with."""
_LINE_PX, _POINT_RADIUS_PX = 10, 5
_POINTS = {
    "polygon": (1, None),
    "rectangle": (2, 2),
    "oriented_rectangle": (4, 4),
    "circle": (2, 2),
    "line": (2, 2),
    "linestrip": (2, None),
    "point": (1, 1),
    "mask": (2, 2),
}
"""Type -> its smallest and largest number of points."""


@dataclass(frozen=True)
class Shape:
    """What a shape says. kind: one of labelme's types. points: float64 [P, 2], x and y px. value: TARGET or IGNORE.

    mask: bool [h, w] of the kind ``mask``, whose first pixel lies at the first point.
    """

    label: str
    kind: str
    points: NDArray[np.float64]
    value: int
    mask: NDArray[np.bool_] | None = None


def read_shapes(records: Sequence[Any]) -> list[Shape]:
    """Shapes to paint, in file order; those labelled ``flag`` are skipped unchecked.

    Raises:
        ImageFailure: a key is missing or has the wrong type, a shape's type does not mark a region, a coordinate is not finite
            or beyond MAX_COORDINATE_PX, or a mask does not have the size of its box.
    """
    shapes = []
    for number, record in enumerate(records):
        try:
            label = text(field(record, "label", str), "'label'")
            if label.lower() != "flag":
                shapes.append(_shape(record, label))
        except ImageFailure as error:
            raise ImageFailure(f"shape {number}: {error}") from error
    return shapes


def raster(shape: Shape, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The pixels of a shape, bool [H, W]."""
    if shape.kind == "polygon":
        canvas = np.zeros((height_px, width_px), np.uint8)
        corners = [shape.points.astype(np.int32)]  # cut towards zero
        cv2.polylines(canvas, corners, True, 1, 1)
        cv2.fillPoly(canvas, corners, 1)
        return canvas.view(np.bool_)
    if shape.mask is not None:
        return _pasted(shape.mask, shape.points, height_px, width_px)
    if shape.kind == "circle":  # given by its centre and a point on its rim
        (x, y), radius = shape.points[0], math.dist(*shape.points)
        rows, columns = np.ogrid[:height_px, :width_px]
        return np.asarray((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)
    image = Image.new("L", (width_px, height_px))
    _draw(ImageDraw.Draw(image), shape.kind, [(x, y) for x, y in shape.points.tolist()])
    return np.array(image, bool)


def _draw(draw: ImageDraw.ImageDraw, kind: str, xy: list[tuple[float, float]]) -> None:
    if kind == "rectangle":
        (x0, y0), (x1, y1) = xy
        draw.rectangle(((min(x0, x1), min(y0, y1)), (max(x0, x1), max(y0, y1))), fill=1, outline=1)
    elif kind == "oriented_rectangle":
        draw.polygon(xy, fill=1, outline=1)
    elif kind in ("line", "linestrip"):
        draw.line(xy, fill=1, width=_LINE_PX)
    else:  # a point
        (x, y), radius = xy[0], _POINT_RADIUS_PX
        draw.ellipse(((x - radius, y - radius), (x + radius, y + radius)), fill=1, outline=1)


def _pasted(mask: NDArray[np.bool_], points: NDArray[np.float64], height_px: int, width_px: int) -> NDArray[np.bool_]:
    """A mask at its place; what lies outside the image is cut off."""
    canvas = np.zeros((height_px, width_px), bool)
    x, y = (int(value) for value in points[0].round())
    top, left = max(0, y), max(0, x)
    part = mask[top - y : max(0, height_px - y), left - x : max(0, width_px - x)]
    canvas[top : top + part.shape[0], left : left + part.shape[1]] = part
    return canvas


def _shape(record: Mapping[str, Any], label: str) -> Shape:
    kind = record.get("shape_type")
    kind = "polygon" if kind is None else kind
    if not isinstance(kind, str) or kind not in _POINTS:
        raise ImageFailure(f"'shape_type' is {reprlib.repr(kind)}, expected one of {', '.join(_POINTS)}")
    points = _points(field(record, "points", list))
    least, most = _POINTS[kind]
    if len(points) < least or (most is not None and len(points) > most):
        raise ImageFailure(f"a {kind} with {len(points)} points, expected {least}{'' if least == most else ' or more'}")
    value = IGNORE if "ignore" in label.lower() else TARGET
    return Shape(label, kind, points, value, _mask(field(record, "mask", str), points) if kind == "mask" else None)


def _points(points: list[Any]) -> NDArray[np.float64]:
    """Points as float64 [P, 2], P >= 1."""
    if not points:
        raise ImageFailure("'points' is empty, expected [[x, y], ...]")
    for i, point in enumerate(points):
        if (
            not isinstance(point, list)
            or len(point) != 2
            or not all(isinstance(c, int | float) and not isinstance(c, bool) for c in point)
        ):
            raise ImageFailure(f"point {i} is {reprlib.repr(point)}, expected [x, y]")
        # The comparison is also false for NaN, and exact for an integer of any size.
        if not all(-MAX_COORDINATE_PX <= c <= MAX_COORDINATE_PX for c in point):
            raise ImageFailure(
                f"point {i} is {reprlib.repr(point)}, expected numbers between "
                f"-{MAX_COORDINATE_PX} and {MAX_COORDINATE_PX} px"
            )
    return np.array(points, np.float64)


def _mask(encoded: str, points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A mask from a PNG in base64, bool [h, w], with the size of its box; both corners of the box belong to it."""
    width, height = (int(side) for side in points[1].round() - points[0].round() + 1)
    exact = bool((points == np.trunc(points)).all())  # the corners of a mask that was moved are rounded separately
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded, validate=True)), formats=("PNG",)) as image:
            found = image.size
            if max(abs(found[0] - width), abs(found[1] - height)) > (0 if exact else 1):
                raise ImageFailure(f"'mask' has {found[0]} x {found[1]} px, its points span {width} x {height} px")
            mask = np.asarray(image)
    except ImageFailure:
        raise
    except DECODE_ERRORS as error:  # includes what base64 raises
        raise ImageFailure("'mask' is not a PNG in base64") from error
    if mask.ndim != 2:
        raise ImageFailure(f"'mask' is a picture with {mask.shape[2]} channels, expected one")
    return mask.astype(bool)
