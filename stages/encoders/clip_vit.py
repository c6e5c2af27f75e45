"""CLIP's visual tower on open_clip's modules, AlphaCLIP's on top of it, and their official checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from open_clip.transformer import QuickGELU, VisionTransformer
from torch import nn

from stages.checkpoints import reading
from stages.encoders.common import State, check_keys, load_state

_ATTENTION = ("attn.in_proj.", "attn.in_proj_")
_VISUAL = "visual."


class AlphaVisionTransformer(VisionTransformer):  # type: ignore[misc]
    """CLIP's ViT with an alpha channel (Alpha-CLIP, arXiv 2312.03818, section 3.2; SunzeY/AlphaCLIP).

    The alpha map goes through a patch convolution of its own, without bias, whose output is added to the
    image's. With ``conv1_alpha`` at zero this is plain CLIP.
    """

    def __init__(self, patch_size: int, width: int, **kwargs: Any) -> None:
        """Arguments of open_clip's VisionTransformer."""
        super().__init__(patch_size=patch_size, width=width, **kwargs)
        self.conv1_alpha = nn.Conv2d(1, width, patch_size, patch_size, bias=False)

    def forward(self, image: torch.Tensor, alpha: torch.Tensor, of: Sequence[int]) -> torch.Tensor:
        """``ln_post(class token) @ proj`` [B, D] of images float32 [N, 3, S, S] and alpha maps float32 [B, 1, S, S].

        ``of``: for each alpha map the number of its image.
        """
        patches = (self.conv1(image)[list(of)] + self.conv1_alpha(alpha)).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        *blocks, last = self.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        vectors: torch.Tensor = self.ln_post(_class_token_alone(last, tokens)) @ self.proj
        return vectors


def _class_token_alone(block: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The class token [B, C] after the last block; the block's output for the patches is not computed."""
    normed = block.ln_1(tokens)
    seen, _ = block.attn(normed[:, :1], normed, normed, need_weights=False)
    first = tokens[:, :1] + block.ls_1(seen)
    found: torch.Tensor = (first + block.ls_2(block.mlp(block.ln_2(first))))[:, 0]
    return found


def _arguments(options: Mapping[str, Any], output_dim: int) -> dict[str, Any]:
    return {
        "image_size": options["input_px"],
        "patch_size": options["patch_px"],
        "width": options["width"],
        "layers": options["layers"],
        "heads": options["heads"],
        "mlp_ratio": 4.0,
        "output_dim": output_dim,
        "act_layer": QuickGELU,
    }


def make_clip(options: Mapping[str, Any], output_dim: int) -> VisionTransformer:
    """OpenAI CLIP's visual tower, randomly initialised; its keys are OpenAI's without ``visual.``."""
    return VisionTransformer(**_arguments(options, output_dim))


def make_alphaclip(options: Mapping[str, Any], output_dim: int) -> AlphaVisionTransformer:
    """AlphaCLIP's visual tower, randomly initialised."""
    return AlphaVisionTransformer(**_arguments(options, output_dim))


def load_clip_visual(path: Path) -> State:
    """Visual tower of an OpenAI CLIP file, keys without ``visual.``, float32.

    OpenAI publishes TorchScript archives. TorchScript can run code, so ``path`` must have been checked
    against OpenAI's sha256 (``stages.weights.locate`` does). A .safetensors with the same keys is read too.
    """
    state = load_clip(path)
    return {key.removeprefix(_VISUAL): value for key, value in state.items() if key.startswith(_VISUAL)}


def load_clip(path: Path) -> State:
    """Tensors of both towers of an OpenAI CLIP file, under its own keys, float32; as :func:`load_clip_visual`."""
    if path.suffix == ".safetensors":
        return load_state(path)
    with reading(path), warnings.catch_warnings():  # torch discourages TorchScript; OpenAI publishes nothing else
        warnings.simplefilter("ignore", DeprecationWarning)
        state = torch.jit.load(path, map_location="cpu").state_dict()
    return {key: value.float() for key, value in state.items()}


def to_openai(state: Mapping[str, torch.Tensor]) -> State:
    """Keys of :func:`make_clip`'s model -> OpenAI's."""
    return {_VISUAL + key: value for key, value in state.items()}


def load_alphaclip(path: Path, clip_path: Path | None) -> State:
    """Tensors of an official AlphaCLIP visual checkpoint under :func:`make_alphaclip`'s keys, float32.

    Raises WeightsError if it is not the tower of the OpenAI CLIP model in ``clip_path`` plus ``conv1_alpha``.
    """
    state = _merge_lora(load_state(path))
    state = {key.replace(*_ATTENTION): value for key, value in state.items()}
    if clip_path is not None:
        clip = load_clip_visual(clip_path)
        conv = clip.get("conv1.weight", torch.empty(0, 1))
        expected = clip | {"conv1_alpha.weight": conv[:, :1]}
        check_keys(state, expected, f"{path} over {clip_path}")
        state = clip | state
    return state


def to_alphaclip(state: Mapping[str, torch.Tensor]) -> State:
    """Keys of :func:`make_alphaclip`'s model -> the official checkpoints'."""
    return {key.replace(_ATTENTION[1], _ATTENTION[0]): value for key, value in state.items()}


def _merge_lora(state: State) -> State:
    """Add ``lora_B @ lora_A / r`` to the weights it belongs to, and drop the ``lora_*`` keys.

    AlphaCLIP trains LoRA with loralib (microsoft/LoRA) at its default ``lora_alpha = 1`` and saves in train
    mode, so the stored weights are not merged. ``attn.in_proj`` adapts q and v only (``enable_lora = [True,
    False, True]``): its lora_A [2r, d] and lora_B [2d, r] hold q's factors, then v's. All others are A [r,
    in], B [out, r].
    """
    merged = {key: value for key, value in state.items() if ".lora_" not in key}
    for key in [key for key in state if key.endswith(".lora_A") and key[:-1] + "B" in state]:
        layer = key.removesuffix(".lora_A")
        a, b = state[key], state[f"{layer}.lora_B"]
        rank = b.shape[1]
        if layer.endswith("attn.in_proj"):
            (a_q, a_v), (b_q, b_v) = a.chunk(2), b.chunk(2)
            delta = torch.cat([b_q @ a_q, torch.zeros_like(b_q @ a_q), b_v @ a_v])
        else:
            delta = b @ a
        merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + delta / rank
    return merged
