"""Frozen encoders that turn masks or an image into vectors, some with a text tower. One file and one line of :data:`ENCODERS` each.

No torch here: ``info`` and the planner read this table; torch is imported by :func:`build`.
How to add one: docs/add_an_encoder.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.fields import Precision
from stages.names import did_you_mean
from stages.proposers.sam import SAM_MODELS
from stages.weights import imported_name

Vectors = npt.NDArray[np.float32]


class EncoderInput(NamedTuple):
    """The input of an encoder for one image."""

    image: npt.NDArray[np.uint8]
    """[H, W, 3], RGB."""
    masks: Sequence[npt.NDArray[np.bool_]] = ()
    """K bool [H, W], each decoded when it is asked for; for an encoder of kind "mask"."""
    sam_features: npt.NDArray[np.float16] | None = None
    """SAM's embedding of the image, [C, h, w], if the encoder reads it and the store has it."""


Model = Callable[[Sequence[EncoderInput]], list[Vectors]]
"""The vectors of each image, in order: [K, dim] (kind "mask") or [tokens, dim] (kind "image")."""


class TextTower(NamedTuple):
    """Texts and masks as vectors in one space, in which a text is near the masks that it describes."""

    embed: Callable[[str], Vectors]
    """A text -> float32 [D], of length 1; ValueError if it is too long or holds a control token of the tower."""
    project: Callable[[npt.NDArray[Any]], Vectors]
    """Vectors of masks as the encoder gave them, float [k, dim] -> float32 [k, D]; zero vectors stay zero."""


@dataclass(frozen=True)
class Encoder:
    """One line of :data:`ENCODERS`."""

    module: str
    """File in stages/encoders that has ``build(encoder, paths, device, masks_per_batch)``."""
    kind: Literal["mask", "image"]
    """One vector per mask, or patch tokens per image."""
    dim: int
    """Length of a vector."""
    weights: tuple[str, ...]
    """Names in stages/weights.py of the files it needs."""
    tokens: int = 0
    """Vectors per image (kind "image")."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Architecture and transform, read by the module."""
    reads_sam_features: bool = False
    """Whether it reads the column sam_features if it exists."""
    version: int = 1
    """Raised whenever the same file and input would give other numbers (a golden-output test guards it)."""
    text: str = ""
    """Name in stages/weights.py of the file with its text tower; empty: it has no text tower.

    It is not part of a column's identity, as no stored number depends on it.
    """


_B16 = {"width": 768, "layers": 12, "heads": 12, "patch_px": 16, "input_px": 224}
_L14 = {"width": 1024, "layers": 24, "heads": 16, "patch_px": 14, "input_px": 224}
_L14_336 = {**_L14, "input_px": 336}
_DEMO_CLIP = {"width": 128, "layers": 4, "heads": 4, "patch_px": 16, "input_px": 128}
_DEMO_DINOV2 = {"layers": 4, "heads": 4, "pretrained_px": 224, "input_px": 224}
_ONLY = {"mask_only": True}


def _alphaclip(size: str, dim: int, options: Mapping[str, Any]) -> Encoder:
    clip = f"clip_vit_{size}"  # AlphaCLIP keeps CLIP's own text tower
    return Encoder("alphaclip", "mask", dim, (clip, f"alphaclip_vit_{size}"), options=options, text=clip)


def _dinov2(name: str, dim: int, layers: int, heads: int, **more: Any) -> Encoder:
    options = {"layers": layers, "heads": heads, "pretrained_px": 518, "input_px": 896, **more}
    return Encoder("dinov2", "mask", dim, (name,), options=options)


_REG = {"registers": 4}

