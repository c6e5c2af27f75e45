"""Counts, boxes and pixels of masks from their low-resolution logits, on the CPU.

A pixel's logit is a weighted mean of at most three by three low-resolution logits, and all pixels of one cell share them
(:mod:`stages.proposers.sam.upsampling`). If these all lie on one side of a threshold, so does the whole cell, and only the few
cells that a mask's border crosses are computed pixel by pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.internals import compiled
from stages.proposers.sam.upsampling import Axis

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
GUARD = np.float32(1e-3)
"""Cells with logits closer to a threshold are computed by pixel, as rounding can move a mean out of the range of its parts."""

_NONE_SET, _ALL_SET = np.uint64(0), np.uint64(0x0101010101010101)
"""Eight pixels at a time."""


def measure(logits: F32, rows: Axis, columns: Axis, thresholds: tuple[float, float, float]) -> tuple[I64, I64]:
    """Pixels above the outer two of three thresholds, and the box of those above the middle one.

    Args:
        logits: float32 [n, L, L], low resolution.
        thresholds: rising.

    Returns:
        int64 [n, 2], pixels above the lowest and above the highest; and int64 [n, 4], XYXY of the first and last pixel
        above the middle one, zeros if there is no cell.
    """
    counts, boxes = np.zeros((len(logits), 2), np.int64), np.zeros((len(logits), 4), np.int64)
    low, mid, high = (np.float32(value) for value in thresholds)
    _measure(logits, *_parts(rows), *_parts(columns), low, mid, high, counts, boxes)
    return counts, boxes


def paint(logits: F32, rows: Axis, columns: Axis, threshold: float, out: npt.NDArray[np.uint8]) -> None:
    """Set ``out`` [width, height] to 1 where the logits [L, L] are above the threshold; it must be zero before."""
    _paint(logits, *_parts(rows), *_parts(columns), np.float32(threshold), out)


def edges(pixels: npt.NDArray[np.uint8], size: int) -> I64:
    """Places, rising, where the value changes among the first ``size`` of uint8 [n]; includes 0 if the first is set.

    n is a multiple of 8, at least ``size``.
    """
    found: I64 = _edges(pixels, pixels.view(np.uint64), size)
    return found


def _parts(axis: Axis) -> tuple[Any, ...]:
    return axis.base, axis.weights, axis.starts, axis.taps


@compiled
def _range_of_rows(logits, first, taps, lows, highs):  # type: ignore[no-untyped-def]
    """Smallest and largest value of some rows, column by column; and the largest of all."""
    top = np.float32(-np.inf)
    for j in range(logits.shape[1]):
        lows[j] = highs[j] = logits[first, j]
    for k in range(1, taps):
        for j in range(logits.shape[1]):
            lows[j] = min(lows[j], logits[first + k, j])
            highs[j] = max(highs[j], logits[first + k, j])
    for j in range(logits.shape[1]):
        top = max(top, highs[j])
    return top


@compiled
def _range_of_cell(lows, highs, first, taps):  # type: ignore[no-untyped-def]
    """Smallest and largest logit that a cell uses."""
    least, most = lows[first], highs[first]
    for k in range(first + 1, first + taps):
        least, most = min(least, lows[k]), max(most, highs[k])
    return least, most


@compiled
def _between(logits, y, x, row_base, row_weights, column_base, column_weights):  # type: ignore[no-untyped-def]
    """The logit of one pixel."""
    r, c = row_base[y], column_base[x]
    value = np.float32(0)
    for k in range(3):
        across = (
            column_weights[x, 0] * logits[r + k, c]
            + column_weights[x, 1] * logits[r + k, c + 1]
            + column_weights[x, 2] * logits[r + k, c + 2]
        )
        value += row_weights[y, k] * across
    return value


@compiled
def _measure(  # type: ignore[no-untyped-def]
    logits, row_base, row_weights, row_starts, row_taps, column_base, column_weights, column_starts, column_taps,
    low, mid, high, counts, boxes,
):  # fmt: skip
    lows, highs = np.empty(logits.shape[2], np.float32), np.empty(logits.shape[2], np.float32)
    for n in range(len(logits)):
        above_low, above_high = 0, 0
        left, top, right, bottom = column_starts[-1], row_starts[-1], -1, -1
        for r in range(len(row_taps)):
            y0, y1 = row_starts[r], row_starts[r + 1]
            if _range_of_rows(logits[n], row_base[y0], row_taps[r], lows, highs) < low - GUARD:
                continue
            for c in range(len(column_taps)):
                x0, x1 = column_starts[c], column_starts[c + 1]
                least, most = _range_of_cell(lows, highs, column_base[x0], column_taps[c])
                if most < low - GUARD:
                    continue
                if least > high + GUARD:
                    above_low += (y1 - y0) * (x1 - x0)
                    above_high += (y1 - y0) * (x1 - x0)
                    left, right = min(left, x0), max(right, x1 - 1)
                    top, bottom = min(top, y0), max(bottom, y1 - 1)
                    continue
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        value = _between(logits[n], y, x, row_base, row_weights, column_base, column_weights)
                        above_low += value > low
                        above_high += value > high
                        if value > mid:
                            left, right = min(left, x), max(right, x)
                            top, bottom = min(top, y), max(bottom, y)
        counts[n, 0], counts[n, 1] = above_low, above_high
        if right >= 0:
            boxes[n] = left, top, right, bottom


@compiled
def _paint(  # type: ignore[no-untyped-def]
    logits, row_base, row_weights, row_starts, row_taps, column_base, column_weights, column_starts, column_taps,
    threshold, out,
):  # fmt: skip
    lows, highs = np.empty(logits.shape[1], np.float32), np.empty(logits.shape[1], np.float32)
    for r in range(len(row_taps)):
        y0, y1 = row_starts[r], row_starts[r + 1]
        if _range_of_rows(logits, row_base[y0], row_taps[r], lows, highs) < threshold - GUARD:
            continue
        for c in range(len(column_taps)):
            x0, x1 = column_starts[c], column_starts[c + 1]
            least, most = _range_of_cell(lows, highs, column_base[x0], column_taps[c])
            if most < threshold - GUARD:
                continue
            whole = least > threshold + GUARD
            for x in range(x0, x1):
                for y in range(y0, y1):
                    out[x, y] = whole or (
                        _between(logits, y, x, row_base, row_weights, column_base, column_weights) > threshold
                    )


@compiled
def _edges(pixels, words, size):  # type: ignore[no-untyped-def]
    found = np.empty(64, np.int64)
    count, now = 0, 0
    for word in range(len(words)):
        if words[word] == (_ALL_SET if now else _NONE_SET):
            continue
        for place in range(8 * word, min(8 * word + 8, size)):
            if pixels[place] != now:
                now = 1 - now
                if count == len(found):
                    longer = np.empty(2 * count, np.int64)
                    longer[:count] = found
                    found = longer
                found[count] = place
                count += 1
    return found[:count].copy()
