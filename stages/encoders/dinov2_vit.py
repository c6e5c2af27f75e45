"""DINOv2 on transformers' modules: official checkpoints, and the publisher's positional embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from stages.encoders.common import State

PATCH_PX = 14
_NAMES = (  # facebookresearch/dinov2, transformers; every name is a whole dotted part of the key
    ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("blocks", "encoder.layer"),
    ("attn.proj", "attention.o_proj"),
    ("ls1.gamma", "layer_scale1.lambda1"),
    ("ls2.gamma", "layer_scale2.lambda1"),
    ("mlp.w3", "mlp.down_proj"),
    ("norm", "layernorm"),
)
_FUSED = (  # one official tensor holds these, its rows in this order
    ("attn.qkv", ("attention.q_proj", "attention.k_proj", "attention.v_proj")),
    ("mlp.w12", ("mlp.gate_proj", "mlp.up_proj")),
)


def interpolate_pos_embed(pos_embed: torch.Tensor, height: int, width: int, registers: bool) -> torch.Tensor:
    """Positional embeddings [1, 1 + M * M, D] for a grid of height x width patches: [1, 1 + height * width,
    D].

    As DinoVisionTransformer.interpolate_pos_encoding (facebookresearch/dinov2): bicubic; the first models
    scale by (n + 0.1) / M without antialiasing, which differs from resizing to n; the register models resize
    to n with antialiasing.
    """
    side = round((pos_embed.shape[1] - 1) ** 0.5)
    if height == width == side:
        return pos_embed
    patches = pos_embed[:, 1:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if registers:
        patches = F.interpolate(patches, size=(height, width), mode="bicubic", antialias=True)
    else:
        factors = [(height + 0.1) / side, (width + 0.1) / side]
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic")
    return torch.cat([pos_embed[:, :1].float(), patches.flatten(2).transpose(1, 2)], dim=1)


class DINOv2(nn.Module):
    """A transformers DINOv2 that gives the grid of normalised patch tokens of any input size."""

    def __init__(self, dim: int, options: Mapping[str, Any]) -> None:
        """``options`` of an ENCODERS line: layers, heads, pretrained_px, registers, swiglu."""
        super().__init__()
        self.registers: int = options.get("registers", 0)
        arguments = {
            "hidden_size": dim,
            "num_hidden_layers": options["layers"],
            "num_attention_heads": options["heads"],
            "image_size": options["pretrained_px"],
            "patch_size": PATCH_PX,
            "use_swiglu_ffn": options.get("swiglu", False),
        }
        if self.registers:
            config = Dinov2WithRegistersConfig(num_register_tokens=self.registers, **arguments)
            self.model: Any = Dinov2WithRegistersModel(config)
        else:
            self.model = Dinov2Model(Dinov2Config(**arguments))
        self.model.embeddings.interpolate_pos_encoding = partial(_pos_encoding, self.model, bool(self.registers))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels float32 [B, 3, 14 h, 14 w] -> ``x_norm_patchtokens`` float32 [B, D, h, w]."""
        height, width = (side // PATCH_PX for side in pixels.shape[-2:])
        tokens = self.model(pixels).last_hidden_state[:, 1 + self.registers :]
        grid: torch.Tensor = tokens.transpose(1, 2).unflatten(2, (height, width))
        return grid


def _pos_encoding(model: Any, registers: bool, _: torch.Tensor, height: int, width: int) -> torch.Tensor:
    pos_embed = model.embeddings.position_embeddings
    return interpolate_pos_embed(pos_embed, height // PATCH_PX, width // PATCH_PX, registers)


def from_official(state: Mapping[str, torch.Tensor]) -> State:
    """Keys of a facebookresearch/dinov2 checkpoint -> :class:`DINOv2`'s; fused tensors are split."""
    mapped: State = {}
    for key, value in state.items():
        name = f".{key}."
        for theirs, ours in _NAMES:
            name = name.replace(f".{theirs}.", f".{ours}.")
        fused, parts = next(((f, p) for f, p in _FUSED if f".{f}." in name), ("", ("",)))
        for part, piece in zip(parts, value.chunk(len(parts)) if fused else [value], strict=True):
            mapped["model" + name.replace(f".{fused}.", f".{part}.").removesuffix(".")] = piece
    return mapped


def to_official(state: Mapping[str, torch.Tensor]) -> State:
    """The inverse of :func:`from_official`."""
    mapped: State = {}
    for key, value in state.items():
        name = f".{key.removeprefix('model.')}."
        for theirs, ours in _NAMES:
            name = name.replace(f".{ours}.", f".{theirs}.")
        for fused, parts in _FUSED:
            if f".{parts[0]}." in name:
                pieces = [state[key.replace(parts[0], part)] for part in parts]
                name, value = name.replace(f".{parts[0]}.", f".{fused}."), torch.cat(pieces)
        if not any(f".{part}." in name for _, parts in _FUSED for part in parts):
            mapped[name.strip(".")] = value
    return mapped
