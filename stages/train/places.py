"""Where masks are and how large, as numbers next to their vectors. ELISA and LLM-Seg can use them; neither release has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

GEOMETRY = 20


def place_features(bbox: Tensor, size_px: Tensor) -> Tensor:
    """Where masks are and how large, of ``bbox`` float [..., 4] (XYWH px) and ``size_px`` float [..., 2] (height, width).

    AlphaCLIP's vector of a mask says what it shows and almost nothing about where (docs/results.md), so questions about places
    cannot be answered from it. Returns float [..., 20]: middle, width and height as fractions of the image, and sine and cosine
    of these at two frequencies.
    """
    x, y, w, h = bbox.unbind(-1)
    height, width = size_px.unbind(-1)
    parts = torch.stack([(x + w / 2) / width, (y + h / 2) / height, w / width, h / height], dim=-1)
    waves = [function(turn * torch.pi * parts) for turn in (1, 2) for function in (torch.sin, torch.cos)]
    return torch.cat([2 * parts - 1, *waves], dim=-1)


def with_places(vectors: Tensor, boxes: Sequence[Any], sizes_px: Sequence[tuple[int, int]]) -> Tensor:
    """Mask vectors float [B, K, D] followed by the :func:`place_features` of the masks: float32 [B, K, D + 20].

    Args:
        boxes: for each sample the XYWH px of its masks, at most K; the rest is padding.
        sizes_px: height and width of each image.
    """
    filled = torch.zeros(*vectors.shape[:2], 4)
    for number, found in enumerate(boxes):
        filled[number, : len(found)] = torch.as_tensor(found, dtype=torch.float32).reshape(-1, 4)
    sizes = torch.tensor(sizes_px, dtype=torch.float32)[:, None]
    return torch.cat([vectors.float(), place_features(filled, sizes)], dim=-1)
