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
from torchvision import transforms

from stages.checkpoints import WeightsError
from stages.encoders import ENCODERS, Encoder, EncoderInput
from stages.encoders.alpha_transforms import aligned_image, alpha_map, stock_image
from stages.encoders.alphaclip import build, make_model
from stages.encoders.clip_vit import AlphaVisionTransformer, load_alphaclip, to_alphaclip

ARCHITECTURE = {"width": 32, "layers": 2, "patch": 8, "side": 32, "dim": 12}
OPTIONS: dict[str, Any] = {"width": 32, "layers": 2, "heads": 2, "patch_px": 8, "input_px": 32}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def encoder(**options: Any) -> Encoder:
    return Encoder("alphaclip", "mask", 12, ("clip", "alpha"), options=OPTIONS | options)


@pytest.fixture
def files(
    tmp_path: Path, shapes_of: Mapping[str, Any], tensors: Callable[..., Any], openai_clip: Callable[..., Any]
) -> dict[str, Path]:
    clip, _ = openai_clip(**ARCHITECTURE)
    torch.save(tensors(shapes_of["alphaclip"](**ARCHITECTURE)), tmp_path / "alpha.pth")
    return {"clip": clip, "alpha": tmp_path / "alpha.pth"}


def plain_forward(state: Mapping[str, torch.Tensor], image: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """One mask through the ViT of SunzeY/AlphaCLIP, from the official tensors with plain functions."""
    width, heads = 32, 2
    x = F.conv2d(image, state["conv1.weight"], stride=8) + F.conv2d(alpha, state["conv1_alpha.weight"], stride=8)
    x = x.reshape(width, -1).T
    x = torch.cat([state["class_embedding"][None], x]) + state["positional_embedding"]
    x = F.layer_norm(x, (width,), state["ln_pre.weight"], state["ln_pre.bias"])
    for layer in range(2):
        p = {k.split(".", 3)[3]: v for k, v in state.items() if k.startswith(f"transformer.resblocks.{layer}.")}
        y = F.layer_norm(x, (width,), p["ln_1.weight"], p["ln_1.bias"])
        q, k, v = (y @ p["attn.in_proj.weight"].T + p["attn.in_proj.bias"]).chunk(3, dim=-1)
        out = []
        for head in range(heads):
            part = slice(head * width // heads, (head + 1) * width // heads)
            attention = torch.softmax(q[:, part] @ k[:, part].T / (width / heads) ** 0.5, dim=-1)
            out.append(attention @ v[:, part])
        x = x + torch.cat(out, -1) @ p["attn.out_proj.weight"].T + p["attn.out_proj.bias"]
        y = F.layer_norm(x, (width,), p["ln_2.weight"], p["ln_2.bias"])
        y = y @ p["mlp.c_fc.weight"].T + p["mlp.c_fc.bias"]
        y = y * torch.sigmoid(1.702 * y)
        x = x + y @ p["mlp.c_proj.weight"].T + p["mlp.c_proj.bias"]
    return F.layer_norm(x[0], (width,), state["ln_post.weight"], state["ln_post.bias"]) @ state["proj"]


def square(image: np.ndarray) -> torch.Tensor:
    """The transform of AlphaCLIP's training: squash, normalise."""
    picture = Image.fromarray(image).resize((32, 32), Image.Resampling.BICUBIC)
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])(picture)[None]


def readme_alpha(mask: np.ndarray) -> torch.Tensor:
    """The README's mask transform, on a mask of 0 and 255."""
    steps = [transforms.ToTensor(), transforms.Resize((32, 32)), transforms.Normalize(0.5, 0.26)]
    return transforms.Compose(steps)((mask * 255).astype(np.uint8))[None]


