"""DINOv2 patch tokens averaged under each mask, as LLM-Seg does (wangjunchi/LLMSeg)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from stages.encoders import Encoder, EncoderInput, Model, Vectors
from stages.encoders.common import load_into, load_state, once_an_image
from stages.encoders.dinov2_vit import PATCH_PX, DINOv2, from_official
from stages.encoders.pooling import mask_weights, pool
from stages.transforms import IMAGENET_STATS, ImageArray, padded_input


def make_model(encoder: Encoder) -> DINOv2:
    """The architecture of an ENCODERS line, randomly initialised; ``model(pixels) -> [B, dim, h, w]``."""
    return DINOv2(encoder.dim, encoder.options)


def build(encoder: Encoder, paths: Mapping[str, Path], device: str, masks_per_batch: int) -> Model:
    """Returns the function that embeds the masks of images; an empty mask gives a zero vector.

    Input: ResizeLongestSide, normalised, padded with zeros to a square of ``input_px``; as in LLM-Seg, padded cells take part
    in the pooling if the upsampling reaches them.
    """
    path = paths[encoder.weights[0]]
    model = load_into(lambda: make_model(encoder), from_official(load_state(path)), str(path), device)
    side = encoder.options["input_px"]

    @once_an_image
    def grid(image: ImageArray) -> torch.Tensor:
        features: torch.Tensor = model(padded_input(image, side, side, IMAGENET_STATS, device))[0]
        return features

    @torch.inference_mode()
    def embed(items: Sequence[EncoderInput]) -> list[Vectors]:
        cells = side // PATCH_PX
        return [pool(grid(image), mask_weights(masks, image.shape[:2], cells, device)) for image, masks, _ in items]

    return embed
