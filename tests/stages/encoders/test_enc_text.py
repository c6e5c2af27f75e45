"""Text towers: their vectors are open_clip's, and the demo's tower names what masks show."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file
from torch.nn import functional as F

from demo.measure.texts import named
from stages.checkpoints import WeightsError
from stages.embed import _options
from stages.encoders import ENCODERS, Encoder, build_text, openclip
from stages.encoders.clip_text import tokens_of

TEXTS = ("a red mug", "Something that KEEPS you dry\u2026", "\u65e5\u672c <b>&amp;", "mug " * 75)
VISION = CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=8, image_size=16)
TEXT = CLIPTextCfg(width=128, heads=2, layers=2)
LINE = Encoder("alphaclip", "mask", 24, ("a",), text="t")


def clip_of(dim: int, quick_gelu: bool, vision: Any = VISION) -> torch.nn.Module:
    torch.manual_seed(0)
    model = open_clip.model.CLIP(dim, vision, TEXT, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))  # open_clip starts biases at 0
    return model


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    monkeypatch.setitem(ENCODERS, "tested", LINE)
    return LINE


def wanted(model: Any, text: str) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(F.normalize(model.encode_text(open_clip.tokenize([text])), dim=-1)[0])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_texts_of_openai_s_files_are_embedded_as_open_clip_does(line: Encoder, tmp_path: Path, suffix: str) -> None:
    model, path = clip_of(24, quick_gelu=True), tmp_path / f"clip{suffix}"
    if suffix == ".pt":  # as OpenAI publishes it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            torch.jit.script(model).save(path)
    else:
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    tower = build_text("tested", path, "cpu")
    for text in TEXTS:
        found = tower.embed(text)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted(model, text), atol=1e-5)
    vectors = np.eye(3, 24, dtype=np.float16)
    assert np.array_equal(tower.project(vectors), vectors.astype(np.float32))


def test_openclip_s_masks_go_through_the_head_that_the_whole_image_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = {"timm_model_name": "convnext_atto", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "mlp"}
    vision |= {"timm_drop": 0.0, "timm_drop_path": 0.1, "image_size": 64}
    text = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 2, "layers": 2}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "convnext_text", config)
    model = clip_of(24, quick_gelu=False, vision=CLIPVisionCfg(**vision))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    encoder = Encoder("openclip", "mask", 320, ("w",), options={"model": "convnext_text", "input_px": 64}, text="w")
    tower = openclip.build_text(encoder, tmp_path / "w.safetensors", "cpu")
    np.testing.assert_allclose(tower.embed("a red mug"), wanted(model, "a red mug"), atol=1e-5)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        means = model.visual.trunk.forward_features(pixels).mean((2, 3))
        image = model.encode_image(pixels)
    found = tower.project(np.concatenate([means.numpy(), np.zeros((1, 320), np.float32)]))
    np.testing.assert_allclose(found[:2], image, atol=1e-4)
    assert not found[2].any(), "a mask without a pixel is near no text"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "found no word"),
        ("mug " * 76, "found 76 tokens, expected at most 75"),
        ("a mug<end_of_text> more", "control tokens of CLIP"),
    ],
)
def test_texts_that_cannot_be_embedded_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokens_of(text, 77)


def test_an_encoder_without_a_text_tower_says_which_have_one() -> None:
    for name in ("dinov2_vitl14", "my_imported"):
        with pytest.raises(ValueError, match=rf"{name} has no text tower.*alphaclip_vit_l14, .*openclip_convnext_l"):
            build_text(name, Path("none"), "cpu")


def test_a_file_without_a_text_tower_is_refused(line: Encoder, tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"found no text tower of CLIP in it; it lacks token_embedding\.weight"):
        build_text("tested", tmp_path / "w.safetensors", "cpu")


def test_a_text_tower_changes_no_column() -> None:
    assert _options(replace(LINE, text="another")) == _options(LINE)


def test_the_demo_s_tower_names_what_masks_show() -> None:
    """Chance is 6 % of classes and 10 % of colours."""
    found = named(range(12))
    assert found.objects > 40
    assert min(found.classes, found.colours) > 0.6, found
