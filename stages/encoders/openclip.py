"""OpenCLIP ConvNeXt dense features averaged under each mask (the "CLIP ConvNeXt-L" ablation of LLM-Seg)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.timm_model import TimmModel

from stages.encoders import Encoder, EncoderInput, Model, Vectors
from stages.encoders.common import load_into, load_state, once_an_image
from stages.encoders.pooling import mask_weights, pool
from stages.transforms import CLIP_STATS, ImageArray, padded_input

STRIDE_PX = 32


def make_model(encoder: Encoder) -> TimmModel:
    """The visual tower of an open_clip model with a timm ConvNeXt trunk, randomly initialised."""
    config = open_clip.get_model_config(encoder.options["model"])
    vision = {k.removeprefix("timm_"): v for k, v in config["vision_cfg"].items() if k != "timm_model_pretrained"}
    return TimmModel(embed_dim=config["embed_dim"], **vision)


def build(encoder: Encoder, paths: Mapping[str, Path], device: str, masks_per_batch: int) -> Model:
    """Returns the function that embeds the masks of images; an empty mask gives a zero vector.

    Features are the trunk's last map, stride 32, before its final layer norm, which follows the pooling in CLIP
    too. Cells of padding alone do not count.
    """
    path = paths[encoder.weights[0]]
    state = {k.removeprefix("visual."): v for k, v in load_state(path).items() if k.startswith("visual.")}
    trunk: Any = load_into(lambda: make_model(encoder), state, str(path), device).trunk
    side = encoder.options["input_px"]

    @once_an_image
    def grid(image: ImageArray) -> torch.Tensor:
        features: torch.Tensor = trunk.forward_features(padded_input(image, side, STRIDE_PX, CLIP_STATS, device))[0]
        return features

    @torch.inference_mode()
    def embed(items: Sequence[EncoderInput]) -> list[Vectors]:
        cells = side // STRIDE_PX
        return [pool(grid(image), mask_weights(masks, image.shape[:2], cells, device)) for image, masks, _ in items]

    return embed
