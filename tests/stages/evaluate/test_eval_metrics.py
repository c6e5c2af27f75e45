"""Metrics against plain loops, and against LISA's own formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.evaluate.metrics import METRICS, Samples, selection, value
from stages.evaluate.shared_pixels import shared_pixels
from store import rle


def samples_of(rows: list[dict[str, float]]) -> Samples:
    """Samples from some fields a row; the others are NaN, or of an existing target of image 0."""
    kinds = {"image_index": (np.int64, 0), "exists": (np.bool_, True), "is_sentence": (np.bool_, False)}
    columns = {}
    for name in Samples.__dataclass_fields__:
        kind, default = kinds.get(name, (np.float64, math.nan))
        columns[name] = np.array([row.get(name, default) for row in rows], kind)
    return Samples(**columns)


def figure(name: str, rows: list[dict[str, float]]) -> float:
    return value(METRICS[name](samples_of(rows)))


def lisa(triples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """gIoU and cIoU as ``dvlab-research/LISA`` computes them: ``intersectionAndUnionGPU`` and ``validate``."""
    intersections, unions, per_sample = np.zeros(2), np.zeros(2), []
    for truth, guess, ignored in triples:
        target, output = truth.astype(int), guess.astype(int)
        target[ignored] = 255
        output[target == 255] = 255
        same = output[output == target]
        inter = np.array([(same == k).sum() for k in (0, 1)], float)
        union = np.array([(output == k).sum() + (target == k).sum() for k in (0, 1)], float) - inter
        ratio = inter / (union + 1e-5)
        ratio[union == 0] += 1
        intersections, unions = intersections + inter, unions + union
        per_sample.append(ratio[1])
    return float(np.mean(per_sample)), float(intersections[1] / (unions[1] + 1e-10))


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_miou_and_ciou_are_lisas(seed: int) -> None:
    rng = np.random.default_rng(seed)
    densities = rng.choice([0.0, 0.3, 1.0], (6, 3), p=[0.3, 0.5, 0.2])
    triples = [tuple(rng.random((5, 4)) < density for density in row) for row in densities]
    rows = []
    for masks in triples:
        found = shared_pixels(*(rle.encode(mask) for mask in masks), 5, 4)
        rows.append({"iou": found.iou, "intersection_px": found.intersection_px, "union_px": found.union_px})
    giou, ciou = lisa(triples)
    assert figure("miou_per_sample", rows) == pytest.approx(giou, abs=1e-4)  # LISA adds 1e-5 to every union
    found = figure("ciou", rows)
    assert math.isnan(found) if not sum(row["union_px"] for row in rows) else found == pytest.approx(ciou, abs=1e-8)


def test_ciou_weighs_by_pixels() -> None:
    rows = [
        {"intersection_px": 1, "union_px": 2, "nc_intersection_px": 30, "nc_union_px": 40},
        {"intersection_px": 0, "union_px": 8, "nc_intersection_px": 0, "nc_union_px": 10},
        {},  # a baseline without masks
    ]
    assert figure("ciou", rows) == 0.1
    assert figure("nciou", rows) == 0.6


def test_means_leave_out_what_is_not_there() -> None:
    rows = [{"iou": 0.5, "f1": 1.0, "giou_hull": -1.0}, {"iou": 1.0, "f1": math.nan, "giou_hull": 0.5}]
    assert figure("miou_per_sample", rows) == 0.75
    assert figure("f1", rows) == 1.0
    assert figure("giou_hull", rows) == -0.25
    assert math.isnan(figure("precision", rows))


def test_n_acc_t_acc_and_see_go_by_the_mask() -> None:
    pairs = [(True, 0), (True, 0), (True, 1), (False, 1), (False, 0)]
    rows = [{"exists": exists, "empty": empty, "rejected": 1 - empty} for exists, empty in pairs]
    assert figure("t_acc", rows) == pytest.approx(2 / 3)
    assert figure("n_acc", rows) == 0.5
    assert figure("see", rows) == 0.6
    assert figure("said_rej", rows) == 0.6
    assert math.isnan(figure("n_acc", rows[:3]))
    assert math.isnan(figure("t_acc", rows[3:]))


def test_what_was_said_is_of_those_of_which_it_is_known() -> None:
    rows = [{"empty": 1, "rejected": 1}, {"empty": 1, "rejected": 0}, {"empty": 1}]
    assert figure("said_rej", rows) == 0.5
    assert math.isnan(figure("said_rej", rows[2:]))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=12))
@settings(max_examples=200)
def test_selection_equals_counting(candidates: list[tuple[bool, bool]]) -> None:
    """Candidate numbers are those of masks and, below 0, of instances."""
    index = np.array([k if k % 3 else -1 - k for k in range(len(candidates))], np.int64)
    chosen = [int(number) for number, (_, picked) in zip(index, candidates, strict=True) if picked]
    positive = np.array([is_positive for is_positive, _ in candidates], bool)
    found = selection(chosen, index, positive)
    tp = sum(good and picked for good, picked in candidates)
    picked, good = sum(picked for _, picked in candidates), sum(good for good, _ in candidates)
    right = sum(good == picked for good, picked in candidates)
    assert found.precision == pytest.approx(tp / picked if picked else 0)
    assert found.recall == pytest.approx(tp / good if good else 0)
    assert found.f1 == pytest.approx(2 * tp / (picked + good) if picked + good else 0)
    assert found.accuracy == pytest.approx(right / len(candidates) if candidates else 0)
