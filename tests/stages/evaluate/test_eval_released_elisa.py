"""ELISA's published figures against its released code, written out: ``compute_IoU`` without Shapely, and ``val_step``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from factory import Known
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stages.evaluate import Prediction, score
from stages.evaluate.cases import CANDIDATES, Case, questions
from stages.evaluate.metrics import METRICS, value
from stages.evaluate.released_elisa import elisa_areas
from store import Split, rle

Mask = NDArray[np.bool_]
Ring = list[tuple[int, int]]
SHAPE = (30, 40)


def shapes(masks: Iterable[Mask]) -> list[list[Ring]]:
    """``reshape_image`` and ``get_shapes_from_masks``."""
    squashed = [cv2.resize(mask.astype(np.uint8) * 255, (1024, 1024)) for mask in masks]
    found = [cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0] for mask in squashed]
    return [[[(int(p[0][0]), int(p[0][1])) for p in s] for s in shape] for shape in found]


def pixels_of(ring: Ring) -> list[tuple[int, int]]:
    """Every pixel that the edges of a ring pass, in order."""
    passed = []
    for (x, y), (to_x, to_y) in zip(ring, ring[1:] + ring[:1], strict=True):
        steps = max(abs(to_x - x), abs(to_y - y))
        passed += [(x + (to_x - x) * k // steps, y + (to_y - y) * k // steps) for k in range(steps)]
    return passed


def is_valid(ring: Ring) -> bool:
    """As Shapely says of a polygon whose edges are horizontal, vertical or diagonal: it meets itself nowhere."""
    return len(set(pixels_of(ring))) == len(pixels_of(ring)) > 2


def inside(rings: list[Ring], y: float) -> list[tuple[float, float]]:
    """Where the union of the rings lies on a horizontal line that passes no corner, as disjoint intervals."""
    spans = []
    for ring in rings:
        edges = zip(ring, ring[1:] + ring[:1], strict=True)
        crossed = sorted(ax + (y - ay) * (bx - ax) / (by - ay) for (ax, ay), (bx, by) in edges if (ay < y) != (by < y))
        spans += list(zip(crossed[::2], crossed[1::2], strict=True))
    merged: list[tuple[float, float]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def area(*sides: list[Ring]) -> float:
    """Area of the intersection of the unions of rings: between half pixels every length is linear in y, so the middle serves."""
    total = 0.0
    corners = [y for ring in sides[0] for _, y in ring]
    for half in range(2 * min(corners, default=0), 2 * max(corners, default=0)):
        lines = [inside(rings, half / 2 + 0.25) for rings in sides]
        for parts in itertools.product(*lines):
            total += max(0.0, min(high for _, high in parts) - max(low for low, _ in parts)) / 2
    return total


def compute_iou(truths: list[list[Ring]], guesses: list[list[Ring]]) -> tuple[float, float, float, float]:
    """``validation.py``, with :func:`area` for Shapely's."""
    truth, guess = ([ring for shape in side for ring in shape if is_valid(ring)] for side in (truths, guesses))
    if not truth or not guess:
        return 0.0, 0.0, 0.0, 0.0
    common, either = area(truth, guess), area(truth + guess)
    corners = np.array([corner for ring in truth + guess for corner in ring], np.int32)
    hull = float(cv2.contourArea(cv2.convexHull(corners)))
    return common, either, common / either, common / either - (hull - either) / hull


def drawn(draw: Callable[[NDArray[np.uint8]], object], shape: tuple[int, int] = SHAPE) -> Mask:
    canvas = np.zeros(shape, np.uint8)
    draw(canvas)
    return canvas > 0


