from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stages.base import RleMasks
from stages.encoders.pooling import UPSAMPLING, mask_weights, pool, resize_matrix
from store import rle


@pytest.mark.parametrize(
    ("size_in", "size_out"), [(1, 8), (5, 8), (16, 64), (64, 256), (97, 64), (256, 7), (1000, 256)]
)
def test_resize_matrix_is_torch_s_antialiased_bilinear(size_in: int, size_out: int) -> None:
    torch.manual_seed(0)
    signal = torch.randn(3, size_in)
    expected = F.interpolate(signal[None, :, None], size=(1, size_out), mode="bilinear", antialias=True)[0, :, 0]
    torch.testing.assert_close(signal @ resize_matrix(size_in, size_out).T, expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(resize_matrix(size_in, size_out).sum(1), torch.ones(size_out))


def upsample_then_pool(features: torch.Tensor, mask: np.ndarray) -> torch.Tensor:
    """LLM-Seg's steps one after the other, in float64 (models-and-data, sections 1.1 and 1.2)."""
    height, width = mask.shape
    side = 4 * features.shape[-1]
    square = torch.zeros(1, 1, max(height, width), max(height, width), dtype=torch.float64)
    square[0, 0, :height, :width] = torch.from_numpy(mask)
    weights = F.interpolate(square, size=(side, side), mode="bilinear", antialias=True)[0, 0]
    dense = F.interpolate(features[None].double(), size=(side, side), mode="bilinear")[0]
    return (dense * weights).sum((1, 2)) / (weights.sum() + 1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 24), st.floats(0, 1), st.integers(0, 2**31))
def test_pooling_by_the_adjoint_equals_upsample_then_pool(
    height: int, width: int, grid: int, share: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    features = torch.from_numpy(random.standard_normal((6, grid, grid)).astype(np.float32))
    masks = [random.random((height, width)) < share for _ in range(3)]
    found = pool(features, mask_weights(masks, (height, width), grid, "cpu"))
    for mask, vector in zip(masks, found, strict=True):
        np.testing.assert_allclose(vector, upsample_then_pool(features, mask), atol=1e-5)


def test_pooling_at_llm_seg_s_size() -> None:
    random = np.random.default_rng(0)
    features = torch.from_numpy(random.standard_normal((32, 64, 64)).astype(np.float32))
    y, x = np.mgrid[:480, :640]
    masks = [(x - 300) ** 2 + (y - 200) ** 2 < 9000, (x < 3) & (y < 2), (x > 600) & (y > 470)]
    found = pool(features, mask_weights(masks, (480, 640), 64, "cpu"))
    for mask, vector in zip(masks, found, strict=True):
        np.testing.assert_allclose(vector, upsample_then_pool(features, mask), rtol=1e-5, atol=1e-5)


def test_cells_outside_the_features_do_not_count() -> None:
    features = torch.full((2, 3, 4), 7.0)
    everything = mask_weights([np.ones((30, 40), bool)], (30, 40), 4, "cpu")
    np.testing.assert_allclose(pool(features, everything), 7.0, rtol=1e-6)


def test_an_empty_mask_gives_zeros_and_no_mask_gives_no_vector() -> None:
    features = torch.ones(5, 4, 4)
    assert not pool(features, mask_weights([np.zeros((9, 9), bool)], (9, 9), 4, "cpu")).any()
    assert pool(features, mask_weights([], (9, 9), 4, "cpu")).shape == (0, 5)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask 0 is \(3, 4\), expected the image's \(4, 4\)"):
        mask_weights([np.zeros((3, 4), bool)], (4, 4), 2, "cpu")


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.1, 0.5, 0.97, 1.0]))
def test_weights_from_runs_are_those_of_the_decoded_mask(height: int, width: int, seed: int, share: float) -> None:
    """Whatever the runs: none, one over all columns, ends at a column's border."""
    mask = np.random.default_rng(seed).random((height, width)) < share
    grid, square = 4, max(height, width)
    found = mask_weights(RleMasks([rle.encode(mask)], height, width), (height, width), grid, "cpu")[0]
    matrix = resize_matrix(grid, UPSAMPLING * grid).T @ resize_matrix(square, UPSAMPLING * grid)
    want = matrix[:, :height] @ torch.from_numpy(mask).float() @ matrix[:, :width].T
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, mask_weights([mask], (height, width), grid, "cpu")[0], rtol=0, atol=0)


def test_masks_of_runs_of_another_size_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"mask 0 is \(3, 5\), expected the image's \(5, 3\)"):
        mask_weights(RleMasks([rle.encode(np.ones((3, 5), bool))], 3, 5), (5, 3), 4, "cpu")