ENCODERS: dict[str, Encoder] = {
    "alphaclip_vit_b16": _alphaclip("b16", 512, _B16),
    "alphaclip_vit_b16_mask_only": _alphaclip("b16", 512, _B16 | _ONLY),
    "alphaclip_vit_b16_stock_transform": _alphaclip("b16", 512, _B16 | {"stock_transform": True}),
    "alphaclip_vit_l14": _alphaclip("l14", 768, _L14),
    "alphaclip_vit_l14_mask_only": _alphaclip("l14", 768, _L14 | _ONLY),
    "alphaclip_vit_l14_336": _alphaclip("l14_336", 768, _L14_336),
    "alphaclip_vit_l14_336_mask_only": _alphaclip("l14_336", 768, _L14_336 | _ONLY),
    "dinov2_vits14": _dinov2("dinov2_vits14", 384, 12, 6),
    "dinov2_vitb14": _dinov2("dinov2_vitb14", 768, 12, 12),
    "dinov2_vitl14": _dinov2("dinov2_vitl14", 1024, 24, 16),
    "dinov2_vitg14": _dinov2("dinov2_vitg14", 1536, 40, 24, swiglu=True),
    "dinov2_vits14_reg": _dinov2("dinov2_vits14_reg", 384, 12, 6, **_REG),
    "dinov2_vitb14_reg": _dinov2("dinov2_vitb14_reg", 768, 12, 12, **_REG),
    "dinov2_vitl14_reg": _dinov2("dinov2_vitl14_reg", 1024, 24, 16, **_REG),
    "dinov2_vitg14_reg": _dinov2("dinov2_vitg14_reg", 1536, 40, 24, swiglu=True, **_REG),
    "openclip_convnext_l": Encoder(
        "openclip",
        "mask",
        1536,
        ("openclip_convnext_l",),
        options={"model": "convnext_large_d_320", "input_px": 1024},
        text="openclip_convnext_l",
    ),
    "clip_vit_l14": Encoder("clip", "image", 1024, ("clip_vit_l14",), tokens=256, options=_L14 | {"output_dim": 768}),
    "clip_vit_l14_336": Encoder(
        "clip", "image", 1024, ("clip_vit_l14_336",), tokens=576, options=_L14_336 | {"output_dim": 768}
    ),
    "demo_alphaclip": Encoder(
        "alphaclip", "mask", 64, ("demo_alphaclip",), options=_DEMO_CLIP, text="demo_alphaclip_text"
    ),
    "demo_alphaclip_mask_only": Encoder(
        "alphaclip", "mask", 64, ("demo_alphaclip",), options=_DEMO_CLIP | _ONLY, text="demo_alphaclip_text"
    ),
    "demo_dinov2": Encoder("dinov2", "mask", 128, ("demo_dinov2",), options=_DEMO_DINOV2),
    "demo_clip": Encoder(
        "clip",
        "image",
        128,
        ("demo_clip",),
        tokens=64,
        options=_DEMO_CLIP | {"layers": 6, "output_dim": 64, "whole_image": True},
    ),
    **{
        name: Encoder("sam", "mask", sam.embed_dim, (sam.weights,), options={"model": name}, reads_sam_features=True)
        for name, sam in SAM_MODELS.items()
    },
}


def imported_line(sha256: str, dim: int) -> Encoder:
    """The :class:`Encoder` for the vectors in the archive of this digest, which ``python cli.py import`` wrote."""
    return Encoder("imported", "mask", dim, (imported_name(sha256),))


def encoder_line(name: str, kind: Literal["mask", "image"]) -> Encoder:
    """The line of an encoder; ValueError, naming the choices, if the name and kind are unknown."""
    names = sorted(key for key, encoder in ENCODERS.items() if encoder.kind == kind)
    if name not in names:
        raise ValueError(
            f"unknown {kind} encoder {name!r}; choose one of: {', '.join(names)}{did_you_mean(name, names)}"
        )
    return ENCODERS[name]


def build(
    name: str, paths: Mapping[str, Path], device: str, masks_per_batch: int, precision: Precision = "float32"
) -> Model:
    """Load an encoder and return the function that embeds images.

    ``paths`` maps each name of ``ENCODERS[name].weights`` to a file whose digest was checked
    (``stages.weights.locate``); ``device`` is torch's; ``masks_per_batch`` bounds memory and changes no result
    beyond rounding; a 16-bit ``precision`` applies to matrix products (norms and softmax stay float32). Raises
    ValueError for an unknown name or a missing path, ``WeightsError`` for a file that does not hold the expected
    tensors.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; choose one of: {', '.join(sorted(ENCODERS))}")
    encoder = ENCODERS[name]
    missing = [weights for weights in encoder.weights if weights not in paths]
    if missing:
        raise ValueError(f"encoder {name!r} needs the weights {missing}; found paths for {sorted(paths)}")
    module = importlib.import_module(f"stages.encoders.{encoder.module}")
    model: Model = module.build(encoder, paths, device, masks_per_batch)
    return model if precision == "float32" else _sixteen_bit(model, device, precision)


def build_text(name: str, path: Path, device: str) -> TextTower:
    """Load the text tower of an encoder.

    Args:
        path: of the file ``ENCODERS[name].text``, whose digest was checked.

    Raises:
        ValueError: the encoder is not known or has no text tower; the message names those that have one.
        WeightsError: the file does not hold the expected tensors.
    """
    if why := why_no_text(name):
        raise ValueError(why)
    encoder = ENCODERS[name]
    tower: TextTower = importlib.import_module(f"stages.encoders.{encoder.module}").build_text(encoder, path, device)
    return tower


def why_no_text(name: str) -> str:
    """Why texts cannot be compared with the vectors of an encoder; empty if they can."""
    if name in ENCODERS and ENCODERS[name].text:
        return ""
    having = ", ".join(sorted(key for key, line in ENCODERS.items() if line.text))
    return f"{name} has no text tower, so words cannot be compared with its vectors; encoders that have one: {having}"


def _sixteen_bit(model: Model, device: str, precision: str) -> Model:
    import torch

    def call(items: Sequence[EncoderInput]) -> list[Vectors]:
        with torch.autocast(torch.device(device).type, getattr(torch, precision)):
            return model(items)

    return call
