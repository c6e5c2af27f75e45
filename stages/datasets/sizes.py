"""Compares the image size that an annotation file states with the actual image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stages.datasets.shapes import Shape
from stages.images import ImageFailure

UPRIGHT = 1
"""EXIF orientation of an image that is not turned."""


def drawn_on(
    document: dict[str, Any],
    shapes: Sequence[Shape],
    height_px: int,
    width_px: int,
    orientation: Callable[[], int],
    keys: tuple[str, str] = ("imageHeight", "imageWidth"),
) -> int:
    """Which frame the shapes were drawn in: the EXIF orientation that must still be applied, or UPRIGHT.

    labelme writes ``imageHeight`` and ``imageWidth``. If they are missing, or are those of the upright image, the frame is the
    upright one. If they are swapped and the image's EXIF orientation (5 to 8) explains it, the frame is the one that the points
    fit into, if they fit into only one of the two.

    Args:
        height_px, width_px: of the upright image.
        keys: of the height and the width in ``document``.
        orientation: returns the EXIF orientation of the image file; called only if the sizes are swapped.

    Raises:
        ImageFailure: the sizes contradict each other, and nothing decides.
    """
    height, width = _stated(document, keys[0], height_px), _stated(document, keys[1], width_px)
    if (height, width) == (height_px, width_px):
        return UPRIGHT
    says = f"the JSON says {width:g} x {height:g} px ({keys[1]}, {keys[0]})"
    sizes = f"{says}, the upright image has {width_px} x {height_px}"
    if (height, width) != (width_px, height_px):
        factors = dict.fromkeys(f"{actual / stated:.4g}" for actual, stated in ((width_px, width), (height_px, height)))
        raise ImageFailure(f"{sizes}: factor {' x '.join(factors)}; its points are of another picture size")
    turn = orientation()
    if turn < 5:
        raise ImageFailure(f"{sizes}, and no EXIF orientation of the image explains the swap")
    upright, stored = _fit(shapes, height_px, width_px), _fit(shapes, width_px, height_px)
    if upright == stored:
        which = "both frames" if upright else "neither frame"
        raise ImageFailure(f"{sizes}, which EXIF orientation {turn} explains, and the points fit {which}")
    return turn if stored else UPRIGHT


def _stated(document: dict[str, Any], key: str, actual: int) -> float:
    value = document.get(key)
    if value is None:
        return actual
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 2**31:
        raise ImageFailure(f"{key!r} is {value!r:.40}, expected a number of px")
    return value


def _fit(shapes: Sequence[Shape], height_px: int, width_px: int) -> bool:
    return all(((shape.points >= 0) & (shape.points <= (width_px, height_px))).all() for shape in shapes)
