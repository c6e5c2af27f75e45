"""OpenCLIP ConvNeXt dense features averaged under each mask (the "CLIP ConvNeXt-L" ablation of LLM-Seg)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import open_clip
import torch
from open_clip.timm_model import TimmModel
from torch import nn

from stages.encoders import Encoder, EncoderInput, Model, TextTower, Vectors
from stages.encoders.clip_text import text_embedder
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

    Features are the trunk's last map, stride 32, before its final layer norm, which follows the pooling in CLIP too. Cells that
    contain only padding do not count.
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


def make_heads(encoder: Encoder) -> nn.ModuleDict:
    """What follows the trunk in CLIP, randomly initialised: its last layer norm, and the projection into the space of texts."""
    tower = make_model(encoder)
    return nn.ModuleDict({"trunk": nn.ModuleDict({"head": tower.trunk.head}), "head": tower.head})


def build_text(encoder: Encoder, path: Path, device: str) -> TextTower:
    """The text tower, and CLIP's own head for masks: a mean over a mask replaces the mean over the image.

    This is the classifier of masks of FC-CLIP (bytedance/fc-clip, arXiv 2308.02487), with the same trunk.
    """
    state = load_state(path)
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    own = {key: value for key, value in visual.items() if key.startswith(("head.", "trunk.head."))}
    heads: Any = load_into(lambda: make_heads(encoder), own, str(path), device)
    size = open_clip.get_model_config(encoder.options["model"])["embed_dim"]

    @torch.inference_mode()
    def project(vectors: npt.NDArray[Any]) -> Vectors:
        pooled = torch.from_numpy(vectors.astype(np.float32)).to(device)
        found: Vectors = heads.head(heads.trunk.head(pooled[:, :, None, None])).cpu().numpy()
        return np.where(vectors.any(axis=1, keepdims=True), found, np.float32(0))

    return TextTower(text_embedder(state, nn.GELU, size, str(path), device), project)
