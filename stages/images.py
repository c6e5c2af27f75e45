"""Files of a data set, read with care: paths stay inside it, images are decoded as ``cv2.imread`` shows them.

What the input determines (broken, empty, too large, not an image) is an :class:`ImageFailure` and becomes
a row with its reason. What the machine determines (permission denied, input/output error) is an ``OSError``.
"""

from __future__ import annotations

import errno
import io
import stat
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from store.pixels import upright_rgb

FORMATS = ("JPEG", "PNG")

_FILE_OVERHEAD = 2**26  # bytes of metadata that an image file may have beside its pixels
# What Pillow raises on bad bytes. It reads from memory here, so an OSError is its own and not the disk's.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)

# Above MAX_IMAGE_PIXELS Pillow only warns, and above twice that it raises: one error for both.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class ImageFailure(ValueError):  # noqa: N818
    """A failure that the input determines; ``str(error)`` is the one-line reason stored in the image's row.

    It names no folder of this machine, and the same bytes give the same reason. Line breaks become spaces, and
    what is longer than 300 characters is cut.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:300])


def inside(root: Path, relative: str) -> Path:
    """Give the real path of ``relative`` (POSIX), or raise ImageFailure where it leads outside ``root``."""
    try:
        path = (root / relative).resolve()
    except (RuntimeError, ValueError) as error:
        raise ImageFailure(f"{relative!r} is not a path: a link to itself, or a NUL character") from error
    if not path.is_relative_to(root.resolve()):
        raise ImageFailure(f"{relative!r} leads outside the data set's folder (a link, '..' or an absolute path)")
    return path


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file; a missing, empty, special or larger one than ``max_bytes`` is an ImageFailure."""
    try:
        info = path.stat()  # before opening: that of a pipe would wait for a writer
    except OSError as error:
        # Where the folder is missing too, the data set is (an unmounted disk): not this file's failure.
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG) and path.parent.is_dir():
            raise ImageFailure("no such file") from error
        raise
    if not stat.S_ISREG(info.st_mode):
        raise ImageFailure("not a regular file")
    if info.st_size == 0:
        raise ImageFailure("file is empty (0 bytes)")
    if info.st_size > max_bytes:
        raise ImageFailure(f"file has {info.st_size} bytes, expected at most {max_bytes}")
    with path.open("rb") as file:
        return file.read()


def read_image(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG file to RGB, uint8 [H, W, 3], its EXIF orientation applied.

    Pixels are those of ``cv2.imread`` and of Pillow's ``convert("RGB")``: alpha is dropped (not blended),
    gray is repeated, palettes are looked up, CMYK becomes RGB without a colour profile, of 16 bits the high
    8 are kept. Only the EXIF segment (PNG: ``eXIf``) turns an image; XMP does not, nor does an EXIF segment
    that cannot be read.

    The size is checked in the header, before anything is decoded: more than ``max_pixels`` (or than Pillow's
    own ``Image.MAX_IMAGE_PIXELS``) is an ImageFailure, and so is whatever cannot be decoded to the last row.
    """
    data = read_file(path, 8 * max_pixels + _FILE_OVERHEAD)  # a pixel has 8 bytes at most: 16-bit RGBA
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width_px, height_px = image.size
            limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
            if width_px * height_px > limit:
                raise ImageFailure(f"{width_px} x {height_px} px are more than the {limit} px allowed")
            image.load()
            pixels = upright_rgb(image)
    except ImageFailure:
        raise
    except UnidentifiedImageError as error:  # its text holds a memory address
        raise ImageFailure(f"no readable JPEG or PNG header (the file starts with {data[:8]!r})") from error
    except _DECODE_ERRORS as error:
        raise ImageFailure(f"cannot be decoded: {error or type(error).__name__}") from error
    return pixels
