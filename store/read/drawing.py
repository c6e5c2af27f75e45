"""Draws the masks of an image as coloured, numbered outlines on its pixels, with Pillow, which is imported when it is needed."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .. import rle
from ..outlines import colour_of, loops
from .open_columns import OpenColumns
from .options import index_of, whole
from .pixels import pillow

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SIDE_PX = 1024
"""Longest side of a picture, unless another one is asked for."""
MOST_ENLARGED = 4
"""A small image is drawn at most this many times as large, so that numbers can be read."""
MOST_MASKS = 64
"""This many masks are drawn, the first ones, unless numbers are given."""
LEAST_NUMBERED_PX = 200
"""Numbers are written into pictures whose longest side has this many pixels or more."""
_NO_PIXELS = (119, 119, 119)
_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def draw(
    columns: OpenColumns,
    image_index: int,
    column: str | None,
    numbers: Sequence[int] | None = None,
    side_px: int = SIDE_PX,
) -> Image.Image:
    """An image of a split with outlines of masks; on gray where the split was opened without ``images_root``.

    Args:
        column: ``masks``, ``masks/<proposer>``, ``instances`` or ``targets`` (the answers); None draws no masks.
        numbers: which of its masks, as they are numbered in the column; None: the first :data:`MOST_MASKS`.
        side_px: longest side of the picture.

    Raises:
        StoreError: Pillow or the image's file is not there, or the file is not the one that was indexed.
        FailedImageError: the image failed, or has no masks in the column because it failed there.
        ValueError, IndexError: the column holds no masks, or not that many.
    """
    row = columns.image_row(image_index)
    counts = [] if column is None else masks_of(columns, image_index, column)
    if numbers is None:
        numbers = range(min(len(counts), MOST_MASKS))
    chosen = [index_of(number, "numbers of masks") for number in numbers]
    for number in chosen:
        if not 0 <= number < len(counts):
            raise IndexError(f"{column}: mask {number} is outside 0..{len(counts) - 1} of image {image_index}")
    pixels = None if columns.pictures is None else columns.pixels(image_index)
    size = row["height_px"], row["width_px"]
    return _drawn(pixels, size, {number: counts[number] for number in chosen}, whole("side_px", side_px, least=1))


def masks_of(columns: OpenColumns, image_index: int, column: str) -> list[str]:
    """COCO RLE counts of an image's masks in a table: proposals, instances, or the answers of targets.

    Raises:
        FailedImageError: the image has none because it failed.
        ValueError: the column is not such a table.
    """
    source = columns.column(column)
    if source.meta.array is not None or source.meta.column.split("/")[0] not in ("masks", "instances", "targets"):
        raise ValueError(f"{column} has no masks to draw, expected masks, masks/<proposer>, instances or targets")
    source.require_ok(image_index)
    rows = source.table_rows(image_index)
    if source.meta.column == "targets":
        return [row["segmentation"] for row in rows]
    return list(rows[0]["segmentation"])


def jpeg_uri(picture: Image.Image) -> str:
    """The picture as an address that holds all of its bytes."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def _drawn(
    pixels: npt.NDArray[np.uint8] | None, size: tuple[int, int], masks: Mapping[int, str], side_px: int
) -> Image.Image:
    """Masks, each with its number, on an image of ``size`` (H, W) px."""
    image = pillow("Image")
    scale = min(side_px / max(size), MOST_ENLARGED)
    height, width = (max(1, round(side * scale)) for side in size)
    if pixels is None:
        picture: Image.Image = image.new("RGB", (width, height), _NO_PIXELS)
    else:
        picture = image.fromarray(pixels).resize((width, height), image.Resampling.BICUBIC, reducing_gap=3.0)
    pen = pillow("ImageDraw").Draw(picture)
    for number, counts in masks.items():
        rle.union([counts], *size)  # raises for another size: the border could take any amount of memory
        _outline(pen, counts, size[0], scale, colour_of(number), max(1, round(max(height, width) / 400)))
    if max(height, width) >= LEAST_NUMBERED_PX:
        pen.font = _font(max(height, width) // 70)
        for number, counts in masks.items():
            if (place := _inside(counts, size[0])) is not None:
                _write(pen, picture.size, str(number), (place[0] * scale, place[1] * scale), colour_of(number))
    return picture


def _outline(
    pen: ImageDraw.ImageDraw, counts: str, height_px: int, scale: float, colour: tuple[int, int, int], line_px: int
) -> None:
    """A coloured line on a black one, which is seen on any background."""
    lines = []
    for corners in loops(counts, height_px):
        points = np.rint(np.concatenate([corners, corners[:1]]) * scale).astype(np.int64)
        moved = np.r_[True, (points[1:-1] != points[:-2]).any(axis=1), True]
        lines.append([tuple(point) for point in points[moved].tolist()])
    for ink, wide_px in ((_BLACK, line_px + 2), (colour, line_px)):
        for points_px in lines:
            pen.line(points_px, fill=ink, width=wide_px)


def _inside(counts: str, height_px: int) -> tuple[float, float] | None:
    """X and y, px, of the middle of a mask's longest run, which is inside the mask; None for an empty mask.

    Of several runs of this length the middle one is taken, so for a rectangle the result is its centre.
    """
    runs = rle.to_runs(counts)
    if not runs[1::2].any():
        return None
    longest = np.flatnonzero(runs[1::2] == runs[1::2].max())
    run = 1 + 2 * int(longest[len(longest) // 2])
    column, row = divmod(int(runs[:run].sum() + runs[run] // 2), height_px)
    return column + 0.5, row + 0.5


def _font(size_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font; before version 10.1 it has one size."""
    font = pillow("ImageFont")
    try:
        found: ImageFont.ImageFont | ImageFont.FreeTypeFont = font.load_default(max(10, size_px))
    except TypeError:
        found = font.load_default()
    return found


def _write(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    word: str,
    place: tuple[float, float],
    colour: tuple[int, int, int],
) -> None:
    """A word in a box around a place, inside a picture of ``size`` (width, height) px."""
    left, top, right, bottom = pen.textbbox((0, 0), word)
    width, height = right - left, bottom - top
    x = min(max(2.0, place[0] - width / 2), max(2.0, size[0] - width - 3))
    y = min(max(2.0, place[1] - height / 2), max(2.0, size[1] - height - 3))
    pen.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), fill=_BLACK, outline=colour)
    pen.text((x - left, y - top), word, fill=_WHITE)
