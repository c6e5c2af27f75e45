"""Safe reading of a data set's files: names cannot lead outside, and images are decoded as ``cv2.imread`` decodes them.

A data set may be made of symbolic links (a shared read-only folder, the Hugging Face cache): they are followed.

A failure caused by the input (broken, empty, too large, not an image) is an :class:`ImageFailure` and becomes a row with its
reason. One caused by the machine (permission denied, input/output error) is an ``OSError``.
"""

from __future__ import annotations

import errno
import io
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stages.internals import refuse_decompression_bombs
from stages.jpeg import every_pixel_is_there, without_end_marker
from store.addresses import is_remote
from store.read.folders import Folders
from store.read.pixels import orientation_of, upright_rgb
from store.storage.mounts import storage_of
from store.storage.objects import read_range

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of file names of these formats, in lower case; any case is accepted."""
NO_END_MARKER = "the JPEG lacks its end marker; all pixels are there"
"""The note for a picture that is complete except for its end marker."""

Found = TypeVar("Found")

LOST_LINK = "a link that leads to no file, or to itself"

MAX_PATH_BYTES, MAX_NAME_BYTES = 4000, 255
"""Longest path, and longest name of a file or folder in it, that Linux' file systems take (in all they take 4096 bytes)."""

_FILE_OVERHEAD = 2**26  # bytes of metadata that an image file may have in addition to its pixels
# What Pillow raises on bad bytes. It reads from memory here, so an OSError comes from Pillow and not from the disk.
DECODE_ERRORS = (
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

refuse_decompression_bombs()


class ImageFailure(ValueError):  # noqa: N818
    """A failure that the input determines; ``str(error)`` is the one-line reason stored in the image's row.

    It names no folder of this machine, and the same bytes give the same reason. Line breaks become spaces, and
    what is longer than 300 characters is cut.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(" ".join(reason.split())[:300])


def inside(root: Path | Folders, relative: str) -> Path:
    """Return ``root / relative`` (POSIX), with several folders in the one that has it; ImageFailure as in :func:`check_inside`."""
    check_inside(relative)
    return Path(root.path(relative)) if isinstance(root, Folders) else root / relative


def check_inside(relative: str) -> None:
    """Raise ImageFailure if the text of a relative path (POSIX) leads out of its root: an absolute path, or ``..``.

    Only the text is checked. Links are followed wherever they lead: whoever can place a link in the data set can place the file
    as well, while the text may come from an annotation file that anybody wrote.
    """
    parts = set(relative.split("/"))
    absolute = relative.startswith("/")
    if "\0" in relative or (parts <= {"", "."} and not absolute):
        raise ImageFailure(f"{relative!r} is not a path: it is empty or has a NUL character")
    if is_too_long(relative):
        raise ImageFailure(
            f"{relative!r:.40}... is too long for a path: expected at most {MAX_PATH_BYTES} bytes, and {MAX_NAME_BYTES} in a name"
        )
    if absolute or ".." in parts:
        raise ImageFailure(f"{relative!r} leads outside the data set's folder ('..' or an absolute path)")


def is_too_long(relative: str) -> bool:
    """Whether the path, or a name in it, is too long for any file."""
    data = relative.encode("utf-8", "surrogatepass")
    return len(data) > MAX_PATH_BYTES or max(map(len, data.split(b"/"))) > MAX_NAME_BYTES


def read_file(path: Path, max_bytes: int) -> bytes:
    """Read a regular file; ImageFailure if it is missing, empty, special or larger than ``max_bytes``."""
    if is_remote(path):
        return _read_object(path, max_bytes)
    try:
        info = path.stat()  # before opening, as opening a pipe would wait for a writer
    except OSError as error:
        # If the folder is missing too, the whole data set is (an unmounted disk), and the file is not to blame.
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG) and path.parent.is_dir():
            raise ImageFailure(LOST_LINK if path.is_symlink() else "no such file") from error
        raise
    if not stat.S_ISREG(info.st_mode):
        raise ImageFailure("not a regular file")
    _check_size(info.st_size, max_bytes)
    with path.open("rb") as file:
        return file.read()


def _read_object(path: Path, max_bytes: int) -> bytes:
    try:
        opened = storage_of(path).open(path)
    except FileNotFoundError as error:
        raise ImageFailure("no such file") from error
    _check_size(opened.size, max_bytes)
    data = read_range(opened, 0, opened.size, path)
    if len(data) < opened.size:
        raise OSError(errno.ESTALE, "it was replaced while it was read", str(path))
    return data


def _check_size(size: int, max_bytes: int) -> None:
    if size == 0:
        raise ImageFailure("file is empty (0 bytes)")
    if size > max_bytes:
        raise ImageFailure(f"file has {size} bytes, expected at most {max_bytes}")


def largest_file(max_pixels: int) -> int:
    """The largest size in bytes of a file whose picture has this many pixels."""
    return 8 * max_pixels + _FILE_OVERHEAD  # a pixel has 8 bytes at most: 16-bit RGBA


@dataclass(frozen=True)
class Picture:
    """A decoded image file.

    pixels: RGB, uint8 [H, W, 3], upright. orientation: the EXIF orientation that was applied, 1 to 8. note: what is unusual
    about the file, or None.
    """

    pixels: NDArray[np.uint8]
    orientation: int
    note: str | None = None


def read_image(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """The pixels of :func:`read_picture`."""
    return read_picture(path, max_pixels).pixels


def read_picture(path: Path, max_pixels: int) -> Picture:
    """Decode a JPEG, PNG, WebP, BMP or TIFF file to RGB, uint8 [H, W, 3], its EXIF orientation applied.

    Pixels are those of ``cv2.imread`` and of Pillow's ``convert("RGB")``: alpha is dropped (not blended),
    gray is repeated, palettes are looked up, CMYK becomes RGB without a colour profile, the high 8 of 16 bits are kept, and the
    first of several pictures in a file is taken. Only the EXIF segment (PNG: ``eXIf``; TIFF: its own tag) turns an image; XMP
    does not, nor does an EXIF segment that cannot be read.

    The size is checked in the header, before anything is decoded: more than ``max_pixels`` (or than Pillow's
    own ``Image.MAX_IMAGE_PIXELS``) is an ImageFailure, and so is a file that cannot be decoded to the last row or has 32 bits
    per value, which is not a picture. A JPEG that lacks only its end marker is read, with a note (:mod:`stages.jpeg`).
    """
    return Picture(*_read(path, max_pixels, upright_rgb))


def picture_size(path: Path, max_pixels: int) -> tuple[int, int, str | None]:
    """Height and width, px, and the note of :func:`read_picture`, which finds the same failures and takes twice as long."""
    (height_px, width_px), _, note = _read(path, max_pixels, _upright_size)
    return height_px, width_px, note


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width, px, of a loaded image when it is upright.

    An image whose conversion to RGB may fail is converted, so that it fails here too.
    """
    if image.mode not in ("RGB", "L"):
        height_px, width_px, _ = upright_rgb(image).shape
        return height_px, width_px
    width_px, height_px = image.size
    return (width_px, height_px) if orientation_of(image) >= 5 else (height_px, width_px)


def _read(path: Path, max_pixels: int, what: Callable[[Image.Image], Found]) -> tuple[Found, int, str | None]:
    """``what`` of a loaded image, the orientation and the note of :func:`read_picture`."""
    data = read_file(path, largest_file(max_pixels))
    try:
        return *_decode(data, max_pixels, what), None
    except ImageFailure as failure:
        padded = without_end_marker(data)
        if not padded:
            raise
        try:
            found, values = _decode(padded[0], max_pixels, what), [_as_coded(each) for each in padded]
        except (ImageFailure, *DECODE_ERRORS):
            raise failure from None
        if not every_pixel_is_there(data, values):
            raise
        return *found, NO_END_MARKER


def _as_coded(data: bytes) -> NDArray[np.uint8]:
    """The values of a JPEG's components, uint8 [H, W] or [H, W, C], as conversion to RGB hides differences (under black ink)."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("YCbCr", image.size)  # has an effect only if the mode is RGB
        return np.asarray(image)


def _decode(data: bytes, max_pixels: int, what: Callable[[Image.Image], Found]) -> tuple[Found, int]:
    """``what`` of a loaded image, and its orientation."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width_px, height_px = image.size
            limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
            if width_px * height_px > limit:
                raise ImageFailure(f"{width_px} x {height_px} px are more than the {limit} px allowed")
            turned = image.getexif().get(0x0112) if image.format == "TIFF" else None  # Pillow turns these by itself
            image.load()
            if image.mode in ("I", "F") and image.format == "TIFF":
                raise ImageFailure(f"values of 32 bits (Pillow's mode {image.mode}), expected 8 or 16 bits")
            return what(image), orientation_of(image) if turned is None else turned
    except ImageFailure:
        raise
    except UnidentifiedImageError as error:  # the error's text contains a memory address
        raise ImageFailure(
            f"no readable header of a JPEG, PNG, WebP, BMP or TIFF (the file starts with {data[:8]!r})"
        ) from error
    except DECODE_ERRORS as error:
        raise ImageFailure(f"cannot be decoded: {error or type(error).__name__}") from error
