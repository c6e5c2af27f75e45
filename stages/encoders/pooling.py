"""Masked pooling of dense features, LLM-Seg's way, without upsampling the features (wangjunchi/LLMSeg).

LLM-Seg upsamples a feature grid bilinearly by 4 and averages it under each mask, resized to the same frame:
``sum_p w_p (U f)_p / (sum_p w_p + 1e-8)``. Both steps are linear, so the weights can be moved to the grid instead: with the
adjoint of the upsampling, ``w' = U^T w U`` on the grid, the result is ``sum w' f / (sum w' + 1e-8)``. The rows of U sum to 1,
so ``sum w' = sum w``. That is 16 times less data, and one matrix product for all masks. The mask's own resize is linear as well
and is merged into the same two small matrices, so no padded or resized mask is ever made; the runs of a mask are enough, so
masks are not even decoded. LLM-Seg's 1 x 1 convolution commutes with all of this: raw features are pooled and the layer stays
trainable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from stages.base import RleMasks
from stages.encoders import Vectors
from stages.encoders.common import Mask
from store import rle

Places = npt.NDArray[np.int64]

UPSAMPLING = 4
"""LLM-Seg pools at 256 x 256 over a 64 x 64 grid."""


def resize_matrix(size_in: int, size_out: int) -> torch.Tensor:
    """Float32 [size_out, size_in]: ``F.interpolate(mode="bilinear", antialias=True)`` along one axis.

    For enlarging, this is plain bilinear (``align_corners=False``).
    """
    scale = size_in / size_out
    centre = (torch.arange(size_out, dtype=torch.float64) + 0.5) * scale
    distance = torch.arange(size_in, dtype=torch.float64) + 0.5 - centre[:, None]
    weights = (1 - distance.abs() / max(scale, 1.0)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()


def mask_weights(masks: Sequence[Mask], size_px: tuple[int, ...], grid: int, device: str) -> torch.Tensor:
    """Float32 [K, grid, grid]: weight of every feature cell for every mask.

    ``masks`` are bool of ``size_px`` (height, width), read one at a time. Each is padded bottom and right to
    a square, resized to (4 grid)^2 (bilinear, antialiased, as LLM-Seg does for ReasonSeg; soft weights) and
    carried to the grid by the adjoint of the bilinear upsampling. An empty mask has zero weights. Raises
    ValueError for a mask of another size.
    """
    height, width = size_px
    square = max(height, width)
    with torch.autocast(torch.device(device).type, enabled=False), torch.autocast("cpu", enabled=False):
        matrix = resize_matrix(grid, UPSAMPLING * grid).T @ resize_matrix(square, UPSAMPLING * grid)
        below = np.zeros((height + 1, grid))
        np.cumsum(matrix[:, :height].T.double().numpy(), axis=0, out=below[1:])
        down = np.zeros((len(masks), width, grid), np.float32)
        for k in range(len(masks)):
            _down(_spans(masks, k, (height, width)), below, down[k])
        return torch.from_numpy(down).to(device).mT @ matrix[:, :width].T.contiguous().to(device)


def _spans(masks: Sequence[Mask], k: int, size_px: tuple[int, int]) -> tuple[Places, Places]:
    """First place and place after the last, column by column, of the runs of mask ``k``; masks given as runs are not decoded."""
    found = (masks.height_px, masks.width_px) if isinstance(masks, RleMasks) else masks[k].shape
    if found != size_px:
        raise ValueError(f"mask {k} is {found}, expected the image's {size_px}")
    counts = masks.counts[k] if isinstance(masks, RleMasks) else rle.encode(masks[k])
    ends = np.cumsum(rle.to_runs(counts))
    return ends[:-1:2], ends[1::2]


def _down(spans: tuple[Places, Places], below: npt.NDArray[np.float64], out: Vectors) -> None:
    """Sum the weights of a mask's pixels, column by column, into ``out`` [width, grid], which is zero before.

    ``below[y]`` is the sum of the weights of the y uppermost rows, so a run within a column is the difference of two of them.
    A run that extends over several columns is whole columns minus the part above its start, plus the part above its end.
    """
    starts, ends = spans
    if not len(starts):
        return
    height = len(below) - 1
    first, last = starts // height, ends // height  # an end at a column's bottom counts as the top of the next column
    for column, sums in ((first, -below[starts - first * height]), (last, below[ends - last * height])):
        inside = column < len(out)  # no run begins after the last column, and the sum above its top is 0
        at = np.flatnonzero(np.diff(column[inside], prepend=-1))
        if len(at):
            out[column[at]] += sums[inside] if len(at) == inside.sum() else np.add.reduceat(sums[inside], at)
    further = first < last
    whole = np.bincount(first[further], minlength=len(out) + 1) - np.bincount(last[further], minlength=len(out) + 1)
    through = np.flatnonzero(np.cumsum(whole)[: len(out)])
    out[through] += below[-1]


def pool(features: torch.Tensor, weights: torch.Tensor) -> Vectors:
    """Weighted means of ``features`` [C, h, w] under ``weights`` [K, grid, grid]: float32 [K, C].

    h and w may be smaller than the grid: then only the cells that exist count, in the sum of the weights too.
    Zero weights give a zero vector.
    """
    channels, height, width = features.shape
    valid = weights[:, :height, :width].flatten(1)
    with torch.autocast(features.device.type, enabled=False):
        sums = valid @ features.float().reshape(channels, height * width).T
    pooled: Vectors = (sums / (valid.sum(1, keepdim=True) + 1e-8)).cpu().numpy()
    return pooled
