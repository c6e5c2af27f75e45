"""Decoded pixels as the pipeline and every reader see them. Needs Pillow, which is imported when something is decoded."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreError

if TYPE_CHECKING:
    from PIL import Image

_ORIENTATION = 0x0112  # EXIF tag


def pillow(name: str) -> Any:
    """A module of Pillow, such as ``Image``. Raises StoreError where Pillow is not installed."""
    try:
        return importlib.import_module(f"PIL.{name}")
    except ModuleNotFoundError as error:
        raise StoreError("pictures need Pillow; type: pip install pillow") from error


def upright_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A loaded Pillow image as RGB, uint8 [H, W, 3], its EXIF orientation applied.

    Alpha is dropped, gray repeated, of 16 bits the high 8 are kept, CMYK becomes RGB without a colour profile. Only the
    EXIF segment turns an image (PNG: ``eXIf``); XMP does not, nor does an EXIF segment that cannot be read.
    """
    return oriented(_rgb(image), orientation_of(image))


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8, that :func:`upright_rgb` applies.

    The image has to be loaded: in a PNG, EXIF may come after the pixels. 1 for a TIFF, which Pillow turns itself.
    """
    return _orientation(image.info.get("exif", b""))


def _rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    if image.mode.startswith("I"):  # 16-bit gray, which convert("RGB") would clip at 255
        high = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high[:, :, None], 3, axis=2)
    image.info.pop("transparency", None)  # else Pillow warns that a palette's transparency is lost: it should be
    return np.array(image.convert("RGB"))


def _orientation(exif: bytes) -> int:
    """EXIF orientation, 1 to 8; 1 if it is missing or cannot be read, as in ``cv2.imread``."""
    import struct

    from PIL import Image

    tags = Image.Exif()
    try:
        tags.load(exif)
        value = tags.get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, AttributeError, struct.error):
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def oriented(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Turn stored pixels (or a mask) [H, W, ...] upright: 5 to 8 swap the axes, then rows and columns are mirrored."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
