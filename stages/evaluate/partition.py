"""An image cut into regions, each covered by the same masks throughout: the area of a union becomes a sum over few rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from store import rle
from store.errors import RleError


def partition(masks: Sequence[str], height_px: int, width_px: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Cut an image along the borders of K masks.

    Args:
        masks: COCO RLE counts, height_px x width_px.

    Returns:
        Pixels of each region, int64 [R], and which masks cover it, bool [R, K]; no two regions are covered alike.

    Raises:
        store.errors.RleError: counts are malformed or of another size.
    """
    total = height_px * width_px
    runs = [rle.to_runs(counts) for counts in masks]
    if wrong := [int(each.sum()) for each in runs if each.sum() != total]:
        raise RleError(f"counts cover {wrong[0]} pixels, expected {height_px} x {width_px} = {total}")
    # Mask k begins or ends at each border between its runs: there bit k of a column-major walk flips.
    borders = [np.cumsum(each)[:-1] for each in runs]
    place = np.concatenate([np.empty(0, np.int64), *borders])
    mask = np.repeat(np.arange(len(masks)), [len(each) for each in borders])
    order = np.argsort(place, kind="stable")
    flips = np.zeros((place.size + 1, len(masks) // 64 + 1), np.uint64)
    flips[np.arange(1, place.size + 1), mask[order] // 64] = np.uint64(1) << (mask[order] % 64).astype(np.uint64)
    covered = np.bitwise_xor.accumulate(flips, axis=0)
    pixels = np.diff(np.concatenate([[0], place[order], [total]]))
    covered, pixels = covered[pixels > 0], pixels[pixels > 0]
    by_cover = np.lexsort(covered.T)
    covered, pixels = covered[by_cover], pixels[by_cover]
    firsts = np.flatnonzero(np.concatenate([[True], (covered[1:] != covered[:-1]).any(axis=1)])[: len(pixels)])
    numbers = np.arange(len(masks))
    bits = covered[firsts][:, numbers // 64] >> (numbers % 64).astype(np.uint64) & np.uint64(1)
    return np.add.reduceat(pixels, firsts) if firsts.size else pixels, bits.astype(bool)
