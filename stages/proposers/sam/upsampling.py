"""SAM's two bilinear steps, from low-resolution logits to an image's pixels, as one weighted sum of few logits per axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

TAPS = 3
"""``Sam.postprocess_masks`` goes through a larger grid, so each output depends on at most three logits per axis."""


@dataclass(frozen=True)
class Axis:
    """One axis: ``out[o] = sum_k weights[o, k] * low[base[o] + k]``.

    base int64 [n], weights float32 [n, TAPS]. Outputs of a cell share a base: cell c has the outputs from ``starts[c]`` to
    ``starts[c + 1]`` and uses ``taps[c]`` logits; int64 [cells + 1] and [cells].
    """

    base: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]
    taps: npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def axis(low: int, square: int, used: int, out: int) -> Axis:
    """The steps low -> square, cut to the first ``used``, -> out; all sizes in their own px.

    The weights are taken from ``F.interpolate`` itself, so they are rounded as in the official code.
    """
    matrix = _matrix(used, out) @ _matrix(low, square)[:used]
    there = matrix != 0
    base = np.minimum(there.argmax(axis=1), low - TAPS)
    columns = base[:, None] + np.arange(TAPS)
    weights = np.take_along_axis(matrix, columns, axis=1)
    starts = np.flatnonzero(np.diff(base, prepend=-1, append=low))
    taps = np.array([1 + np.flatnonzero(weights[a:b].any(axis=0))[-1] for a, b in pairwise(starts)])
    return Axis(base, weights.astype(np.float32), starts, taps)


def _matrix(size_in: int, size_out: int) -> npt.NDArray[np.float64]:
    """The matrix [size_out, size_in] of ``F.interpolate(mode="bilinear")`` along one axis."""
    each = torch.eye(size_in)[None, :, :, None]
    found = F.interpolate(each, (size_out, 1), mode="bilinear", align_corners=False)[0, :, :, 0]
    return found.T.double().numpy()
