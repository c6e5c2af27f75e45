from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.transforms.functional import resize, to_pil_image
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from stages.checkpoints import WeightsError
from stages.encoders import Encoder, EncoderInput
from stages.encoders.dinov2 import build, make_model
from stages.encoders.dinov2_vit import DINOv2, from_official, interpolate_pos_embed, to_official

VARIANTS = [(0, False), (4, False), (0, True), (4, True)]


def options(registers: int, swiglu: bool, input_px: int = 56) -> dict[str, Any]:
    size = {"layers": 2, "heads": 2, "pretrained_px": 42, "input_px": input_px}
    return size | {"registers": registers, "swiglu": swiglu}


def cubic(distance: torch.Tensor, a: float) -> torch.Tensor:
    """Keys' cubic convolution kernel."""
    x = distance.abs()
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def cubic_matrix(size_in: int, size_out: int, step: float) -> torch.Tensor:
    """Bicubic along one axis, a = -0.75, border repeated; ``step`` input cells an output cell."""
    matrix = torch.zeros(size_out, size_in, dtype=torch.float64)
    for i in range(size_out):
        position = (i + 0.5) * step - 0.5
        base = int(np.floor(position))
        for j in range(base - 1, base + 3):
            weight = cubic(torch.tensor(position - j, dtype=torch.float64), -0.75)
            matrix[i, min(max(j, 0), size_in - 1)] += weight
    return matrix


def antialiased_cubic_matrix(size_in: int, size_out: int) -> torch.Tensor:
    """Bicubic, a = -0.5, kernel widened by the reduction and renormalised over the cells that exist."""
    step = size_in / size_out
    centre = (torch.arange(size_out, dtype=torch.float64) + 0.5) * step
    distance = torch.arange(size_in, dtype=torch.float64) + 0.5 - centre[:, None]
    weights = cubic(distance / max(step, 1.0), -0.5)
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize("registers", [False, True])
@pytest.mark.parametrize("size_px", [(518, 518), (896, 896), (224, 224), (448, 714), (28, 1064)])
def test_positional_embeddings_follow_the_publisher_s_formula(size_px: tuple[int, int], registers: bool) -> None:
    """Bicubic; scale (n + 0.1) / 37 without antialias, registers: to size n with it."""
    generator = torch.Generator().manual_seed(0)
    pos_embed = torch.randn(1, 1 + 37 * 37, 8, generator=generator)
    height, width = size_px[0] // 14, size_px[1] // 14
    found = interpolate_pos_embed(pos_embed, height, width, registers)
    if size_px == (518, 518):
        assert torch.equal(found, pos_embed)
        return
    if registers:
        rows, columns = antialiased_cubic_matrix(37, height), antialiased_cubic_matrix(37, width)
    else:
        rows = cubic_matrix(37, height, 37 / (height + 0.1))
        columns = cubic_matrix(37, width, 37 / (width + 0.1))
    grid = pos_embed[0, 1:].double().reshape(37, 37, 8)
    expected = torch.einsum("ij,jkd,lk->ild", rows, grid, columns).reshape(1, -1, 8)
    assert torch.equal(found[:, 0], pos_embed[:, 0])
    torch.testing.assert_close(found[:, 1:].double(), expected, atol=2e-4, rtol=1e-3)


def test_the_offset_and_the_antialias_matter() -> None:
    pos_embed = torch.randn(1, 1 + 37 * 37, 4, generator=torch.Generator().manual_seed(0))
    plain, registers = (interpolate_pos_embed(pos_embed, 24, 24, kind) for kind in (False, True))
    patches = pos_embed[:, 1:].reshape(1, 37, 37, 4).permute(0, 3, 1, 2)
    no_offset = F.interpolate(patches, size=(24, 24), mode="bicubic").flatten(2).transpose(1, 2)
    assert (plain[:, 1:] - no_offset).abs().max() > 0.01
    assert (plain - registers).abs().max() > 0.01


