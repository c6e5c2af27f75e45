"""Publishers' lists of checkpoint keys and shapes, and deterministic tensors for them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, convert_weights_to_fp16

Shapes = dict[str, tuple[int, ...]]


def _block(name: str, width: int, in_proj: str) -> Shapes:
    return {
        f"{name}.ln_1.weight": (width,),
        f"{name}.ln_1.bias": (width,),
        f"{name}.attn.{in_proj}weight": (3 * width, width),
        f"{name}.attn.{in_proj}bias": (3 * width,),
        f"{name}.attn.out_proj.weight": (width, width),
        f"{name}.attn.out_proj.bias": (width,),
        f"{name}.ln_2.weight": (width,),
        f"{name}.ln_2.bias": (width,),
        f"{name}.mlp.c_fc.weight": (4 * width, width),
        f"{name}.mlp.c_fc.bias": (4 * width,),
        f"{name}.mlp.c_proj.weight": (width, 4 * width),
        f"{name}.mlp.c_proj.bias": (width,),
    }


def _tower(width: int, layers: int, patch: int, side: int, dim: int, in_proj: str) -> Shapes:
    shapes: Shapes = {
        "class_embedding": (width,),
        "positional_embedding": ((side // patch) ** 2 + 1, width),
        "proj": (width, dim),
        "conv1.weight": (width, 3, patch, patch),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
    }
    for layer in range(layers):
        shapes |= _block(f"transformer.resblocks.{layer}", width, in_proj)
    return shapes


def alphaclip_shapes(width: int, layers: int, patch: int, side: int, dim: int) -> Shapes:
    """State dict of ``VisionTransformer`` in SunzeY/AlphaCLIP, alpha_clip/model.py (lora_adapt=False)."""
    return _tower(width, layers, patch, side, dim, "in_proj.") | {"conv1_alpha.weight": (width, 1, patch, patch)}


def openai_shapes(width: int, layers: int, patch: int, side: int, dim: int) -> Shapes:
    """Visual part of the state dict of openai/CLIP, clip/model.py."""
    return {f"visual.{k}": v for k, v in _tower(width, layers, patch, side, dim, "in_proj_").items()}


def dinov2_shapes(dim: int, layers: int, patches: int, registers: int = 0, swiglu: bool = False) -> Shapes:
    """State dict of ``DinoVisionTransformer`` in facebookresearch/dinov2, as its hub makes it."""
    hidden = (int(4 * dim * 2 / 3) + 7) // 8 * 8
    if swiglu:
        mlp = {"w12.weight": (2 * hidden, dim), "w12.bias": (2 * hidden,), "w3.weight": (dim, hidden)}
        mlp |= {"w3.bias": (dim,)}
    else:
        mlp = {"fc1.weight": (4 * dim, dim), "fc1.bias": (4 * dim,), "fc2.weight": (dim, 4 * dim)}
        mlp |= {"fc2.bias": (dim,)}
    shapes: Shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + patches**2, dim),
        "mask_token": (1, dim),
        "patch_embed.proj.weight": (dim, 3, 14, 14),
        "patch_embed.proj.bias": (dim,),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, dim)
    for layer in range(layers):
        block = {
            "norm1.weight": (dim,),
            "norm1.bias": (dim,),
            "attn.qkv.weight": (3 * dim, dim),
            "attn.qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": (dim,),
            "ls1.gamma": (dim,),
            "norm2.weight": (dim,),
            "norm2.bias": (dim,),
            "ls2.gamma": (dim,),
        } | {f"mlp.{key}": shape for key, shape in mlp.items()}
        shapes |= {f"blocks.{layer}.{key}": shape for key, shape in block.items()}
    return shapes


def fill(shapes: Shapes, seed: int = 0) -> dict[str, torch.Tensor]:
    """Plausible float32 tensors; numpy's RandomState gives the same numbers in every version."""
    random = np.random.RandomState(seed)
    state = {}
    for key in sorted(shapes):
        shape = shapes[key]
        noise = random.standard_normal(shape)
        if len(shape) == 1:
            noise = (1.0 if key.endswith(("weight", "gamma")) else 0.0) + 0.1 * noise
        elif "embed" in key or "token" in key:
            noise = 0.3 * noise
        else:
            noise = noise / np.sqrt(np.prod(shape[1:]))
        state[key] = torch.from_numpy(noise.astype(np.float32))
    return state


@pytest.fixture
def shapes_of() -> dict[str, Callable[..., Shapes]]:
    """Publisher -> function of the architecture that lists its checkpoint's keys and shapes."""
    return {"alphaclip": alphaclip_shapes, "openai": openai_shapes, "dinov2": dinov2_shapes}


@pytest.fixture
def tensors() -> Callable[..., dict[str, torch.Tensor]]:
    """Shapes -> tensors."""
    return fill


@pytest.fixture
def openai_clip(tmp_path: Path) -> Callable[..., tuple[Path, torch.nn.Module]]:
    """Writes a half precision TorchScript archive as OpenAI does; returns it and the open_clip model."""

    def make(width: int, layers: int, patch: int, side: int, dim: int) -> tuple[Path, torch.nn.Module]:
        vision = CLIPVisionCfg(layers=layers, width=width, head_width=width // 2, patch_size=patch, image_size=side)
        text = CLIPTextCfg(context_length=8, vocab_size=16, width=16, heads=2, layers=1)
        model = open_clip.CLIP(dim, vision, text, quick_gelu=True).eval()
        shapes = openai_shapes(width, layers, patch, side, dim)
        model.load_state_dict(fill(shapes, seed=1), strict=False)
        convert_weights_to_fp16(model)
        path = tmp_path / "openai.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            archive = torch.jit.script(model)
            torch.jit.save(archive, path)
        assert {key for key in archive.state_dict() if key.startswith("visual.")} == shapes.keys()
        return path, model.float()

    return make


@pytest.fixture
def photo() -> np.ndarray:
    """A fixed picture, uint8 [90, 122, 3]."""
    y, x = np.mgrid[:90, :122]
    channels = [np.sin(x / 7 + c) + np.cos(y / (5 + 3 * c)) + np.sin(x * y / 900) for c in range(3)]
    return np.clip(128 + 42 * np.stack(channels, -1), 0, 255).astype(np.uint8)


@pytest.fixture
def regions() -> list[np.ndarray]:
    """Masks of the picture: a disc, a bar across, one pixel, everything, nothing."""
    y, x = np.mgrid[:90, :122]
    single = (y == 40) & (x == 100)
    return [(x - 70) ** 2 + (y - 30) ** 2 < 500, (y > 60) & (y < 72), single, x >= 0, x < 0]
