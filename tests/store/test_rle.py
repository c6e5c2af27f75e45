"""``store.rle`` against ``pycocotools``, and against numpy on decoded masks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pycocotools import mask as coco
from segment_anything.utils.amg import batched_mask_to_box, box_xyxy_to_xywh

from store import rle
from store.errors import RleError

Mask = NDArray[np.bool_]
# pycocotools' decode and numpy >= 2 disagree about a keyword; its result is right.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SPECIAL = {
    "empty": np.zeros((5, 4), bool),
    "full": np.ones((5, 4), bool),
    "first pixel": np.arange(20).reshape(5, 4) == 0,
    "last pixel": np.arange(20).reshape(5, 4) == 19,
    "1x1 empty": np.zeros((1, 1), bool),
    "1x1 full": np.ones((1, 1), bool),
    "1xN": np.arange(9)[None] % 3 == 1,
    "Nx1": np.arange(9)[:, None] % 3 == 1,
    "one column": np.arange(30)[None].repeat(20, 0) == 7,
    "inner square": np.pad(np.ones((2, 2), bool), 3),
    "chessboard": np.indices((64, 48)).sum(0) % 2 == 1,
    "large empty": np.zeros((1500, 2000), bool),
    "large half": np.repeat([False, True], 1000)[None].repeat(1500, 0),
}


@st.composite
def masks(draw: st.DrawFn, number: int = 1) -> list[Mask]:
    """Masks of one size: noise (many short runs) or rectangles (long runs, numbers of several groups)."""
    if draw(st.booleans()):
        shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
        return [draw(npst.arrays(np.bool_, shape)) for _ in range(number)]
    shape = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    return [draw(_rectangles(shape)) for _ in range(number)]


@st.composite
def _rectangles(draw: st.DrawFn, shape: tuple[int, int]) -> Mask:
    mask = np.full(shape, draw(st.booleans()))
    for _ in range(draw(st.integers(0, 4))):
        top, bottom = sorted(draw(st.tuples(*[st.integers(0, shape[0])] * 2)))
        left, right = sorted(draw(st.tuples(*[st.integers(0, shape[1])] * 2)))
        mask[top:bottom, left:right] ^= True
    return mask


def reference(mask: Mask) -> dict[str, bytes]:
    encoded: dict[str, bytes] = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded


def check_one(mask: Mask) -> None:
    height, width = mask.shape
    expected = reference(mask)
    counts = rle.encode(mask)
    assert counts.encode() == expected["counts"]
    decoded = rle.decode(counts, height, width)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, coco.decode(expected) != 0)
    assert rle.area(counts) == coco.area(expected)
    assert rle.bbox(counts, height) == tuple(coco.toBbox(expected))
    if mask.size:
        last = rle.sam_bbox(rle.bbox(counts, height)).tolist()
        assert last == box_xyxy_to_xywh(batched_mask_to_box(torch.from_numpy(mask))).tolist()
    assert rle.from_runs(rle.to_runs(counts)) == counts
    assert rle.to_runs(counts).sum() == mask.size


@pytest.mark.parametrize("name", SPECIAL)
def test_special_masks_equal_pycocotools(name: str) -> None:
    check_one(SPECIAL[name])


@given(masks())
@settings(deadline=None)
def test_any_mask_equals_pycocotools(drawn: list[Mask]) -> None:
    check_one(drawn[0])


def test_uint8_and_any_memory_order_encode_the_same() -> None:
    mask = np.random.default_rng(0).random((31, 57)) > 0.5
    counts = rle.encode(mask)
    assert rle.encode(mask.astype(np.uint8) * 255) == counts
    assert rle.encode(np.asfortranarray(mask)) == counts
    assert rle.encode(mask[::-1][::-1]) == counts


@given(masks(number=7))
@settings(deadline=None)
def test_intersections_equal_numpy_and_pycocotools(drawn: list[Mask]) -> None:
    a, b = drawn[:4], drawn[4:]
    expected = np.array([[np.count_nonzero(x & y) for y in b] for x in a])
    counts_a, counts_b = [rle.encode(x) for x in a], [rle.encode(y) for y in b]
    found = rle.intersections(counts_a, counts_b)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(rle.intersections(counts_b, counts_a), expected.T)
    area_a, area_b = (np.array([rle.area(c) for c in counts]) for counts in (counts_a, counts_b))
    union = area_a[:, None] + area_b - found
    iou = np.divide(found, union, out=np.zeros(found.shape), where=union > 0)
    coco_iou = coco.iou([reference(x) for x in a], [reference(y) for y in b], [0] * len(b))
    np.testing.assert_array_equal(iou, coco_iou)


def test_intersections_without_masks_are_empty() -> None:
    counts = rle.encode(SPECIAL["full"])
    assert rle.intersections([], [counts, counts]).shape == (0, 2)
    assert rle.intersections([counts], []).shape == (1, 0)
    assert rle.intersections([], []).shape == (0, 0)


@given(masks(number=3))
@settings(deadline=None)
def test_union_and_subtract_equal_numpy(drawn: list[Mask]) -> None:
    height, width = drawn[0].shape
    counts = [rle.encode(mask) for mask in drawn]
    assert rle.union(counts, height, width) == rle.encode(np.logical_or.reduce(drawn))
    assert rle.union(counts, height, width).encode() == coco.merge([reference(m) for m in drawn])["counts"]
    assert rle.union([], height, width) == rle.encode(np.zeros((height, width), bool))
    assert rle.subtract(counts[0], counts[1]) == rle.encode(drawn[0] & ~drawn[1])
    assert rle.subtract(counts[0], counts[0]) == rle.encode(np.zeros((height, width), bool))


def test_empty_runs_between_others_are_read() -> None:
    """Other writers leave runs of length 0, and ``frPyObjects`` keeps them: legal, and they hold no pixel."""
    runs = np.array([0, 0, 3, 2, 0, 1, 6, 0, 4, 0])
    counts = rle.from_runs(runs)
    assert counts.encode() == coco.frPyObjects({"size": [4, 4], "counts": runs.tolist()}, 4, 4)["counts"]
    mask = rle.decode(counts, 4, 4)
    np.testing.assert_array_equal(mask.ravel(order="F").nonzero()[0], [3, 4, 5])
    clean = rle.encode(mask)
    assert rle.bbox(counts, 4) == rle.bbox(clean, 4) == (0, 0, 2, 4)
    assert rle.intersections([counts], [clean, counts]).tolist() == [[3, 3]]
    assert rle.union([counts], 4, 4) == clean
    assert rle.subtract(clean, counts) == rle.encode(np.zeros((4, 4), bool))


def test_longest_runs_survive() -> None:
    runs = np.array([0, 2**32 - 1, 0, 0, 0, 2**32 - 1])
    np.testing.assert_array_equal(rle.to_runs(rle.from_runs(runs)), runs)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("", "0 characters"),
        ("5p1", "'p' at character 1"),
        ("5/1", "'/' at character 1"),
        ("5\0", "at character 1"),
        ("1é", "'é' at character 1"),
        ("5P", "end within a number"),
        ("1N", "run 1 has -2 pixels"),
        ("015N", "run 3 has -1 pixels"),
        ("oooooo?", "run 0 has 17179869183 pixels"),
        ("PPPPPPP0", "8 groups"),
    ],
)
def test_malformed_counts_are_refused(counts: str, message: str) -> None:
    for read in (rle.to_runs, rle.area, lambda c: rle.bbox(c, 4), lambda c: rle.decode(c, 400, 400)):
        with pytest.raises(RleError, match=message):
            read(counts)
    good = rle.encode(np.zeros((400, 400), bool))
    for both in (
        rle.subtract,
        lambda a, b: rle.intersections([a], [b]),
        lambda a, b: rle.union([a, b], 400, 400),
    ):
        with pytest.raises(RleError, match=message):
            both(good, counts)


@given(st.text(alphabet=[chr(code) for code in range(44, 116)], max_size=60))
@settings(deadline=None)
def test_any_text_is_read_or_refused(counts: str) -> None:
    try:
        runs = rle.to_runs(counts)
    except RleError:
        return
    assert runs.min() >= 0
    np.testing.assert_array_equal(rle.to_runs(rle.from_runs(runs)), runs)


def test_counts_of_another_size_are_refused() -> None:
    counts = rle.encode(np.ones((4, 6), bool))
    with pytest.raises(RleError, match="cover 24 pixels, expected 4 x 5 = 20"):
        rle.decode(counts, 4, 5)
    with pytest.raises(RleError, match="cover 24 pixels"):
        rle.union([counts], 4, 7)
    other = rle.encode(np.ones((4, 5), bool))
    with pytest.raises(RleError, match="of 20 and of 24 pixels"):
        rle.subtract(counts, other)
    with pytest.raises(RleError, match="of 20 and of 24 pixels"):
        rle.intersections([counts], [other])
    with pytest.raises(RleError, match="negative size"):
        rle.decode(counts, -4, -6)
    with pytest.raises(RleError, match="height 0"):
        rle.bbox(counts, 0)


def test_forged_counts_cost_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few characters that claim billions of pixels, and a long string for a small mask."""
    huge = rle.from_runs(np.full(40, 2**32 - 1))
    long = "0" * 2_000_000
    tracemalloc.start()
    for counts, side in ((huge, 100_000), (long, 16)):
        with pytest.raises(RleError, match=r"counts (cover|have)"):
            rle.decode(counts, side, side)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    monkeypatch.setattr(rle, "MAX_CHARS", 100)
    with pytest.raises(RleError, match="expected 1 to 100"):
        rle.to_runs("0" * 101)
    with pytest.raises(RleError, match="at most 100"):
        rle.encode(SPECIAL["chessboard"])


@pytest.mark.parametrize("mask", [np.zeros(3, bool), np.zeros((1, 2, 3), bool), np.zeros((2, 2), np.float32)])
def test_what_is_no_mask_is_refused(mask: NDArray[np.generic]) -> None:
    with pytest.raises(RleError, match="expected \\[H, W\\] bool or uint8"):
        rle.encode(mask)  # type: ignore[arg-type]


@pytest.mark.parametrize("runs", [[], [[1, 2]], [3, -1], [2**32]])
def test_what_are_no_runs_are_refused(runs: list[int]) -> None:
    with pytest.raises(RleError):
        rle.from_runs(np.array(runs, np.int64))
