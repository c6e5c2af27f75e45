"""Masked pooling of dense features, LLM-Seg's way, without upsampling the features (wangjunchi/LLMSeg).

LLM-Seg upsamples a feature grid bilinearly by 4 and averages it under each mask, resized to the same frame:
``sum_p w_p (U f)_p / (sum_p w_p + 1e-8)``. Both steps are linear, so the weights can go the other way: with
the adjoint of the upsampling, ``w' = U^T w U`` on the grid, the result is ``sum w' f / (sum w' + 1e-8)``. The
rows of U sum to 1, so ``sum w' = sum w``. 16 times less data, and one matrix product for all masks. The
mask's own resize is linear as well and goes into the same two small matrices, so no padded or resized mask is
ever made. LLM-Seg's 1 x 1 convolution commutes with all of this: raw features are pooled and the layer stays
trainable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from stages.encoders.common import Mask, Vectors

UPSAMPLING = 4
"""LLM-Seg pools at 256 x 256 over a 64 x 64 grid."""


def resize_matrix(size_in: int, size_out: int) -> torch.Tensor:
    """Float32 [size_out, size_in]: ``F.interpolate(mode="bilinear", antialias=True)`` along one axis.

    Enlarging, that is plain bilinear (``align_corners=False``).
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
    weights = torch.zeros(len(masks), grid, grid, device=device)
    with torch.autocast(weights.device.type, enabled=False):
        matrix = resize_matrix(grid, UPSAMPLING * grid).T @ resize_matrix(square, UPSAMPLING * grid)
        rows, columns = matrix[:, :height].to(device), matrix[:, :width].T.contiguous().to(device)
        for k in range(len(masks)):
            mask = masks[k]
            if mask.shape != (height, width):
                raise ValueError(f"mask {k} is {mask.shape}, expected the image's {(height, width)}")
            weights[k] = rows @ torch.tensor(mask, device=device).float() @ columns
    return weights


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
