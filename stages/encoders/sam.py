"""SAM's image embedding averaged under each mask (the "SAM ViT" ablation of LLM-Seg)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stages.encoders import Encoder, Model
from stages.encoders.common import ImageArray, Mask, Vectors, resize_longest_side
from stages.encoders.pooling import mask_weights, pool
from stages.sam import SAM_MODELS
from stages.sam.model import build_sam


def build(encoder: Encoder, paths: Mapping[str, Path], device: str, masks_per_batch: int) -> Model:
    """Returns ``(image, masks, sam_features) -> float32 [K, dim]``; an empty mask gives a zero vector.

    ``sam_features`` [dim, grid, grid] is used if given; else SAM's encoder, loaded at its first use, makes it. Only
    cells that the resized image touches count: LLM-Seg's frame is the padded square, but padding is no content.
    """
    name, spec = encoder.options["model"], SAM_MODELS[encoder.options["model"]]
    load: Callable[[], Any] = cache(lambda: build_sam(name, paths[spec.weights], device))

    @torch.inference_mode()
    def embed(image: ImageArray, masks: Sequence[Mask], sam_features: npt.NDArray[np.float16] | None) -> Vectors:
        resized = resize_longest_side(image, spec.image_size)
        if sam_features is None:
            pixels = torch.tensor(resized, device=device).permute(2, 0, 1)[None].float()
            features = load().image_encoder(load().preprocess(pixels))[0]
        else:
            features = torch.tensor(sam_features, device=device)
        rows, columns = (math.ceil(side * spec.grid / spec.image_size) for side in resized.shape[:2])
        return pool(features[:, :rows, :columns], mask_weights(masks, image.shape[:2], spec.grid, device))

    return embed
