"""``store.overlap`` against ``pycocotools`` and against numpy on decoded masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray
from pycocotools import mask as coco

from store import rle
from store.errors import RleError
from store.overlap import against_instances, against_targets, among_instances

Mask = NDArray[np.bool_]
EMPTY, FULL = np.zeros((6, 5), bool), np.ones((6, 5), bool)
LEFT = np.broadcast_to(np.arange(5) < 2, (6, 5))
TOP = np.broadcast_to(np.arange(6)[:, None] < 3, (6, 5))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Mask], list[Mask]]:
    """Masks and ground truths of one size, empty and full ones among them."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    one = st.one_of(npst.arrays(np.bool_, shape), st.booleans().map(lambda value: np.full(shape, value)))
    return draw(st.lists(one, max_size=4)), draw(st.lists(one, min_size=2, max_size=3))


def encode_all(masks: list[Mask]) -> list[str]:
    return [rle.encode(mask) for mask in masks]


def ratio(part: Mask, whole: Mask) -> np.float32:
    return np.float32(part.sum() / whole.sum() if whole.any() else 0)


def coco_iou(masks: list[Mask], truths: list[Mask], crowd: int) -> NDArray[np.float32]:
    """``pycocotools``: with ``crowd`` its "IoU" is intersection over the first mask's area, which is IoP."""
    first, second = (
        [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in side] for side in (masks, truths)
    )
    values = coco.iou(first, second, [crowd] * len(second))
    return np.asarray(values, np.float32).reshape(len(masks), len(truths))


@given(scenes())
@settings(deadline=None)
def test_instances_equal_pycocotools(scene: tuple[list[Mask], list[Mask]]) -> None:
    masks, instances = scene
    iou, iop = against_instances(encode_all(masks), encode_all(instances))
    assert iou.dtype == iop.dtype == np.float32
    np.testing.assert_array_equal(iou, coco_iou(masks, instances, crowd=0))
    np.testing.assert_array_equal(iop, coco_iou(masks, instances, crowd=1))
    for found, crowd in zip(among_instances(encode_all(instances)), (0, 1), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, coco_iou(instances, instances, crowd))


@given(scenes())
@settings(deadline=None)
def test_targets_equal_numpy_and_pycocotools(scene: tuple[list[Mask], list[Mask]]) -> None:
    masks, (truth, ignore, *_) = scene
    found = against_targets(encode_all(masks), rle.encode(truth), rle.encode(ignore))
    expected = [
        [ratio(mask & truth, mask | truth) for mask in masks],
        [ratio(mask & truth, mask) for mask in masks],
        [ratio(mask & truth & ~ignore, (mask | truth) & ~ignore) for mask in masks],
        [ratio(mask & truth & ~ignore, mask & ~ignore) for mask in masks],
    ]
    for values, reference in zip(found, expected, strict=True):
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, np.array(reference, np.float32))
    kept = [mask & ~ignore for mask in masks]
    np.testing.assert_array_equal(found[2], coco_iou(kept, [truth & ~ignore], crowd=0)[:, 0])
    np.testing.assert_array_equal(found[3], coco_iou(kept, [truth & ~ignore], crowd=1)[:, 0])


@given(scenes())
@settings(deadline=None)
def test_valid_iou_equals_lisas_metric(scene: tuple[list[Mask], list[Mask]]) -> None:
    """LISA writes 255 over prediction and target where the target is 255, then counts class 1 in both."""
    masks, (truth, ignore, *_) = scene
    target = np.where(ignore, 255, truth)
    iou_valid = against_targets(encode_all(masks), rle.encode(truth), rle.encode(ignore))[2]
    for mask, value in zip(masks, iou_valid, strict=True):
        prediction = np.where(target == 255, 255, mask)
        common = np.count_nonzero((prediction == target) & (prediction == 1))
        union = np.count_nonzero(prediction == 1) + np.count_nonzero(target == 1) - common
        assert value == np.float32(common / union if union else 0)


IOU, IOP, NONE = (
    (1, 2 / 7, 0, 2 / 5),
    (1, 2 / 5, 0, 2 / 5),
    (0, 0, 0, 0),
)  # of the four masks below, with LEFT


@pytest.mark.parametrize(
    ("truth", "ignore", "expected"),
    [
        pytest.param(LEFT, EMPTY, (IOU, IOP, IOU, IOP), id="nothing ignored"),
        pytest.param(LEFT, TOP, (IOU, IOP, (1, 0, 0, 2 / 5), (1, 0, 0, 2 / 5)), id="half ignored"),
        pytest.param(LEFT, FULL, (IOU, IOP, NONE, NONE), id="all ignored"),
        pytest.param(EMPTY, TOP, (NONE,) * 4, id="only ignored pixels"),
        pytest.param(EMPTY, EMPTY, (NONE,) * 4, id="absent target"),
        pytest.param(FULL, EMPTY, ((2 / 5, 1 / 2, 0, 1), (1, 1, 0, 1)) * 2, id="everything"),
    ],
)
def test_small_cases_by_hand(truth: Mask, ignore: Mask, expected: tuple[tuple[float, ...], ...]) -> None:
    masks = encode_all([LEFT, TOP, EMPTY, FULL])
    found = against_targets(masks, rle.encode(truth), rle.encode(ignore))
    np.testing.assert_array_equal(found, np.array(expected, np.float32))


def test_no_masks_and_no_instances_give_empty_arrays() -> None:
    full = rle.encode(FULL)
    assert [values.shape for values in against_targets([], full, full)] == [(0,)] * 4
    assert [values.shape for values in against_instances([], [full])] == [(0, 1)] * 2
    assert [values.shape for values in against_instances([full], [])] == [(1, 0)] * 2
    assert [values.shape for values in among_instances([])] == [(0, 0)] * 2


def test_masks_of_another_image_are_refused() -> None:
    full, other = rle.encode(FULL), rle.encode(np.ones((7, 7), bool))
    with pytest.raises(RleError, match="of 30 and of 49 pixels"):
        against_instances([full], [other])
    with pytest.raises(RleError, match="of 30 and of 49 pixels"):
        against_targets([full], full, other)
