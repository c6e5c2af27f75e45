"""Everything mode, encoders and systems on a pretended card: devices do not mix, and who waits for the card is known.

A wait costs about 30 microseconds and, worse, the card has nothing to do until the next work is sent. So each is named in a table
with its reason, and a new one fails here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils

from stages.encoders import ENCODERS, EncoderInput, build
from stages.proposers.sam import cells, first_use, kernels
from stages.proposers.sam.generator import AutomaticMaskGenerator
from stages.proposers.sam.model import new_sam
from tests.stages.pretendcard import Card, pretend_card, put

MODELS = Path(__file__).resolve().parents[2] / "demo/models"


def test_devices_do_not_mix() -> None:
    with pretend_card() as card:
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert there.is_cuda
        with pytest.raises(RuntimeError, match="on the CPU"):
            there + here
        assert float((there + torch.tensor(2.0)).sum()) == 9.0  # a number may be anywhere
        assert there[there > 0].tolist() == [1.0, 1.0, 1.0]
        assert card.waits
        with pytest.raises(RuntimeError, match="nobody waits for"):
            there.to("cpu", non_blocking=True)


class Launcher:
    """Stands for the compiled kernel: looks where its arguments are, and gives what the CPU gives."""

    def __init__(self) -> None:
        self.launches, self.measure = 0, kernels.measure

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return self.launch

    def between(self, logits: Any, rows: Any, columns: Any, thresholds: Any) -> Any:
        self.axes = rows, columns
        return self.measure(logits, rows, columns, thresholds)

    def launch(self, logits: Any, *more: Any) -> None:
        parts, thresholds = (logits, *more[:6]), more[9:12]
        assert all(part.is_cuda and part.is_contiguous() for part in parts)
        found = cells.measure(logits.values.numpy(), *self.axes, thresholds)
        for part, values in zip(parts[5:], found, strict=True):
            part.values.copy_(torch.from_numpy(values))
        self.launches += 1


def explained(card: Card, table: dict[str, tuple[int, str]]) -> None:
    """``table``: place and what is waited for -> how often, and why that may be."""
    assert dict(card.waits) == {place: number for place, (number, _) in table.items()}


def test_everything_mode() -> None:
    """Two batches of eight points."""
    torch.manual_seed(0)
    sam = new_sam("demo_sam")
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    options: dict[str, Any] = {"points_per_side": 4, "points_per_batch": 8, "output_mode": "coco_rle"}
    options |= {"pred_iou_thresh": -1e9, "stability_score_thresh": -1.0}
    want = AutomaticMaskGenerator(sam, **options).generate(image)
    launcher = Launcher()
    with pretend_card() as card:
        put(sam, card)
        made = AutomaticMaskGenerator(sam, **options)
        card.waits.clear()
        with (
            mock.patch.object(first_use, "kernel_is_right", return_value=True),
            mock.patch.object(kernels, "_measure", launcher),
            mock.patch.object(kernels, "measure", launcher.between),
        ):
            found = made.generate(image)
    assert len(found) == len(want) > 0
    for one, other in zip(found, want, strict=True):  # the card's operators round otherwise than some processors'
        assert (one["point_coords"], one["crop_box"]) == (other["point_coords"], other["crop_box"])
        assert one["predicted_iou"] == pytest.approx(other["predicted_iou"], abs=1e-5)
        assert mask_utils.iou([one["segmentation"]], [other["segmentation"]], [0])[0, 0] > 0.998
    assert launcher.launches == 2
    generator = "proposers/sam/generator.py:AutomaticMaskGenerator."
    explained(
        card,
        {
            f"{generator}_crop: to the card": (1, "a crop's points, before anything of it is computed"),
            f"{generator}_decode: to the CPU": (2, "a batch's predicted IoUs say which of its masks are made"),
            f"{generator}_decode: number": (2, "a batch's logits must be finite before their counts are believed"),
            "proposers/sam/kernels.py:measure: to the CPU": (
                2,
                "a batch's counts and boxes, for filters and suppression",
            ),
            "proposers/sam/postprocess.py:runs: to the CPU": (
                1,
                "logits of the masks that are left, in another thread",
            ),
        },
    )


NORMALISED = {
    "transforms.py:normalise.<locals>.<genexpr>: to the card": (2, "mean and deviation, before anything is computed"),
    "transforms.py:normalise: to the card": (1, "the image's pixels, likewise"),
}
POOLED = {
    "encoders/pooling.py:mask_weights: to the card": (4, "two matrices an image, while its network runs"),
    "encoders/pooling.py:pool: to the CPU": (2, "an image's vectors"),
}
WAITS: dict[str, tuple[int, dict[str, tuple[int, str]]]] = {
    "demo_alphaclip": (
        2,
        {
            "encoders/alpha_transforms.py:alpha_map: to the card": (6, "a mask's pixels, before the network runs"),
            "encoders/clip_vit.py:AlphaVisionTransformer.forward: to the card": (
                1,
                "which image a mask of the batch is of",
            ),
            "encoders/alphaclip.py:build.<locals>.embed.<locals>.some: to the CPU": (1, "a batch's vectors"),
        },
    ),
    "demo_clip": (2, {"encoders/clip.py:build.<locals>.embed.<locals>.some: to the CPU": (1, "a batch's features")}),
    "demo_dinov2": (1, POOLED),
    "demo_sam": (0, {"encoders/sam.py:build.<locals>.grid: to the card": (1, "the image's pixels"), **POOLED}),
}
"""Encoder -> how often it normalises an image, and where it waits for two images with three masks each."""


@pytest.mark.parametrize("name", WAITS)
def test_encoders(name: str) -> None:
    line = ENCODERS[name]
    paths = {weights: MODELS / f"{weights}.safetensors" for weights in line.weights}
    random = np.random.default_rng(0)
    image, masks = random.integers(0, 255, (60, 90, 3), dtype=np.uint8), random.random((3, 60, 90)) > 0.5
    items = [EncoderInput(image, list(masks) if line.kind == "mask" else ()) for _ in range(2)]
    want = build(name, paths, "cpu", 64)(items)
    with pretend_card() as card:
        model = build(name, paths, "cuda", 64)
        card.waits.clear()
        found = model(items)
    images, table = WAITS[name]
    explained(card, table | {place: (images * number, why) for place, (number, why) in NORMALISED.items() if images})
    for ours, theirs in zip(found, want, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
