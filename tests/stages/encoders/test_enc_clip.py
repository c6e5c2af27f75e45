from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from stages.checkpoints import WeightsError
from stages.encoders import Encoder, EncoderInput
from stages.encoders.alpha_transforms import aligned_image
from stages.encoders.clip import build, central_square, make_model
from stages.encoders.clip_vit import to_openai

ARCHITECTURE = {"width": 32, "layers": 3, "patch": 8, "side": 32, "dim": 12}
OPTIONS = {"width": 32, "layers": 3, "heads": 2, "patch_px": 8, "input_px": 32, "output_dim": 12}
LINE = Encoder("clip", "image", 32, ("clip",), tokens=16, options=OPTIONS)


def hugging_face(state: dict[str, torch.Tensor]) -> CLIPVisionModel:
    """CLIPVisionModel with the tensors of an OpenAI visual tower, matched by meaning."""
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        patch_size=8,
        image_size=32,
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModel(config).eval()
    names = {
        "embeddings.class_embedding": "class_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
    }
    for ours, theirs in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        names |= {f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")}
    mapped = {ours: state[f"visual.{theirs}"] for ours, theirs in names.items()}
    parts = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "ln_1", "layer_norm2": "ln_2"}
    parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    for layer in range(3):
        ours, theirs = f"encoder.layers.{layer}", f"visual.transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            for part, name in parts.items():
                mapped[f"{ours}.{part}.{kind}"] = state[f"{theirs}.{name}.{kind}"]
            for part, rows in zip("qkv", state[f"{theirs}.attn.in_proj_{kind}"].chunk(3), strict=True):
                mapped[f"{ours}.self_attn.{part}_proj.{kind}"] = rows
    model.load_state_dict(mapped, strict=True)
    return model


@pytest.mark.parametrize("size", [(90, 122), (50, 33), (32, 32), (7, 9)])
def test_tokens_are_those_llava_takes(openai_clip: Callable[..., Any], size: tuple[int, int]) -> None:
    path, clip = openai_clip(**ARCHITECTURE)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    found = build(LINE, {"clip": path}, "cpu", 1)([EncoderInput(image)])[0]
    assert found.shape == (16, 32)
    assert found.dtype == np.float32
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        states = hugging_face(clip.state_dict())(pixels, output_hidden_states=True).hidden_states
    assert len(states) == 4
    np.testing.assert_allclose(found, states[-2][0, 1:].numpy(), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(90, 122), (122, 90), (33, 200), (61, 35)])
def test_crop_is_hugging_face_s(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32},
        crop_size={"height": 32, "width": 32},
        do_normalize=False,
        do_rescale=False,
    )
    expected = processor(Image.fromarray(image), return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_array_equal(central_square(image, 32), expected)


def test_the_whole_image_is_squashed_where_asked(openai_clip: Callable[..., Any]) -> None:
    path, _ = openai_clip(**ARCHITECTURE)
    image = np.random.default_rng(0).integers(0, 256, (90, 122, 3), np.uint8)
    whole = replace(LINE, options={**LINE.options, "whole_image": True})
    found = build(whole, {"clip": path}, "cpu", 1)([EncoderInput(image)])[0]
    np.testing.assert_array_equal(
        found, build(LINE, {"clip": path}, "cpu", 1)([EncoderInput(aligned_image(image, 32))])[0]
    )


def test_safetensors_with_openai_s_keys_and_one_pixel(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(to_openai(make_model(LINE).state_dict()), tmp_path / "clip.safetensors")
    model = build(LINE, {"clip": tmp_path / "clip.safetensors"}, "cpu", 1)
    assert np.isfinite(model([EncoderInput(np.zeros((1, 1, 3), np.uint8))])[0]).all()
    assert model([EncoderInput(np.zeros((1, 900, 3), np.uint8))])[0].shape == (16, 32)


def test_a_smaller_tower_is_refused(openai_clip: Callable[..., Any]) -> None:
    path, _ = openai_clip(**ARCHITECTURE | {"layers": 2})
    with pytest.raises(WeightsError, match="12 missing: "):
        build(LINE, {"clip": path}, "cpu", 1)
