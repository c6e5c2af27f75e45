"""Pictures in the size of a screen, as JPEG. A file is shown only if it has the digest that it was indexed with."""

from __future__ import annotations

import io
import threading

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.browse.kept import Kept
from pipeline.browse.query import WrongError
from pipeline.browse.shelf import Shown
from stages.photographs import GoneError, photograph

SIDES_PX = (320, 1600)
"""Values that may be asked for as the longest side of a picture."""
CACHE_BYTES = 48 << 20
_DECODED_BYTES = 32 << 20
"""Several pieces of one picture are often asked for together, so the last one stays decoded, unless it is larger than this."""
_QUALITY = 85

Box = tuple[int, int, int, int]
"""A box as XYWH, px."""


class Pictures:
    """Makes pictures of a size, and keeps those that were shown last. Threads may share it; two decode at a time."""

    def __init__(self) -> None:
        self._jpegs: Kept[bytes] = Kept(CACHE_BYTES, len)
        self._decoded: Kept[NDArray[np.uint8]] = Kept(_DECODED_BYTES, lambda pixels: pixels.nbytes)
        self._decoding = threading.Semaphore(2)

    def jpeg(self, shown: Shown, image_index: int, side_px: int, box: Box | None = None) -> bytes:
        """A picture, or a part of it, whose longest side is at most ``side_px``.

        Raises:
            GoneError: there is no picture to show; says why.
            WrongError: the size is not one of :data:`SIDES_PX`, or the box lies outside the image.
        """
        if side_px not in SIDES_PX:
            raise WrongError(f"side: found {side_px}, expected {' or '.join(map(str, SIDES_PX))}")
        (row,) = shown.opened.columns["images"].table_rows(image_index)
        if box is not None:
            left, top, width, height = box
            if not (width and height and left + width <= row["width_px"] and top + height <= row["height_px"]):
                raise WrongError(f"box: found {box}, expected a part of {row['width_px']} x {row['height_px']} px")
        key = (shown.holder, row["path"], row["sha256"], side_px, box)
        return self._jpegs.get(key, lambda: self._make(shown, row, side_px, box))

    def _make(self, shown: Shown, row: dict[str, object], side_px: int, box: Box | None) -> bytes:
        with self._decoding:
            pixels = self._decoded.get((shown.holder, row["path"], row["sha256"]), lambda: _read(shown, row))
            if box is not None:
                left, top, width, height = box
                pixels = pixels[top : top + height, left : left + width]
            image = Image.fromarray(pixels)
            image.thumbnail((side_px, side_px), Image.Resampling.BILINEAR, reducing_gap=2.0)
            out = io.BytesIO()
            image.save(out, "JPEG", quality=_QUALITY)
        return out.getvalue()


def _read(shown: Shown, row: dict[str, object]) -> NDArray[np.uint8]:
    data = shown.settings.data.get(shown.holder)
    if data is None:
        raise GoneError(
            f"the data set {shown.holder} is not in section data of the params, which says where its files are"
        )
    return photograph(shown.settings.folders(shown.holder), row, data.max_pixels)
