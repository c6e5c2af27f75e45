from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from stages.encoders import ENCODERS, alphaclip, build, clip, dinov2, encoder_line, openclip
from stages.encoders.clip_vit import to_alphaclip, to_openai
from stages.encoders.dinov2_vit import from_official, to_official
from stages.weights import WEIGHTS

NAMES = """alphaclip_vit_b16 alphaclip_vit_b16_mask_only alphaclip_vit_b16_stock_transform alphaclip_vit_l14
alphaclip_vit_l14_mask_only alphaclip_vit_l14_336 alphaclip_vit_l14_336_mask_only dinov2_vits14 dinov2_vitb14
dinov2_vitl14 dinov2_vitg14 dinov2_vits14_reg dinov2_vitb14_reg dinov2_vitl14_reg dinov2_vitg14_reg
openclip_convnext_l sam_vit_b sam_vit_l sam_vit_h clip_vit_l14 clip_vit_l14_336 demo_alphaclip
demo_alphaclip_mask_only demo_dinov2 demo_sam demo_clip"""


def test_the_table_is_complete_and_its_weights_are_registered() -> None:
    assert set(ENCODERS) >= set(NAMES.split())
    for name, encoder in ENCODERS.items():
        assert set(encoder.weights) <= set(WEIGHTS), name
        assert (encoder.tokens > 0) == (encoder.kind == "image")
        json.dumps(dict(encoder.options))  # it goes into fingerprints


def test_the_table_needs_no_torch() -> None:
    code = "import sys, stages.encoders; print({'torch', 'transformers', 'PIL'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    out = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(ValueError, match=r"unknown encoder 'dino'; choose one of: alphaclip_vit_b16, .*sam_vit_l"):
        build("dino", {}, "cpu", 8)
    with pytest.raises(ValueError, match="unknown mask encoder 'clip_vit_l14'; choose one of: alphaclip_vit_b16,"):
        encoder_line("clip_vit_l14", "mask")
    assert encoder_line("clip_vit_l14", "image") is ENCODERS["clip_vit_l14"]


def test_missing_weights_are_named() -> None:
    with pytest.raises(ValueError, match=r"'alphaclip_vit_b16' needs the weights \['alphaclip_vit_b16'\]"):
        build("alphaclip_vit_b16", {"clip_vit_b16": Path("x")}, "cpu", 8)


def on_meta(make: Callable[[], torch.nn.Module]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return make().state_dict()


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("alphaclip_vit_b16", (768, 12, 16, 224, 512)),
        ("alphaclip_vit_l14", (1024, 24, 14, 224, 768)),
        ("alphaclip_vit_l14_336", (1024, 24, 14, 336, 768)),
        ("demo_alphaclip", (128, 4, 16, 128, 64)),
    ],
)
def test_alphaclip_has_the_published_tensors(
    name: str, architecture: tuple[int, ...], shapes_of: Mapping[str, Any]
) -> None:
    state = on_meta(lambda: alphaclip.make_model(ENCODERS[name]))
    assert shapes(to_alphaclip(state)) == shapes_of["alphaclip"](*architecture)
    assert ENCODERS[name].options["width"] // ENCODERS[name].options["heads"] == (32 if "demo" in name else 64)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("clip_vit_l14", (1024, 24, 14, 224, 768)),
        ("clip_vit_l14_336", (1024, 24, 14, 336, 768)),
        ("demo_clip", (128, 6, 16, 128, 64)),
    ],
)
def test_clip_has_the_published_tensors(name: str, architecture: tuple[int, ...], shapes_of: Mapping[str, Any]) -> None:
    encoder = ENCODERS[name]
    state = on_meta(lambda: clip.make_model(encoder))
    assert shapes(to_openai(state)) == shapes_of["openai"](*architecture)
    assert encoder.tokens == (architecture[3] // architecture[2]) ** 2
    assert encoder.dim == architecture[0]


@pytest.mark.parametrize(
    ("name", "dim", "layers", "patches", "registers", "swiglu"),
    [
        ("dinov2_vits14", 384, 12, 37, 0, False),
        ("dinov2_vitb14", 768, 12, 37, 0, False),
        ("dinov2_vitl14", 1024, 24, 37, 0, False),
        ("dinov2_vitg14", 1536, 40, 37, 0, True),
        ("dinov2_vits14_reg", 384, 12, 37, 4, False),
        ("dinov2_vitb14_reg", 768, 12, 37, 4, False),
        ("dinov2_vitl14_reg", 1024, 24, 37, 4, False),
        ("dinov2_vitg14_reg", 1536, 40, 37, 4, True),
        ("demo_dinov2", 128, 4, 16, 0, False),
    ],
)
def test_dinov2_has_the_published_tensors(
    name: str, dim: int, layers: int, patches: int, registers: int, swiglu: bool, shapes_of: Mapping[str, Any]
) -> None:
    published = shapes_of["dinov2"](dim, layers, patches, registers, swiglu)
    state = on_meta(lambda: dinov2.make_model(ENCODERS[name]))
    assert shapes(to_official(state)) == published
    assert shapes(from_official({k: torch.empty(v, device="meta") for k, v in published.items()})) == shapes(state)
    if "demo" not in name:
        assert dim // ENCODERS[name].options["heads"] == 64


def test_convnext_large_has_open_clip_s_tensors() -> None:
    state = on_meta(lambda: openclip.make_model(ENCODERS["openclip_convnext_l"]))
    whole = on_meta(lambda: open_clip.create_model("convnext_large_d_320", device="meta"))
    visual = {k.removeprefix("visual."): v for k, v in shapes(whole).items() if k.startswith("visual.")}
    assert shapes(state) == visual
    assert state["trunk.head.norm.weight"].shape == (ENCODERS["openclip_convnext_l"].dim,)
