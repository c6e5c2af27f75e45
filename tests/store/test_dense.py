"""Features in int8 with a scale for each token."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from store.dense import from_int8, to_int8

FINITE = st.floats(-65504, 65504, width=32)


@given(arrays(np.float32, (2, 3, 4), elements=FINITE), st.sampled_from((-1, -3)))
def test_no_value_is_wrong_by_more_than_half_a_scale(vectors: np.ndarray, axis: int) -> None:
    values, scale = to_int8(vectors, axis)
    assert (values.dtype, values.shape) == (np.int8, vectors.shape)
    assert (scale.dtype, scale.shape) == (np.float16, vectors.max(axis).shape)
    found = from_int8(values, scale, axis)
    assert found.dtype == np.float16
    assert np.isfinite(found).all()
    rounding = np.abs(vectors) * 2.0**-11 + 2.0**-25  # of the float16 that is read
    assert (np.abs(found - vectors) <= np.expand_dims(scale.astype(float), axis) / 2 + rounding).all()


def test_what_is_small_beside_its_token_s_largest_is_lost_and_no_other_token_s_is() -> None:
    vectors = np.array([[100.0, 0.3], [0.5, 0.3]], np.float32)
    found = from_int8(*to_int8(vectors, -1), -1)
    np.testing.assert_allclose(found, [[100, 0], [0.5, 0.3]], atol=0.05)


@pytest.mark.parametrize("vector", [[0.0, 0.0], [-0.0, 0.0], [6e-8, -6e-8], [65504.0, -65504.0]])
def test_edges_of_float16(vector: list[float]) -> None:
    vectors = np.array([vector], np.float32)
    values, scale = to_int8(vectors, -1)
    np.testing.assert_allclose(from_int8(values, scale, -1), vectors, rtol=1e-3, atol=6e-8)


def test_it_is_half_the_bytes_and_near() -> None:
    vectors = np.random.default_rng(0).standard_normal((256, 64, 64)).astype(np.float32)  # as SAM's of one image
    values, scale = to_int8(vectors, -3)
    assert (values.nbytes + scale.nbytes) / vectors.astype(np.float16).nbytes < 0.51
    found = from_int8(values, scale, -3).astype(np.float64)
    cosine = (found * vectors).sum(0) / np.linalg.norm(found, axis=0) / np.linalg.norm(vectors, axis=0)
    assert cosine.min() > 0.9998
