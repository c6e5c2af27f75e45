"""Numbers of every architecture on fixed tensors: they may change only together with ``version`` in ENCODERS.

If this fails on purpose, raise ``version`` of the lines concerned and put the numbers of the message into
golden.json.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from stages.encoders import ENCODERS, Encoder, EncoderInput, openclip
from stages.proposers.sam import SAM_MODELS

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text(encoding="utf-8"))
SMALL: dict[str, dict[str, Any]] = {
    "alphaclip": {"width": 32, "layers": 3, "heads": 2, "patch_px": 8, "input_px": 32},
    "clip": {"width": 32, "layers": 3, "heads": 2, "patch_px": 8, "input_px": 32, "output_dim": 24},
    "dinov2": {"layers": 2, "heads": 2, "pretrained_px": 42, "input_px": 112},
    "openclip": {"model": "convnext_golden", "input_px": 192},
    "sam": {},
}
DIM = {"alphaclip": 24, "clip": 32, "dinov2": 24, "openclip": 320}


def kind(encoder: Encoder) -> tuple[Any, ...]:
    """What decides the computation, sizes aside."""
    flags = ("mask_only", "stock_transform", "registers", "swiglu")
    return (encoder.module, *(bool(encoder.options.get(flag)) for flag in flags))


def small(encoder: Encoder) -> Encoder:
    """The line with a small architecture and one file; its other options stay."""
    options = {**encoder.options, **SMALL[encoder.module]}
    return replace(encoder, dim=DIM.get(encoder.module, encoder.dim), weights=("file",), options=options)


def checkpoint_shapes(encoder: Encoder, shapes_of: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The publisher's keys and shapes for a small line."""
    if encoder.module == "dinov2":
        options = encoder.options
        return shapes_of["dinov2"](24, 2, 3, options.get("registers", 0), options.get("swiglu", False))
    if encoder.module == "openclip":
        with torch.device("meta"):
            state = openclip.make_model(encoder).state_dict()
        return {f"visual.{key}": tuple(value.shape) for key, value in state.items()}
    return shapes_of["openai" if encoder.module == "clip" else "alphaclip"](32, 3, 8, 32, 24)


def numbers(
    encoder: Encoder, path: Path, state: dict[str, torch.Tensor], photo: np.ndarray, regions: list[np.ndarray]
) -> list[list[float]]:
    """The first 6 components of 4 vectors; the same image among others gives the same."""
    build = importlib.import_module(f"stages.encoders.{encoder.module}").build
    features = None
    if encoder.module == "sam":
        grid = SAM_MODELS[encoder.options["model"]].grid
        features = np.random.RandomState(0).standard_normal((encoder.dim, grid, grid)).astype(np.float16)
    else:
        save_file(state, path)
    embed = build(encoder, {"file": path}, "cpu", 3)
    other = photo[::-1].copy()
    places = ((other, regions[2:3]), (photo, regions[:4]), (other, regions[1:4]))
    items = [EncoderInput(image, masks, features) for image, masks in places]
    together = embed(items)
    for item, vectors in zip(items, together, strict=True):
        np.testing.assert_allclose(vectors, embed([item])[0], rtol=1e-4, atol=1e-5)
    assert embed([]) == []
    return [[round(float(value), 6) for value in row] for row in together[1][:4, :6]]


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_numbers_change_only_with_the_version(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shapes_of: Mapping[str, Any],
    tensors: Callable[..., dict[str, torch.Tensor]],
    photo: np.ndarray,
    regions: list[np.ndarray],
) -> None:
    config = open_clip.get_model_config("convnext_large_d_320")
    config["vision_cfg"]["timm_model_name"] = "convnext_atto"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "convnext_golden", config)
    encoder = small(ENCODERS[name])
    state = {} if encoder.module == "sam" else tensors(checkpoint_shapes(encoder, shapes_of))
    found = numbers(encoder, tmp_path / "file.safetensors", state, photo, regions)
    now = {"version": encoder.version, "numbers": found}
    same = np.allclose(found, GOLDEN[name]["numbers"], rtol=1e-3, atol=1e-4)
    assert same, f"{name} gives other numbers: raise its version and store {json.dumps({name: now})}"


def test_every_line_is_guarded() -> None:
    guarded = {(kind(ENCODERS[name]), entry["version"]) for name, entry in GOLDEN.items()}
    assert {(kind(encoder), encoder.version) for encoder in ENCODERS.values()} == guarded