def plain_dinov2(state: Mapping[str, torch.Tensor], pixels: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
    """Normalised patch tokens [P, D] of one image from the official tensors, with plain functions."""
    dim = state["cls_token"].shape[-1]
    x = F.conv2d(pixels, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)[0]
    x = torch.cat([state["cls_token"][0], x.flatten(1).T]) + pos[0]
    registers = state["register_tokens"][0] if "register_tokens" in state else x[:0]
    x = torch.cat([x[:1], registers, x[1:]])
    for layer in range(2):
        p = {k.split(".", 2)[2]: v for k, v in state.items() if k.startswith(f"blocks.{layer}.")}
        y = F.layer_norm(x, (dim,), p["norm1.weight"], p["norm1.bias"], 1e-6)
        q, k, v = (y @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]).reshape(len(y), 3, 2, dim // 2).permute(1, 2, 0, 3)
        y = (torch.softmax(q @ k.transpose(1, 2) / (dim / 2) ** 0.5, -1) @ v).transpose(0, 1).reshape(len(y), dim)
        x = x + (y @ p["attn.proj.weight"].T + p["attn.proj.bias"]) * p["ls1.gamma"]
        y = F.layer_norm(x, (dim,), p["norm2.weight"], p["norm2.bias"], 1e-6)
        if "mlp.w12.weight" in p:
            gate, up = (y @ p["mlp.w12.weight"].T + p["mlp.w12.bias"]).chunk(2, -1)
            y = F.silu(gate) * up @ p["mlp.w3.weight"].T + p["mlp.w3.bias"]
        else:
            y = F.gelu(y @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
            y = y @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
        x = x + y * p["ls2.gamma"]
    x = F.layer_norm(x, (dim,), state["norm.weight"], state["norm.bias"], 1e-6)
    return x[1 + len(registers) :]


@pytest.mark.parametrize(("registers", "swiglu"), VARIANTS)
def test_official_tensors_give_the_official_tokens(
    registers: int, swiglu: bool, shapes_of: Mapping[str, Any], tensors: Callable[..., Any]
) -> None:
    state = tensors(shapes_of["dinov2"](24, 2, 3, registers, swiglu))
    model = DINOv2(24, options(registers, swiglu)).eval()
    model.load_state_dict(from_official(state), strict=True)
    assert to_official(model.state_dict()).keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in to_official(model.state_dict()).items())
    pixels = torch.randn(1, 3, 70, 98, generator=torch.Generator().manual_seed(0))
    expected = plain_dinov2(state, pixels, interpolate_pos_embed(state["pos_embed"], 5, 7, bool(registers)))
    with torch.inference_mode():
        found = model(pixels)[0]
    assert found.shape == (24, 5, 7)
    torch.testing.assert_close(found.flatten(1).T, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("registers", [0, 4])
def test_at_the_pretraining_size_it_is_transformers_model(
    registers: int, shapes_of: Mapping[str, Any], tensors: Callable[..., Any]
) -> None:
    common = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 42,
        "patch_size": 14,
    }
    if registers:
        reference = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=4, **common)).eval()
    else:
        reference = Dinov2Model(Dinov2Config(**common)).eval()
    model = DINOv2(24, options(registers, False)).eval()
    model.load_state_dict(from_official(tensors(shapes_of["dinov2"](24, 2, 3, registers))))
    reference.load_state_dict(model.model.state_dict())
    pixels = torch.randn(1, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference(pixels).last_hidden_state[:, 1 + registers :]
        torch.testing.assert_close(model(pixels).flatten(2).transpose(1, 2), expected)


def llm_seg(state: Mapping[str, torch.Tensor], image: np.ndarray, masks: list[np.ndarray], side: int) -> np.ndarray:
    """LLM-Seg's route, step by step: resize, normalise, pad, tokens, upsample by 4, pool (1.1, 1.2)."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = [int(height * scale + 0.5), int(width * scale + 0.5)]
    x = torch.from_numpy(np.array(resize(to_pil_image(image), size))).permute(2, 0, 1)[None].float()
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    x = (x - mean[None, :, None, None]) / std[None, :, None, None]
    x = F.pad(x, (0, side - size[1], 0, side - size[0]))
    grid = side // 14
    tokens = plain_dinov2(state, x, interpolate_pos_embed(state["pos_embed"], grid, grid, False))
    dense = F.interpolate(tokens.T.reshape(1, -1, grid, grid), size=(4 * grid, 4 * grid), mode="bilinear")[0]
    rows = []
    for mask in masks:
        square = torch.zeros(1, 1, max(height, width), max(height, width))
        square[0, 0, :height, :width] = torch.from_numpy(mask)
        w = F.interpolate(square, size=dense.shape[1:], mode="bilinear", antialias=True)[0, 0]
        rows.append((dense * w).sum((1, 2)) / (w.sum() + 1e-8))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_mask_vectors_are_llm_seg_s(
    tmp_path: Path,
    suffix: str,
    shapes_of: Mapping[str, Any],
    tensors: Callable[..., Any],
    photo: np.ndarray,
    regions: list[np.ndarray],
) -> None:
    state = tensors(shapes_of["dinov2"](24, 2, 3))
    (save_file if suffix == ".safetensors" else torch.save)(state, tmp_path / f"dinov2{suffix}")
    line = Encoder("dinov2", "mask", 24, ("dinov2",), options=options(0, False, input_px=112))
    found = build(line, {"dinov2": tmp_path / f"dinov2{suffix}"}, "cpu", 8)([EncoderInput(photo, regions)])[0]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, llm_seg(state, photo, regions, 112), atol=1e-4)
    assert not found[4].any()


def test_no_mask_and_one_pixel_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    line = Encoder("dinov2", "mask", 24, ("dinov2",), options=options(0, False))
    torch.save(to_official(make_model(line).state_dict()), tmp_path / "dinov2.pth")
    model = build(line, {"dinov2": tmp_path / "dinov2.pth"}, "cpu", 8)
    pixel = np.full((1, 1, 3), 9, np.uint8)
    assert model([EncoderInput(pixel)])[0].shape == (0, 24)
    assert np.isfinite(model([EncoderInput(pixel, [np.ones((1, 1), bool)])])[0]).all()
    assert np.isfinite(model([EncoderInput(np.zeros((1, 300, 3), np.uint8), [np.ones((1, 300), bool)])])[0]).all()


def test_registers_in_the_wrong_model_are_refused(
    tmp_path: Path, shapes_of: Mapping[str, Any], tensors: Callable[..., Any]
) -> None:
    torch.save(tensors(shapes_of["dinov2"](24, 2, 3, 4)), tmp_path / "reg.pth")
    line = Encoder("dinov2", "mask", 24, ("dinov2",), options=options(0, False))
    with pytest.raises(WeightsError, match=r"1 not expected: .*register_tokens"):
        build(line, {"dinov2": tmp_path / "reg.pth"}, "cpu", 8)


def test_images_are_resized_as_segment_anything_does() -> None:
    from segment_anything.utils.transforms import ResizeLongestSide

    from stages.transforms import resize_longest_side

    random = np.random.default_rng(0)
    for size in [(90, 122), (122, 90), (5, 7), (300, 301)]:
        image = random.integers(0, 256, (*size, 3), np.uint8)
        np.testing.assert_array_equal(resize_longest_side(image, 112), ResizeLongestSide(112).apply_image(image))
    assert Image.fromarray(resize_longest_side(np.zeros((1, 5000, 3), np.uint8), 112)).size == (112, 1)