DISC = drawn(lambda canvas: cv2.circle(canvas, (18, 14), 9, 1, -1))
RING = drawn(lambda canvas: cv2.circle(canvas, (20, 15), 10, 1, 4))
LEFT, RIGHT = (drawn(lambda canvas, x=x: cv2.rectangle(canvas, (x, 4), (x + 9, 24), 1, -1)) for x in (4, 14))
WIRE = drawn(lambda canvas: cv2.rectangle(canvas, (5, 5), (30, 25), 1, 1))
CORNERS = drawn(lambda canvas: (cv2.circle(canvas, (8, 8), 5, 1, -1), cv2.circle(canvas, (32, 22), 4, 1, -1)))
SAND = np.random.default_rng(0).random((6, 5)) < 0.4
LARGE = drawn(lambda canvas: cv2.circle(canvas, (500, 500), 300, 1, -1), (1024, 1024))
SPUR = drawn(
    lambda canvas: (cv2.circle(canvas, (500, 500), 300, 1, -1), cv2.line(canvas, (0, 500), (500, 500), 1)), LARGE.shape
)


@pytest.mark.parametrize(
    ("truths", "guesses"),
    [
        ([DISC], [DISC]),
        ([DISC], [RING]),
        ([RING], [LEFT]),  # a hole is filled: its contour lies inside the outer one
        ([LEFT, RIGHT], [LEFT | RIGHT]),  # neighbours leave a gap where their border pixels meet
        ([LEFT | RIGHT], [LEFT, RIGHT, DISC]),
        ([CORNERS], [DISC]),  # a large hull
        ([SAND], [SAND[::-1], SAND[:, ::-1]]),
        ([WIRE], [DISC]),
        (
            [LARGE],
            [SPUR],
        ),  # at 1024 x 1024 a line of one pixel makes the contour meet itself, and the disc is gone with it
        ([SPUR, LARGE], [LARGE]),
    ],
)
def test_areas_are_the_released_ones(truths: list[Mask], guesses: list[Mask]) -> None:
    found = elisa_areas([rle.encode(m) for m in truths], [rle.encode(m) for m in guesses], *truths[0].shape)
    assert found == pytest.approx(compute_iou(shapes(truths), shapes(guesses)), abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=5)
def test_areas_of_any_masks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 14, 2).tolist())
    sides = [[rng.random(shape) < rng.choice([0.2, 0.6, 1.0]) for _ in range(rng.integers(0, 3))] for _ in range(2)]
    found = elisa_areas(*([rle.encode(mask) for mask in side] for side in sides), *shape)
    assert found == pytest.approx(compute_iou(shapes(sides[0]), shapes(sides[1])), abs=1e-9)


def test_a_spur_costs_everything_as_released() -> None:
    assert elisa_areas([rle.encode(LARGE)], [rle.encode(SPUR)], *LARGE.shape) == (0, 0, 0, 0)


def test_nothing_is_never_right() -> None:
    """A miss, a false alarm and a right refusal: 0, and in no sum."""
    disc, empty = rle.encode(DISC), rle.encode(np.zeros(SHAPE, bool))
    for truths, guesses in (([disc], []), ([], [disc]), ([], []), ([empty], [empty]), ([disc], [empty])):
        assert elisa_areas(truths, guesses, *SHAPE) == (0, 0, 0, 0)


def test_the_score_of_a_split_is_the_released_validation_s(split: Split, known: Known) -> None:
    """Chosen proposals one by one, a mask of no choice as one; sums over all questions, means over them."""
    rng = np.random.default_rng(1)
    answers, rows = [], []
    for question in questions(split):
        masks, instances = known.masks[question.image_index], known.instances[question.image_index]
        chosen = tuple(np.flatnonzero(rng.random(len(masks)) < 0.2).tolist())
        guesses = [masks[k] for k in chosen]
        union = rle.union([rle.encode(mask) for mask in guesses], 4, 6)
        if rng.random() < 0.3:
            guesses, chosen = [rng.random((4, 6)) < 0.5], None  # type: ignore[assignment]
            union = rle.encode(guesses[0])
        answers.append(Prediction(question.target_id, 0, union, False, chosen))
        rows.append(compute_iou(shapes(instances[j] for j in question.target["instances"]), shapes(guesses)))
    samples = score(split, answers).systems["predictions"]
    common, either, iou, giou = np.array(rows).T
    assert value(METRICS["elisa_ciou"](samples)) == pytest.approx(common.sum() / either.sum(), abs=1e-9)
    assert value(METRICS["elisa_iou"](samples)) == pytest.approx(iou.mean(), abs=1e-9)
    assert value(METRICS["elisa_giou"](samples)) == pytest.approx(giou.mean(), abs=1e-9)
    assert (samples.elisa_iou[~samples.exists & (samples.empty == 1)] == 0).all()


