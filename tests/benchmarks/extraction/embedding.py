"""Mask embeddings: ours compared with one forward per mask, and with pooling of upsampled features."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from stages.base import RleMasks
from stages.encoders.pooling import mask_weights, pool
from store import rle
from tests.benchmarks.extraction.everything import seconds
from tests.benchmarks.extraction.plain import plain_alphaclip, upsampled_pooling


def masks_of(count: int, height: int, width: int) -> list[np.ndarray]:
    """Ellipses, bool [H, W]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    found = []
    for _ in range(count):
        (cy, cx), (ry, rx) = rng.random(2) * (height, width), (0.05 + 0.2 * rng.random(2)) * (height, width)
        found.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    return found


def pooling(
    count: int, channels: int, grid: int, image_px: tuple[int, int], device: str, repeats: int
) -> dict[str, Any]:
    """Masked pooling: by the adjoint from runs, and from dense masks by upsampling as LLM-Seg does it (wangjunchi/LLMSeg)."""
    features = torch.randn(channels, grid, grid, generator=torch.Generator().manual_seed(0)).to(device)
    masks = masks_of(count, *image_px)
    runs = RleMasks([rle.encode(mask) for mask in masks], *image_px)

    def adjoint() -> np.ndarray:
        return pool(features, mask_weights(runs, image_px, grid, device))

    def upsampled() -> np.ndarray:
        return upsampled_pooling(features, masks, image_px)

    error = float(np.abs(adjoint() - upsampled()).max())
    return {**compare({"ours": adjoint, "reference": upsampled}, repeats), "largest difference": error}


def alphaclip(
    options: dict[str, Any], dim: int, count: int, device: str, repeats: int, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """AlphaCLIP on random weights: our batches, and one forward per mask through open_clip's own modules, both with autocast."""
    from stages.encoders.clip_vit import make_alphaclip

    torch.manual_seed(0)
    model = make_alphaclip(options, dim).eval().to(device)
    side = options["input_px"]
    image = torch.randn(1, 3, side, side, device=device)
    alphas = torch.randn(count, 1, side, side, device=device)

    mixed = torch.autocast(torch.device(device).type, dtype, enabled=dtype != torch.float32)

    @torch.inference_mode()
    @mixed
    def batched() -> torch.Tensor:
        return torch.cat([model(image, part, [0] * len(part)) for part in alphas.split(16)])

    @torch.inference_mode()
    @mixed
    def one_by_one() -> torch.Tensor:
        return torch.cat([plain_alphaclip(model, image, alpha[None]) for alpha in alphas])

    similarity = float(F.cosine_similarity(batched().float(), one_by_one().float()).min())
    return {**compare({"ours": batched, "reference": one_by_one}, repeats), "least cosine": similarity}


def compare(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, Any]:
    """Median seconds of each, taking turns."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            times[name].append(seconds(call))
    return {name: statistics.median(values) for name, values in times.items()}
