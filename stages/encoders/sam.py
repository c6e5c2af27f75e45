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

from stages.encoders import Encoder, EncoderInput, Model, Vectors
from stages.encoders.common import Mask, once_an_image
from stages.encoders.pooling import mask_weights, pool
from stages.proposers.sam import SAM_MODELS
from stages.proposers.sam.encoder import FastEncoder
from stages.proposers.sam.model import build_sam
from stages.transforms import ImageArray, longest_side, resize_longest_side


def build(encoder: Encoder, paths: Mapping[str, Path], device: str, masks_per_batch: int) -> Model:
    """Returns the function that embeds the masks of images; an empty mask gives a zero vector.

    An image's ``sam_features`` [dim, grid, grid] are used if given; else SAM's encoder, loaded at its first use, makes them. Only
    cells that the resized image touches count: LLM-Seg's frame is the padded square, but padding is not content.
    """
    name, spec = encoder.options["model"], SAM_MODELS[encoder.options["model"]]
    load: Callable[[], Any] = cache(lambda: build_sam(name, paths[spec.weights], device))

    @once_an_image
    def grid(image: ImageArray) -> torch.Tensor:
        kind = torch.device(device).type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        pixels = torch.tensor(resize_longest_side(image, spec.image_size), device=device).permute(2, 0, 1)
        return FastEncoder(load().image_encoder, dtype)(load().preprocess(pixels[None].float()))[0]

    def pooled(image: ImageArray, masks: Sequence[Mask], sam_features: npt.NDArray[np.float16] | None) -> Vectors:
        features = grid(image) if sam_features is None else torch.tensor(sam_features, device=device)
        sides = longest_side(image.shape[:2], spec.image_size)
        rows, columns = (math.ceil(side * spec.grid / spec.image_size) for side in sides)
        return pool(features[:, :rows, :columns], mask_weights(masks, image.shape[:2], spec.grid, device))

    @torch.inference_mode()
    def embed(items: Sequence[EncoderInput]) -> list[Vectors]:
        return [pooled(*item) for item in items]

    return embed
