"""Outlines of masks as SVG paths: filled, they are the mask, pixel for pixel."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from store import outlines, rle
from store.errors import RleError
from store.outlines import outline


def filled(path: str, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """The pixels whose centres matplotlib finds inside an odd number of the path's loops, as ``fill-rule: evenodd`` does."""
    rows, columns = np.indices((height_px, width_px))
    centres = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], axis=1)
    found = np.zeros(len(centres), bool)
    for loop in filter(None, path.split("Z")):
        x, y, *rest = re.fullmatch(r"M(\d+) (\d+)(.*)", loop).groups()  # type: ignore[union-attr]
        points = [(int(x), int(y))]
        for way, value in re.findall(r"([HV])(\d+)", rest[0]):
            points.append((int(value), points[-1][1]) if way == "H" else (points[-1][0], int(value)))
        found ^= Polygon([*points, points[0]]).contains_points(centres)
    return found.reshape(height_px, width_px)


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.booleans()))
def test_a_filled_outline_is_the_mask(mask: NDArray[np.bool_]) -> None:
    path = outline(rle.encode(mask), len(mask))
    assert (filled(path, *mask.shape) == mask).all(), path


def test_a_whole_image_is_one_rectangle_and_an_empty_mask_is_nothing() -> None:
    assert outline(rle.encode(np.ones((3, 5), bool)), 3) == "M0 0V3H5V0Z"
    assert outline(rle.encode(np.zeros((3, 5), bool)), 3) == ""


def test_noise_is_drawn_as_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "MOST_CORNERS", 10)
    mask = np.indices((6, 8)).sum(axis=0) % 2 == 0
    assert outline(rle.encode(mask), 6) == "M0 0V6H8V0Z"


def test_malformed_counts_are_refused() -> None:
    with pytest.raises(RleError):
        outline("\x00<script>", 4)
