"""Baselines against enumeration: every set of candidates, every union, and many seeded draws."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from factory import Known
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.evaluate.baselines import (
    ANALYTIC,
    BASELINES,
    expected_rand50,
    expected_rand_class,
    greedy_union,
    rand50_of_expected_counts,
    union_iou_upper_bound,
)
from stages.evaluate.cases import CANDIDATES, Case, questions
from stages.evaluate.metrics import Selection, selection
from stages.evaluate.partition import partition
from store import Candidates, Split, rle

SIZES = [(0, 0), (0, 3), (3, 0), (1, 1), (2, 5), (5, 2), (4, 4)]


def cases(split: Split, setting: str = "proposals", **view: int) -> list[Case]:
    chosen = CANDIDATES[setting]
    view_of = Candidates(view.get("top_k"), chosen.drop_near_gt, chosen.with_gt)
    return [Case(split, question, 0, view_of) for question in questions(split)]


def iou(first: np.ndarray, second: np.ndarray) -> float:
    union = (first | second).sum()
    return float((first & second).sum() / union) if union else 0.0


def figures(positives: int, chosen: tuple[int, ...], count: int) -> Selection:
    return selection(chosen, np.arange(count), np.arange(count) < positives)


@pytest.mark.parametrize(("positives", "negatives"), SIZES)
def test_expected_rand50_is_the_mean_over_every_set(positives: int, negatives: int) -> None:
    count = positives + negatives
    sets = [some for size in range(count + 1) for some in itertools.combinations(range(count), size)]
    mean = np.mean([figures(positives, some, count) for some in sets], axis=0)
    np.testing.assert_allclose(expected_rand50(positives, negatives), mean, atol=1e-12)


@pytest.mark.parametrize(("positives", "negatives"), SIZES)
def test_expected_rand_class_is_the_mean_over_every_pick(positives: int, negatives: int) -> None:
    count = positives + negatives
    picks = [(k,) for k in range(count)] or [()]
    mean = np.mean([figures(positives, pick, count) for pick in picks], axis=0)
    np.testing.assert_allclose(expected_rand_class(positives, negatives), mean, atol=1e-12)


def test_rand50_as_the_slides_print_it() -> None:
    found = rand50_of_expected_counts(2, 8)
    assert found == pytest.approx((2 / 10, 0.5, 2 / (1.5 * 2 + 0.5 * 8), 0.5))
    assert expected_rand50(2, 8).f1 != pytest.approx(found.f1, abs=0.005)
    assert rand50_of_expected_counts(0, 8) == (0, 0, 0, 0.5)


def test_rand50_of_many_candidates_is_finite() -> None:
    assert expected_rand50(500, 1500).f1 == pytest.approx(0.5 / 1.5, abs=0.01)


@pytest.mark.parametrize("kind", ["Rand50", "RandClass"])
@pytest.mark.parametrize("setting", ["proposals", "proposals+gt"])
def test_analytic_is_the_mean_of_seeded_draws(split: Split, kind: str, setting: str) -> None:
    some = [case for case in cases(split, setting) if case.question.exists][:6]
    draws = 600
    for case in some:
        offered = case.offered
        expected = ANALYTIC[f"{kind} (analytic)"](int(offered.positive.sum()), int((~offered.positive).sum()))
        drawn = np.array(
            [
                selection(BASELINES[f"{kind} (one draw)"](case, seed).chosen, offered.index, offered.positive)
                for seed in range(draws)
            ]
        )
        error = drawn.std(axis=0) / draws**0.5
        assert (np.abs(drawn.mean(axis=0) - expected) <= 4.5 * error + 1e-12).all()


def test_draws_depend_on_seed_and_question_alone(split: Split) -> None:
    all_of, last = cases(split), cases(split)[-1]
    for name in ("Rand50 (one draw)", "RandClass (one draw)"):
        baseline = BASELINES[name]
        for case in all_of:
            baseline(case, 0)
        assert baseline(all_of[-1], 7) == baseline(last, 7)
        assert len({baseline(last, seed) for seed in range(20)}) > 1
        again = Case(split, last.question, 1, last.view)
        other = Case(split, replace(last.question, number=last.question.number + 1), 0, last.view)
        first, *others = ([baseline(case, seed).chosen for seed in range(9)] for case in (last, again, other))
        assert first not in others


@pytest.mark.parametrize("setting", ["proposals", "proposals+gt"])
@pytest.mark.parametrize("top_k", [None, 5])
def test_candidates_and_positives_equal_decoded_masks(
    split: Split, known: Known, setting: str, top_k: int | None
) -> None:
    positives = negatives = dropped = 0
    for case in cases(split, setting, top_k=top_k):
        image = case.question.image_index
        masks, instances = known.masks[image][:top_k], known.instances[image]
        numbers = list(range(len(masks)))
        if setting == "proposals+gt":
            numbers = [k for k in numbers if max((iou(masks[k], one) for one in instances), default=0) <= 0.95]
            dropped += len(masks) - len(numbers)
            numbers += [-1 - j for j in range(len(instances))]
        asked = [instances[j] for j in case.question.target["instances"]]
        shapes = [masks[k] if k >= 0 else instances[-1 - k] for k in numbers]
        offered = case.offered
        assert offered.index.tolist() == numbers
        assert list(offered.segmentation) == [rle.encode(shape) for shape in shapes]
        assert offered.positive.tolist() == [
            max((iou(shape, one) for one in asked), default=0) >= 0.5 for shape in shapes
        ]
        positives, negatives = positives + int(offered.positive.sum()), negatives + int((~offered.positive).sum())
    assert positives > 4
    assert negatives > 50
    assert (dropped > 0) == (setting == "proposals+gt")


@pytest.mark.parametrize("setting", ["proposals", "proposals+gt"])
def test_largest_best_and_positive_masks(split: Split, setting: str) -> None:
    best_found = 0
    for case in cases(split, setting):
        offered, question = case.offered, case.question
        shapes = [rle.decode(counts, 4, 6) for counts in offered.segmentation]
        largest = BASELINES["largest mask"](case, 0)
        assert len(largest.chosen or ()) == min(1, len(shapes))
        if shapes:
            assert rle.area(largest.segmentation or "") == max(shape.sum() for shape in shapes)
        oracles = [
            BASELINES[name](case, 0) for name in ("oracle selector", "oracle best mask", "oracle union (greedy)")
        ]
        assert [oracle.rejected for oracle in oracles] == [not question.exists] * 3
        if not question.exists:
            continue
        selector, best, union = oracles
        assert selector.chosen == tuple(offered.index[offered.positive].tolist())
        valid = ~rle.decode(question.target["ignore"], 4, 6)
        truth = rle.decode(question.target["segmentation"], 4, 6) & valid
        values = [iou(shape & valid, truth) for shape in shapes]
        achieved = [iou(rle.decode(answer.segmentation or "", 4, 6) & valid, truth) for answer in (best, union)]
        assert achieved[0] == max(values, default=0)
        assert achieved[1] >= achieved[0]
        best_found += achieved[0] > 0
        united = [shapes[offered.index.tolist().index(number)] for number in union.chosen or ()]
        assert (
            rle.decode(union.segmentation or "", 4, 6).tolist()
            == np.any([np.zeros((4, 6), bool), *united], axis=0).tolist()
        )
    assert best_found > 3


def test_without_candidates_nothing_is_chosen(split: Split) -> None:
    bare = [case for case in cases(split) if not len(case.offered.index)]
    assert bare
    for case in bare:
        for name, baseline in BASELINES.items():
            found = baseline(case, 0)
            assert found.chosen == (), name
            assert found.is_empty


@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
@settings(deadline=None, max_examples=120)
def test_greedy_union_lies_between_the_best_mask_and_the_bound(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((5, 6)) < 0.5
    masks = [
        truth & (rng.random((5, 6)) < 0.6) | (rng.random((5, 6)) < rng.choice([0, 0.1, 0.4])) for _ in range(count)
    ]
    pixels, members = partition([rle.encode(mask) for mask in (truth, *masks)], 5, 6)
    regions = (pixels, members[:, 0], members[:, 1:])
    picked = greedy_union(*regions)
    nothing = np.zeros((5, 6), bool)

    def of(some: list[int]) -> float:
        return iou(np.any([nothing, *(masks[k] for k in some)], axis=0), truth)

    exact = max(of([k for k in range(count) if bits >> k & 1]) for bits in range(2**count))
    single = max((of([k]) for k in range(count)), default=0.0)
    found, bound = of(np.flatnonzero(picked).tolist()), union_iou_upper_bound(*regions)
    assert single <= found <= exact <= bound + 1e-12
    assert bound <= 1


def test_greedy_union_drops_what_it_took_too_early() -> None:
    """The best single mask spills; once both halves are there, the union is exact without it."""
    column = np.broadcast_to(np.arange(8), (4, 8))
    truth = (column >= 1) & (column < 7)
    left, right = truth & (column < 4), truth & (column >= 4)
    spilling = (column >= 2) & (column < 6)
    spilling[:2, 0] = True
    assert iou(spilling, truth) > max(iou(left, truth), iou(right, truth))
    pixels, members = partition([rle.encode(mask) for mask in (truth, spilling, left, right)], 4, 8)
    assert greedy_union(pixels, members[:, 0], members[:, 1:]).tolist() == [False, True, True]
