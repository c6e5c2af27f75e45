"""Outlines of masks: the exact border of their pixels, straight from the run lengths, and their colours. No mask is decoded."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

from . import rle

I64 = NDArray[np.int64]

MOST_CORNERS = 100_000
"""A mask whose border turns more often, as noise does, is drawn as its box: no browser shows more."""
_GOLDEN = 0.618033988749895


def colour_of(number: int) -> tuple[int, int, int]:
    """RGB of a numbered mask: the same number has the same colour in every picture, neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(number * _GOLDEN % 1, 0.85, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def outline(counts: str, height_px: int) -> str:
    """The border of a mask as an SVG path, to be filled with ``fill-rule: evenodd``; an empty mask has an empty path.

    Arguments and errors as for :func:`loops`.
    """
    return "".join(_path(loop) for loop in loops(counts, height_px))


def loops(counts: str, height_px: int) -> list[I64]:
    """The closed lines around the parts of a mask and around their holes: the corners of each, int64 [C, 2], XY px.

    A pixel in row y and column x is the square from (x, y) to (x + 1, y + 1), so what lies inside an odd number of the lines is
    exactly the mask's pixels. The first piece of a line runs along a column.

    Args:
        counts: COCO RLE counts of the mask.
        height_px: of the image.

    Raises:
        RleError: the counts are malformed.
    """
    x, y = _corners(rle.to_runs(counts), height_px)
    if len(x) > MOST_CORNERS:
        left, top, width, height = rle.bbox(counts, height_px)
        right, bottom = left + width, top + height
        return [np.array([(left, top), (left, bottom), (right, bottom), (right, top)], np.int64)]
    corners = np.stack([x, y], axis=1)
    return [corners[numbers] for numbers in _loops(x, y)]


def _corners(runs: I64, height_px: int) -> tuple[I64, I64]:
    """Where the border turns, sorted by column line x, then by row line y; int64 [C] each.

    A border between two columns of pixels begins and ends in the rows where one of the two changes and the other does not.
    """
    ends = np.cumsum(runs)
    is_set = (np.arange(runs.size) % 2 == 1) & (runs > 0)
    first, last = ends[is_set] - runs[is_set], ends[is_set] - 1
    if not first.size:
        return first, first
    begin, end = first // height_px, last // height_px
    # A run that goes on in the next column is cut where the column ends.
    crossed = np.repeat(end, end - begin) - _countdown(end - begin)
    columns = np.concatenate([begin, end, crossed, crossed + 1])
    rows = np.concatenate([first % height_px, last % height_px + 1, np.full(len(crossed), height_px), crossed * 0])
    stride = height_px + 1
    changes = np.concatenate([columns * stride + rows, (columns + 1) * stride + rows])
    place, count = np.unique(changes, return_counts=True)
    place = place[count % 2 == 1]
    return place // stride, place % stride


def _countdown(lengths: I64) -> I64:
    """n, ..., 1 for each n of the lengths, one after the other."""
    total = int(lengths.sum())
    ends = np.repeat(np.cumsum(lengths), lengths)
    return ends - np.arange(total)


def _loops(x: I64, y: I64) -> list[list[int]]:
    """The closed lines through all corners, each as a list of indices of corners, beginning along a column line.

    On each line of the grid the border's pieces lie between the first and second corner, the third and fourth, and so on.
    """
    along_row = np.lexsort((x, y))
    partner = np.empty(len(x), np.int64)
    partner[along_row[0::2]], partner[along_row[1::2]] = along_row[1::2], along_row[0::2]
    across: list[int] = partner.tolist()
    loops, seen = [], bytearray(len(across))
    for start in range(len(across)):
        if seen[start]:
            continue
        loop, at = [], start
        while not seen[at]:
            down = at ^ 1  # sorted by column line: corners 0 and 1 belong together, 2 and 3, ...
            seen[at] = seen[down] = 1
            loop += [at, down]
            at = across[down]
        loops.append(loop)
    return loops


def _path(loop: I64) -> str:
    """``M x y V y H x ... Z``: a line of :func:`loops`."""
    x, y = loop.T.tolist()
    turns = "".join(f"V{down}H{over}" for down, over in zip(y[1::2], [*x[2::2], None], strict=True))
    return f"M{x[0]} {y[0]}{turns.removesuffix('HNone')}Z"