def val_step(generated: set[int], truths: int, proposals: int) -> tuple[float, float, float, float]:
    """``llava_finetune/functions.py``: candidates are numbered from 1, the ground truth first."""
    positive, negative = set(range(1, truths + 1)), set(range(truths + 1, truths + proposals + 1))
    tp, fp = len(generated & positive), len(generated & negative)
    fn, tn = len(positive - generated), len(negative - generated)
    return (
        tp / (tp + fp) if tp + fp else 0,
        tp / (tp + fn) if tp + fn else 0,
        2 * tp / (2 * tp + fp + fn) if 2 * tp + fp + fn else 0,
        (tp + tn) / (tp + tn + fp + fn) if tp + tn + fp + fn else 0,
    )


def test_the_choice_is_scored_as_released(split: Split) -> None:
    """Instances of other targets are offered too, and are wrong; targets without instances or proposals do not count."""
    rng = np.random.default_rng(2)
    answers, rows = [], []
    for question in questions(split):
        index = Case(split, question, 0, CANDIDATES["proposals+gt"]).offered.index.tolist()
        asked = [-1 - j for j in question.target["instances"]]
        order = [*asked, *(number for number in index if number not in asked)]
        picked = [number for number in order if rng.random() < 0.4]
        answers.append(Prediction(question.target_id, 0, None, False, tuple(picked)))
        if asked and any(number >= 0 for number in index):
            rows.append(val_step({order.index(k) + 1 for k in picked}, len(asked), len(order) - len(asked)))
    assert 0 < len(rows) < len(answers)
    samples = score(split, answers, setting="proposals+gt").systems["predictions"]
    names = ("elisa_precision", "elisa_recall", "elisa_f1", "elisa_accuracy")
    found = [value(METRICS[name](samples)) for name in names]
    assert found == pytest.approx(np.mean(rows, axis=0).tolist(), abs=1e-12)
    assert found[2] != pytest.approx(value(METRICS["f1"](samples)), abs=1e-3), "a proposal that fits is right in ours"


def test_the_slides_rand50_has_the_ground_truth_alone_as_positives(split: Split) -> None:
    """``rand_tp = len(positive_masks) / 2`` and so on."""
    name = "Rand50 (of expected counts, as the slides)"
    rows = []
    for question in questions(split):
        offered = Case(split, question, 0, CANDIDATES["proposals+gt"]).offered
        truths = len(question.target["instances"])
        others = len(offered.index) - truths
        if truths and (offered.index >= 0).any():
            tp, fp = truths / 2, others / 2
            rows.append((tp / (tp + fp), 0.5, 2 * tp / (2 * tp + fp + tp)))
    answers = [Prediction(question.target_id, 0, None, False, ()) for question in questions(split)]
    samples = score(split, answers, setting="proposals+gt", baselines=[name]).systems[name]
    found = [value(METRICS[f"elisa_{figure}"](samples)) for figure in ("precision", "recall", "f1")]
    assert found == pytest.approx(np.mean(rows, axis=0).tolist(), abs=1e-12)


def test_without_the_ground_truth_offered_there_is_no_such_choice(split: Split) -> None:
    answers = [Prediction(question.target_id, 0, None, False, ()) for question in questions(split)]
    samples = score(split, answers, baselines=["oracle selector", "Rand50 (analytic)"]).systems
    for found in samples.values():
        assert np.isnan(found.elisa_f1).all()
    shown = replace(samples["predictions"], elisa_iou=np.zeros(len(answers)))
    assert not np.isnan(shown.f1[shown.exists]).any()
