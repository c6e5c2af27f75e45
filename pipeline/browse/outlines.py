"""Masks as paths of SVG: the exact border of their pixels, straight from the run lengths. No mask is decoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from store import rle

I64 = NDArray[np.int64]

MOST_CORNERS = 100_000
"""A mask whose border turns more often, as noise does, is drawn as its box: no browser shows more."""


def outline(counts: str, height_px: int) -> str:
    """The border of a mask as an SVG path, to be filled with ``fill-rule: evenodd``; an empty mask has an empty path.

    A pixel in row y and column x is the square from (x, y) to (x + 1, y + 1), so the filled path covers exactly the mask's pixels.

    Args:
        counts: COCO RLE counts of the mask.
        height_px: of the image.

    Raises:
        RleError: the counts are malformed.
    """
    x, y = _corners(rle.to_runs(counts), height_px)
    if len(x) > MOST_CORNERS:
        left, top, width, height = rle.bbox(counts, height_px)
        return f"M{left} {top}V{top + height}H{left + width}V{top}Z"
    return "".join(_loop(x[corners], y[corners]) for corners in _loops(x, y))


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
    """The closed lines through all corners, each as numbers of corners, along a column line first.

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


def _loop(x: I64, y: I64) -> str:
    """``M x y V y H x ... Z``: a closed line whose first piece runs along a column line."""
    turns = "".join(f"V{down}H{over}" for down, over in zip(y[1::2].tolist(), [*x[2::2].tolist(), None], strict=True))
    return f"M{x[0]} {y[0]}{turns.removesuffix('HNone')}Z"
