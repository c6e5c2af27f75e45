"""The frame of a mask whose size is stated: that of the upright image, or that of the stored file before its EXIF turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from stages.datasets.segments import read_counts, read_segmentation
from stages.images import ImageFailure, read_picture
from store import rle
from store.read.pixels import oriented


def turned_by(what: str, size: tuple[Any, Any], upright: tuple[int, int], picture: Path) -> int:
    """The EXIF orientation that must still be applied to something of this size, 5 to 8; 1 if it has the upright image's size.

    Args:
        what: names it in messages, such as ``the label map``.
        size, upright: height and width in px, of it (as stated, which need not be numbers) and of the upright image.
        picture: the image file, which is read where the sizes are swapped.

    Raises:
        ImageFailure: it has another size, or the sizes are swapped and no orientation of the image explains it.
    """
    if size == upright:
        return 1
    sizes = f"{what} has {size[1]!r:.20} x {size[0]!r:.20} px, the upright image {upright[1]} x {upright[0]} px"
    if size != upright[::-1]:
        raise ImageFailure(f"{sizes}; expected one size: it is of another picture, or one of them was scaled")
    turn = read_picture(picture, upright[0] * upright[1]).orientation
    if turn < 5:
        raise ImageFailure(f"{sizes}, and no EXIF orientation of the image explains the swap")
    return turn


def upright_pixels(pixels: NDArray[Any], turn: int) -> NDArray[Any]:
    """Pixels [H, W] in the frame of the upright image. turn: the result of :func:`turned_by`."""
    return pixels if turn == 1 else oriented(pixels, turn)


def upright_counts(segmentation: Any, size: tuple[int, int], turn: int) -> tuple[str, int]:
    """COCO RLE of a ``segmentation`` in the frame of the upright image, and how many of its polygons were dropped.

    Args:
        size: height and width, px, of the frame that it was made in. turn: the result of :func:`turned_by`.

    Raises:
        ImageFailure: as :func:`stages.datasets.segments.read_counts`.
    """
    if turn == 1:
        return read_counts(segmentation, *size)
    region = read_segmentation(segmentation, *size)
    return rle.encode(oriented(region.mask, turn)), region.dropped


def turn_note(what: str, turn: int) -> tuple[str, ...]:
    """The note about something that was turned with its image; empty if it was not turned."""
    return () if turn == 1 else (f"{what} made before EXIF orientation {turn}, turned with the image",)
