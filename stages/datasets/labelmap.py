"""Label maps: PNG files whose pixel values are the numbers of classes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.images import DECODE_ERRORS, ImageFailure, read_file
from store import rle

_MAX_BYTES_PER_PIXEL = 8
_FILE_OVERHEAD = 2**20
_BIT_DEPTH, _COLOUR_TYPE = 24, 25  # their places in a PNG's header
_GRAY, _PALETTE = 0, 3
_COLOUR_TYPES = {_GRAY: "gray", 2: "RGB", _PALETTE: "palette", 4: "gray with alpha", 6: "RGB with alpha"}


def read_label_map(path: Path, upright: tuple[int, int]) -> NDArray[np.uint8]:
    """The values of a label map, uint8 [H, W], as they stand in the file; for a palette PNG, the indices.

    Args:
        upright: height and width, px, of the image; a file that says that it has more pixels is not decoded.

    Raises:
        ImageFailure: there is no such file, it is not a PNG, it does not have one 8-bit value for each pixel, or it has more
            pixels than the image.
    """
    pixels = upright[0] * upright[1]
    data = read_file(path, _MAX_BYTES_PER_PIXEL * pixels + _FILE_OVERHEAD)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            width_px, height_px = image.size
            if width_px * height_px > pixels:
                raise ImageFailure(
                    f"has {width_px} x {height_px} px, the upright image {upright[1]} x {upright[0]} px; expected one size"
                )
            depth, colour = data[_BIT_DEPTH], data[_COLOUR_TYPE]
            # Gray of fewer bits is scaled to 0 to 255 by some readers and not by others.
            if colour not in (_GRAY, _PALETTE) or depth > 8 or (colour == _GRAY and depth < 8):
                raise ImageFailure(
                    f"is a PNG of {depth} bits in {_COLOUR_TYPES.get(colour, 'unknown')}, "
                    "expected one value of 8 bits for each pixel: gray, or a palette whose indices are the labels"
                )
            values = np.asarray(image)
            if values.ndim != 2 or values.dtype != np.uint8:
                raise ImageFailure(
                    f"decodes to values of {values.dtype} {values.shape}, expected 8 bits for each pixel"
                )
            return values
    except ImageFailure:
        raise
    except DECODE_ERRORS as error:
        detail = "not a PNG" if data[:8] != b"\x89PNG\r\n\x1a\n" else error or type(error).__name__
        raise ImageFailure(f"cannot be decoded: {detail}") from error


def regions(labels: NDArray[np.uint8]) -> dict[int, str]:
    """Value -> run lengths of its pixels (:mod:`store.rle`), for the values that occur, in rising order.

    The map is scanned once, not once for each value.
    """
    pixels = labels.ravel(order="F")
    if not pixels.size:
        return {}
    starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
    ends = np.append(starts[1:], pixels.size)
    values = pixels[starts]
    order = np.argsort(values, kind="stable")  # in linear time, as the values have 8 bits
    found, firsts = np.unique(values[order], return_index=True)
    parts = np.split(order, firsts[1:])
    return {
        int(value): _counts(starts[part], ends[part], pixels.size) for value, part in zip(found, parts, strict=True)
    }


def _counts(starts: NDArray[np.int64], ends: NDArray[np.int64], pixels: int) -> str:
    """Run lengths of a mask that is set from each start up to its end."""
    edges = np.stack([starts, ends], axis=1).ravel()
    edges = edges if edges[-1] == pixels else np.append(edges, pixels)
    return rle.from_runs(np.diff(edges, prepend=0))
