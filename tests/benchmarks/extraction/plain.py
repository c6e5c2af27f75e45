"""Masks processed as in the published code: one AlphaCLIP forward per mask, and pooling of upsampled features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from stages.encoders.pooling import UPSAMPLING


def plain_alphaclip(model: Any, image: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """All blocks for all tokens, as the README of SunzeY/AlphaCLIP runs it: image [1, 3, S, S], alpha [1, 1, S, S]."""
    patches = (model.conv1(image) + model.conv1_alpha(alpha)).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.class_embedding.expand(1, 1, -1), patches], dim=1) + model.positional_embedding
    tokens = model.transformer(model.ln_pre(tokens))
    found: torch.Tensor = model.ln_post(tokens[:, 0]) @ model.proj
    return found


def upsampled_pooling(features: torch.Tensor, masks: Sequence[np.ndarray], image_px: tuple[int, ...]) -> np.ndarray:
    """Means [K, C] of features [C, grid, grid] under masks bool [H, W], as LLM-Seg makes them (wangjunchi/LLMSeg)."""
    side, square = UPSAMPLING * features.shape[-1], max(image_px)
    large = F.interpolate(features[None], (side, side), mode="bilinear", align_corners=False)[0]
    stacked = torch.stack([torch.from_numpy(mask) for mask in masks]).to(features.device).float()[:, None]
    padded = F.pad(stacked, (0, square - image_px[1], 0, square - image_px[0]))
    small = F.interpolate(padded, (side, side), mode="bilinear", antialias=True, align_corners=False)[:, 0]
    sums = small.flatten(1) @ large.flatten(1).T
    found: np.ndarray = (sums / (small.sum((1, 2))[:, None] + 1e-8)).cpu().numpy()
    return found
