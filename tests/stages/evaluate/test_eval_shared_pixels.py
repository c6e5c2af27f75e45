"""``stages.evaluate.shared_pixels`` and ``partition`` against numpy, pycocotools, torch's resize and a plain convex hull."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pycocotools import mask as coco

from stages.evaluate.partition import partition
from stages.evaluate.shared_pixels import hull_area, resized_area, shared_pixels
from store import rle
from store.errors import RleError

Mask = NDArray[np.bool_]
EMPTY, FULL = np.zeros((7, 5), bool), np.ones((7, 5), bool)
LEFT = np.broadcast_to(np.arange(5) < 2, (7, 5)).copy()
TOP = np.broadcast_to(np.arange(7)[:, None] < 3, (7, 5)).copy()


@st.composite
def scenes(draw: st.DrawFn, count: int = 3) -> list[Mask]:
    """Masks of one size, empty and full ones among them."""
    shape = draw(st.tuples(st.integers(1, 13), st.integers(1, 13)))
    one = st.one_of(npst.arrays(np.bool_, shape), st.booleans().map(lambda value: np.full(shape, value)))
    return [draw(one) for _ in range(count)]


def resize(mask: Mask, side: int) -> Mask:
    """As LLM-Seg's validator: ``F.interpolate(..., mode="nearest")``."""
    pixels = torch.from_numpy(mask.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(pixels, size=(side, side), mode="nearest")[0, 0].numpy() > 0


def plain_hull_area(mask: Mask) -> float:
    """Monotone chain (Andrew) over the corners of every set pixel, then the shoelace formula."""
    corners = {(x + dx, y + dy) for y, x in np.argwhere(mask).tolist() for dx in (0, 1) for dy in (0, 1)}
    if not corners:
        return 0.0
    points = sorted(corners)

    def chain(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
        hull: list[tuple[int, int]] = []
        for x, y in points:
            while len(hull) > 1:
                (ax, ay), (bx, by) = hull[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                hull.pop()
            hull.append((x, y))
        return hull[:-1]

    hull = chain(points) + chain(points[::-1])
    pairs = zip(hull, hull[1:] + hull[:1], strict=True)
    return abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) / 2


@given(scenes())
@settings(deadline=None, max_examples=80)
@example([EMPTY, EMPTY, EMPTY])  # nothing and nothing
@example([EMPTY, FULL, EMPTY])  # an empty target, everything predicted
@example([FULL, EMPTY, EMPTY])
@example([FULL, FULL, EMPTY])
@example([LEFT, FULL, FULL])  # everything is ignored
@example([LEFT, TOP, LEFT])  # the target is ignored, some of the prediction is not
@example([LEFT, TOP, TOP])
def test_shared_pixels_equal_numpy_pycocotools_and_torch(scene: list[Mask]) -> None:
    target, guess, ignore = scene
    height, width = target.shape
    found = shared_pixels(rle.encode(target), rle.encode(guess), rle.encode(ignore), height, width)
    truth, kept = target & ~ignore, guess & ~ignore
    assert found.intersection_px == (truth & kept).sum()
    assert found.union_px == (truth | kept).sum()
    assert found.nc_intersection_px == resize(truth & kept, 1024).sum()
    assert found.nc_union_px == resize(truth | kept, 1024).sum()
    pair = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in (kept, truth)]
    if (truth | kept).any():
        assert found.iou == pytest.approx(coco.iou(pair[:1], pair[1:], [0])[0, 0], abs=1e-12)
    else:
        assert found.iou == 1
    hull = plain_hull_area(truth | kept)
    assert found.hull_px == hull
    expected = found.iou - (hull - found.union_px) / hull if hull else 1
    assert found.giou_hull == pytest.approx(expected, abs=1e-12)
    assert -1 <= found.giou_hull <= found.iou


def test_the_four_cases_of_nothing() -> None:
    def figures(target: Mask, guess: Mask, ignore: Mask = EMPTY) -> tuple[float, float]:
        found = shared_pixels(rle.encode(target), rle.encode(guess), rle.encode(ignore), 7, 5)
        return found.iou, found.giou_hull

    assert figures(EMPTY, EMPTY) == (1, 1)
    assert figures(EMPTY, LEFT) == (0, 0)
    assert figures(LEFT, EMPTY) == (0, 0)
    assert figures(LEFT, TOP, ignore=FULL) == (1, 1)


def test_giou_of_two_pixels_far_apart() -> None:
    """1 x 10 px, first and last: IoU 0, union 2, hull 10."""
    ends = [np.arange(10)[None] == place for place in (0, 9)]
    found = shared_pixels(rle.encode(ends[0]), rle.encode(ends[1]), rle.encode(np.zeros((1, 10), bool)), 1, 10)
    assert (found.hull_px, found.giou_hull) == (10, pytest.approx(-0.8))


def test_another_size_is_an_error() -> None:
    with pytest.raises(RleError, match="masks of one image"):
        shared_pixels(rle.encode(LEFT), rle.encode(LEFT[:3]), rle.encode(EMPTY), 7, 5)


@given(scenes(1), st.integers(1, 40))
@settings(deadline=None, max_examples=150)
def test_resized_area_equals_torch_of_any_size(scene: list[Mask], side: int) -> None:
    (mask,) = scene
    assert resized_area(rle.encode(mask), *mask.shape, side) == resize(mask, side).sum()


@pytest.mark.parametrize("shape", [(1023, 2), (2000, 3), (1, 4097), (1025, 3)])
def test_resized_area_of_larger_images(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    assert resized_area(rle.encode(mask), *shape) == resize(mask, 1024).sum()


@given(scenes(1))
@settings(deadline=None, max_examples=150)
def test_hull_equals_the_plain_one(scene: list[Mask]) -> None:
    (mask,) = scene
    assert hull_area(rle.encode(mask), mask.shape[0]) == plain_hull_area(mask)


def test_hull_of_a_rectangle_is_its_area_and_of_a_diagonal_more() -> None:
    assert hull_area(rle.encode(LEFT), 7) == 14
    assert hull_area(rle.encode(np.eye(4, dtype=bool)), 4) == 4 * 4 - 2 * 4.5


@given(scenes(5), st.integers(0, 5))
@settings(deadline=None, max_examples=80)
def test_partition_gives_every_union(scene: list[Mask], count: int) -> None:
    masks = scene[:count]
    pixels, members = partition([rle.encode(mask) for mask in masks], *scene[0].shape)
    assert pixels.min() > 0
    assert pixels.sum() == scene[0].size
    assert members.shape == (len(pixels), count)
    assert len({tuple(row) for row in members.tolist()}) == len(pixels)
    for size in range(count + 1):
        for some in itertools.combinations(range(count), size):
            union = np.any([masks[k] for k in some], axis=0) if some else np.zeros(scene[0].shape, bool)
            assert pixels[members[:, list(some)].any(axis=1)].sum() == union.sum()


def test_partition_of_more_masks_than_a_word_has_bits() -> None:
    masks = np.random.default_rng(0).random((130, 6, 5)) < 0.5
    pixels, members = partition([rle.encode(mask) for mask in masks], 6, 5)
    assert pixels.tolist() == [1] * 30
    columns = {tuple(column) for column in members.tolist()}
    assert columns == {tuple(masks[:, y, x].tolist()) for y in range(6) for x in range(5)}


def test_partition_of_another_size_is_an_error() -> None:
    with pytest.raises(RleError, match="expected 7 x 5 = 35"):
        partition([rle.encode(LEFT), rle.encode(LEFT[:3])], 7, 5)
