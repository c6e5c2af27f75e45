"""Percentile bootstrap (Efron) over images: the targets of one image are not independent, so they are drawn together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
_DRAWS = 1 << 22
"""Images drawn at a time, which bounds the memory."""


def replicates(numerator: F64, denominator: F64, image_index: NDArray[np.int64], resamples: int, seed: int) -> F64:
    """Ratios of sums in resamples of the images, drawn with replacement.

    Serves means (denominator 1) and ratios such as cIoU (intersections over unions) alike. All metrics see the same
    resamples, and so do all systems with the same images and seed: differences of replicates are paired.

    Args:
        numerator, denominator: [n] or [n, M], a row per sample.
        image_index: [n], the image of each sample.

    Returns:
        [resamples] or [resamples, M]; NaN where a resample has a denominator of 0.
    """
    images, member = np.unique(image_index, return_inverse=True)
    sums = [_sums(part.astype(np.float64), member, len(images)) for part in (numerator, denominator)]
    out = np.full((resamples, *numerator.shape[1:]), np.nan)
    if not len(images):
        return out
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWS // len(images))
    for first in range(0, resamples, step):
        rows = min(step, resamples - first)
        drawn = rng.integers(len(images), size=(rows, len(images)))
        drawn += np.arange(rows)[:, None] * len(images)
        times = np.bincount(drawn.ravel(), minlength=rows * len(images)).reshape(rows, len(images))
        above, below = (times.astype(np.float64) @ part for part in sums)
        np.divide(above, below, out=out[first : first + rows], where=below != 0)
    return out


def interval(values: F64, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of replicates [resamples], without those that are NaN; NaN where all are."""
    there = values[~np.isnan(values)]
    if not there.size:
        return float("nan"), float("nan")
    low, high = np.quantile(there, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _sums(part: F64, member: NDArray[np.intp], images: int) -> F64:
    """Sums of the samples of each image."""
    sums = np.zeros((images, *part.shape[1:]))
    np.add.at(sums, member, part)
    return sums