@pytest.mark.parametrize("mask_only", [False, True])
@pytest.mark.parametrize("masks_per_batch", [1, 2, 64])
def test_batched_masks_equal_a_plain_forward_a_mask(
    files: dict[str, Path],
    photo: np.ndarray,
    regions: list[np.ndarray],
    mask_only: bool,
    masks_per_batch: int,
) -> None:
    state = torch.load(files["alpha"], weights_only=True)
    found = build(encoder(mask_only=mask_only), files, "cpu", masks_per_batch)([EncoderInput(photo, regions)])[0]
    assert found.shape == (5, 12)
    assert found.dtype == np.float32
    for mask, vector in zip(regions, found, strict=True):
        image = photo * mask[:, :, None] if mask_only else photo
        expected = F.normalize(plain_forward(state, square(image), readme_alpha(mask)), dim=0)
        assert vector @ expected.numpy() >= 0.99999
        np.testing.assert_allclose(vector, expected, atol=2e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_without_alpha_weights_it_is_openai_s_clip(
    tmp_path: Path, openai_clip: Callable[..., Any], photo: np.ndarray, regions: list[np.ndarray]
) -> None:
    clip_path, clip = openai_clip(**ARCHITECTURE)
    state = {k.removeprefix("visual."): v for k, v in clip.state_dict().items() if k.startswith("visual.")}
    official = {k.replace("in_proj_", "in_proj."): v.clone() for k, v in state.items()}
    torch.save(official | {"conv1_alpha.weight": torch.zeros(32, 1, 8, 8)}, tmp_path / "alpha.pth")
    found = build(encoder(), {"clip": clip_path, "alpha": tmp_path / "alpha.pth"}, "cpu", 8)(
        [EncoderInput(photo, regions)]
    )[0]
    with torch.no_grad():
        expected = clip.encode_image(square(photo), normalize=True)[0].numpy()
    np.testing.assert_allclose(found, np.tile(expected, (5, 1)), atol=1e-5)


def test_lora_files_are_merged_as_loralib_does(
    tmp_path: Path, shapes_of: Mapping[str, Any], tensors: Callable[..., Any]
) -> None:
    rank, width = 3, 32
    shapes = shapes_of["alphaclip"](**ARCHITECTURE)
    base = tensors(shapes)
    lora: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        name = f"transformer.resblocks.{layer}"
        lora |= {
            f"{name}.attn.in_proj.lora_A": (2 * rank, width),
            f"{name}.attn.in_proj.lora_B": (2 * width, rank),
        }
        for part in ("attn.out_proj", "mlp.c_fc", "mlp.c_proj"):
            rows, columns = shapes[f"{name}.{part}.weight"]
            lora |= {f"{name}.{part}.lora_A": (rank, columns), f"{name}.{part}.lora_B": (rows, rank)}
    factors = tensors(lora, seed=5)
    torch.save(base | factors, tmp_path / "lora.pth")
    state = load_alphaclip(tmp_path / "lora.pth", None)
    assert {k.replace("in_proj_", "in_proj.") for k in state} == shapes.keys()
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0))
    for layer in range(2):
        name = f"transformer.resblocks.{layer}"
        # loralib MergedLinear.forward, enable_lora=[True, False, True], lora_alpha=1: a grouped convolution
        a, b = factors[f"{name}.attn.in_proj.lora_A"], factors[f"{name}.attn.in_proj.lora_B"]
        added = F.conv1d((x @ a.T).T[None], b[:, :, None], groups=2)[0].T / rank
        expected = x @ base[f"{name}.attn.in_proj.weight"].T
        expected[:, :width] += added[:, :width]
        expected[:, 2 * width :] += added[:, width:]
        torch.testing.assert_close(x @ state[f"{name}.attn.in_proj_weight"].T, expected)
        a, b = factors[f"{name}.mlp.c_fc.lora_A"], factors[f"{name}.mlp.c_fc.lora_B"]
        expected = x @ base[f"{name}.mlp.c_fc.weight"].T + x @ a.T @ b.T / rank
        torch.testing.assert_close(x @ state[f"{name}.mlp.c_fc.weight"].T, expected)


@pytest.mark.parametrize("size", [(90, 122), (122, 90), (60, 60), (33, 200), (7, 7)])
def test_transforms_are_the_field_s(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    stock = transforms.Compose([transforms.Resize(32, Image.Resampling.BICUBIC), transforms.CenterCrop(32)])
    np.testing.assert_array_equal(stock_image(image, 32), np.asarray(stock(Image.fromarray(image))))
    squash = transforms.Resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(aligned_image(image, 32), np.asarray(squash(Image.fromarray(image))))
    mask = random.random(size) < 0.4
    torch.testing.assert_close(alpha_map(mask, 32, "cpu"), readme_alpha(mask)[0], atol=1e-5, rtol=1e-5)


def test_a_thin_image_is_cropped_before_it_is_enlarged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 140, 3), np.uint8)
    whole = np.asarray(Image.fromarray(image).resize((140 * 32, 32), Image.Resampling.BICUBIC))
    difference = stock_image(image, 32).astype(int) - whole[:, 2224:2256]
    assert abs(difference).max() <= 1


