"""Scores, boxes and runs from low-resolution logits: those of the official chain on the same logits."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from segment_anything.modeling import Sam
from segment_anything.utils.amg import (
    batched_mask_to_box,
    calculate_stability_score,
    mask_to_rle_pytorch,
    rle_to_mask,
    uncrop_masks,
)
from torch.nn import functional as F

from stages.proposers.sam import postprocess
from stages.proposers.sam.postprocess import Frame
from stages.transforms import longest_side
from store import rle

CLOSE = 1e-5
"""Logits closer to a threshold than this may fall on either side."""


def blobs(count: int, low: int, cell: int, seed: int = 0) -> torch.Tensor:
    """Smooth logits with about as much above as below zero."""
    noise = torch.randn(count, 1, low // cell + 2, low // cell + 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(noise, (low, low), mode="bicubic")[:, 0] * 6


def frame_of(low: int, square: int, height: int, width: int, crop: tuple[int, int, int, int] | None = None) -> Frame:
    left, top, right, bottom = crop or (0, 0, width, height)
    used = longest_side((bottom - top, right - left), square)
    return Frame(low, square, used, (left, top, right, bottom), (height, width))


def enlarged(logits: torch.Tensor, frame: Frame) -> torch.Tensor:
    model = SimpleNamespace(image_encoder=SimpleNamespace(img_size=frame.square))
    found: torch.Tensor = Sam.postprocess_masks(model, logits[:, None], frame.used, frame.size)[:, 0]  # type: ignore[arg-type]
    return found


def compare(logits: torch.Tensor, frame: Frame, threshold: float = 0.0, offset: float = 1.0) -> None:
    """Ours against the official functions, wherever no pixel's logit is on the edge."""
    full = enlarged(logits, frame)
    edge = [
        full.sub(at).abs().lt(CLOSE).flatten(1).sum(1) for at in (threshold - offset, threshold, threshold + offset)
    ]
    score, boxes = postprocess.measure(logits, frame, threshold, offset)
    want_score, want_boxes = calculate_stability_score(full, threshold, offset), batched_mask_to_box(full > threshold)
    assert score.dtype == torch.float32
    sure = (edge[0] == 0) & (edge[2] == 0)
    np.testing.assert_array_equal(score[sure].numpy(), want_score[sure].numpy())
    np.testing.assert_array_equal(boxes[edge[1] == 0].numpy(), want_boxes[edge[1] == 0].numpy())
    height, width = frame.image
    official = mask_to_rle_pytorch(uncrop_masks(full > threshold, list(frame.crop), height, width))
    for k, lengths in enumerate(postprocess.runs(logits, frame, threshold)):
        if edge[1][k]:
            differ = postprocess.to_mask(lengths, height, width) != rle_to_mask(official[k])
            assert differ.sum() <= edge[1][k]
        else:
            assert lengths.tolist() == official[k]["counts"]
            assert rle.from_runs(lengths).encode() == coco.frPyObjects(official[k], height, width)["counts"]
            np.testing.assert_array_equal(postprocess.to_mask(lengths, height, width), rle_to_mask(official[k]))


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (1, 1),
        (1, 2),
        (1, 300),
        (300, 1),
        (2, 2),
        (64, 64),
        (480, 640),
        (1024, 1024),
        (1024, 700),
        (1500, 1100),
        (37, 1200),
    ],
)
@pytest.mark.parametrize(("low", "square"), [(256, 1024), (128, 256)])
def test_sizes(height: int, width: int, low: int, square: int) -> None:
    compare(blobs(4, low, 16, seed=height + width), frame_of(low, square, height, width))


def test_a_large_image() -> None:
    compare(blobs(1, 256, 32), frame_of(256, 1024, 3000, 5000))


@pytest.mark.parametrize("crop", [(0, 0, 50, 40), (37, 21, 120, 90), (100, 60, 130, 90)])
def test_crops_lie_where_they_belong(crop: tuple[int, int, int, int]) -> None:
    compare(blobs(4, 64, 8), frame_of(64, 256, 90, 130, crop))


@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 0.0), (0.0, 0.3), (1.5, 1.0), (-2.0, 4.0)])
def test_thresholds(threshold: float, offset: float) -> None:
    compare(blobs(5, 128, 8), frame_of(128, 512, 200, 310), threshold, offset)


def test_empty_full_and_single_pixels() -> None:
    logits = torch.full((5, 64, 64), -5.0)
    logits[1] = 5.0
    logits[2, 0, 0] = 9.0
    logits[3, 20, 63] = 9.0
    logits[4, ::2] = 3.0
    frame = frame_of(64, 256, 256, 256)
    compare(logits, frame)
    score, boxes = postprocess.measure(logits, frame, 0.0, 1.0)
    assert torch.isnan(score[0])
    assert boxes[0].tolist() == [0, 0, 0, 0]
    lengths = postprocess.runs(logits[:2], frame, 0.0)
    assert [each.tolist() for each in lengths] == [[256 * 256], [0, 256 * 256]]


def test_noise_is_worked_out_pixel_by_pixel() -> None:
    compare(torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1)), frame_of(64, 256, 100, 190))


def test_no_masks() -> None:
    frame = frame_of(64, 256, 10, 20)
    score, boxes = postprocess.measure(torch.empty(0, 64, 64), frame, 0.0, 1.0)
    assert score.shape == (0,)
    assert boxes.shape == (0, 4)
    assert postprocess.runs(torch.empty(0, 64, 64), frame, 0.0) == []


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 150), st.integers(1, 150), st.sampled_from([(32, 64), (32, 128), (64, 64)]), st.integers(0, 10_000)
)
def test_any_size(height: int, width: int, sizes: tuple[int, int], seed: int) -> None:
    compare(blobs(2, sizes[0], 4, seed), frame_of(*sizes, height, width))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_the_mask_of_runs(height: int, width: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    lengths = rle.to_runs(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode())
    np.testing.assert_array_equal(postprocess.to_mask(lengths, height, width), mask)