def test_image_and_alpha_share_a_frame_unless_the_stock_transform_is_asked_for() -> None:
    """A white object's pixels and its alpha fall on the same place; the stock transform's do not."""
    image, mask = np.zeros((64, 128, 3), np.uint8), np.zeros((64, 128), bool)
    mask[16:48, 92:124] = True
    image[mask] = 255
    alpha = alpha_map(mask, 32, "cpu")[0] * 0.26 + 0.5
    aligned = torch.from_numpy(aligned_image(image, 32)[:, :, 0] / 255.0)
    stock = torch.from_numpy(stock_image(image, 32)[:, :, 0] / 255.0)
    columns = torch.arange(32) + 0.5
    centre = [float((part.sum(0) * columns).sum() / part.sum()) for part in (alpha, aligned, stock)]
    assert centre[0] == pytest.approx(27, abs=0.1)  # 108 / 128 of 32
    assert centre[1] == pytest.approx(centre[0], abs=0.1)
    assert centre[2] > 30  # (27 - 16) * 2 + 16 = 38 lies outside the crop: only the object's edge is seen
    assert stock.sum() < 0.3 * aligned.sum()


def test_stock_transform_is_used_by_name(files: dict[str, Path], photo: np.ndarray, regions: list[np.ndarray]) -> None:
    stock = build(encoder(stock_transform=True), files, "cpu", 8)([EncoderInput(photo, regions)])[0]
    state = torch.load(files["alpha"], weights_only=True)
    picture = Image.fromarray(stock_image(photo, 32))
    pixels = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])(picture)[None]
    for mask, vector in zip(regions, stock, strict=True):
        expected = F.normalize(plain_forward(state, pixels, readme_alpha(mask)), dim=0)
        np.testing.assert_allclose(vector, expected, atol=2e-5)
    assert ENCODERS["alphaclip_vit_b16_stock_transform"].options["stock_transform"]


@pytest.mark.parametrize("damage", ["missing", "surplus", "shape"])
def test_a_file_of_another_model_is_refused(files: dict[str, Path], damage: str) -> None:
    state = torch.load(files["alpha"], weights_only=True)
    if damage == "missing":
        del state["conv1_alpha.weight"]
    elif damage == "surplus":
        state["head.weight"] = torch.zeros(2)
    else:
        state["proj"] = torch.zeros(32, 99)
    torch.save(state, files["alpha"])
    word = {
        "missing": "conv1_alpha",
        "surplus": r"head\.weight",
        "shape": r"proj \(32, 99\), expected \(32, 12\)",
    }
    with pytest.raises(WeightsError, match=word[damage]):
        build(encoder(), files, "cpu", 8)


def test_no_mask_one_pixel_images_and_safetensors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    line = Encoder("alphaclip", "mask", 12, ("alpha",), options=OPTIONS)
    save_file(to_alphaclip(make_model(line).state_dict()), tmp_path / "alpha.safetensors")
    model = build(line, {"alpha": tmp_path / "alpha.safetensors"}, "cpu", 8)
    pixel = np.full((1, 1, 3), 9, np.uint8)
    assert model([EncoderInput(pixel)])[0].shape == (0, 12)
    assert np.isfinite(model([EncoderInput(pixel, [np.ones((1, 1), bool)])])[0]).all()


class Lazy:
    """Decodes on __getitem__, and notes which masks were asked for."""

    def __init__(self, masks: list[np.ndarray]) -> None:
        self.masks, self.asked = masks, []

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, k: int) -> np.ndarray:
        self.asked.append(k)
        return self.masks[k]


def test_masks_are_decoded_once_and_in_order(
    files: dict[str, Path], photo: np.ndarray, regions: list[np.ndarray]
) -> None:
    masks = Lazy(regions)
    build(encoder(), files, "cpu", 2)([EncoderInput(photo, masks)])
    assert masks.asked == [0, 1, 2, 3, 4]


def test_no_mask_is_lost_when_memory_runs_out(
    files: dict[str, Path], photo: np.ndarray, regions: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    want = build(encoder(), files, "cpu", 8)([EncoderInput(photo, regions)])[0]
    forward, tried = AlphaVisionTransformer.forward, []

    def crowded(self: AlphaVisionTransformer, image: torch.Tensor, alpha: torch.Tensor, of: list[int]) -> torch.Tensor:
        tried.append(len(alpha))
        if len(alpha) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, image, alpha, of)

    monkeypatch.setattr(AlphaVisionTransformer, "forward", crowded)
    found = build(encoder(), files, "cpu", 8)([EncoderInput(photo, regions)])[0]
    np.testing.assert_allclose(found, want, atol=1e-5)
    assert tried[0] == len(regions)
    assert tried[-1] == 1
