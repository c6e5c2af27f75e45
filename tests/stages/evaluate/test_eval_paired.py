"""Paired differences against a plain loop over resampled images, and what was won and lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from stages.evaluate.metrics import METRICS, Samples, value
from stages.evaluate.paired import by_group, changes, differences

IMAGES = np.array([4, 4, 9, 2, 2, 2, 7, 7])


def samples(seed: int, **fields: Any) -> Samples:
    rng, count = np.random.default_rng(seed), len(IMAGES)
    union = 10 + rng.random(count)
    columns: dict[str, Any] = {name: np.zeros(count) for name in Samples.__dataclass_fields__}
    columns |= {"image_index": IMAGES, "exists": np.ones(count, bool), "is_sentence": np.arange(count) % 2 == 0}
    columns |= {"union_px": union, "intersection_px": union * rng.random(count), "rejected": np.full(count, np.nan)}
    columns |= {"iou": rng.random(count), "instances": np.ones(count), "area_px": np.full(count, 5.0)}
    return Samples(**{**columns, **fields})


@pytest.mark.parametrize("name", ["miou_per_sample", "ciou"])
def test_intervals_are_those_of_a_plain_loop(name: str) -> None:
    first, other = samples(0), samples(1)
    found = differences(first, other, METRICS, 300, seed=5)[name]
    figure, rng, drawn = METRICS[name], np.random.default_rng(5), []
    names = np.unique(IMAGES)
    for draw in rng.integers(len(names), size=(300, len(names))):
        rows = np.concatenate([np.flatnonzero(names[image] == IMAGES) for image in draw])
        both = [[part[rows] for part in figure(one)] for one in (first, other)]
        drawn.append(value((both[1][0], both[1][1])) - value((both[0][0], both[0][1])))
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), rel=1e-12)
    assert (found.first, found.other) == (value(figure(first)), value(figure(other)))
    assert found.samples == 8


def test_what_is_hard_for_both_does_not_widen_the_interval() -> None:
    """A system that is better by the same amount everywhere is better for sure, however the questions differ."""
    first = samples(0, iou=np.array([0, 0.1, 0.9, 0.5, 0.4, 0.2, 0.8, 0.7]))
    found = differences(first, samples(1, iou=first.iou + 0.05), METRICS, 200, 0)["miou_per_sample"]
    assert (found.gain, found.low, found.high) == pytest.approx((0.05, 0.05, 0.05))
    assert found.is_clear
    assert found.in_points() == "+5.0 [+5.0, +5.0] *"


def test_a_figure_that_only_one_has_is_left_out_and_a_single_image_gives_no_interval() -> None:
    first, other = samples(0), samples(1, rejected=np.ones(8))
    assert "said_rej" not in differences(first, other, METRICS, 20, 0)
    one = IMAGES == 2
    found = differences(first.where(one), other.where(one), METRICS, 20, 0)["ciou"]
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert not found.is_clear
    assert "[" not in found.in_points()
    assert differences(first.where(IMAGES < 0), other.where(IMAGES < 0), METRICS, 20, 0) == {}


def test_other_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the same questions"):
        differences(samples(0), samples(0, image_index=IMAGES + 1), METRICS, 20, 0)


def test_groups_are_those_with_questions_on_both_sides() -> None:
    first = samples(0, kind=np.array([0, 0, 0, 0, 0, 1, 1, 1.0]))
    found = by_group(first, samples(1), ("refer", "false"), 50, 0)
    assert {title: list(groups) for title, groups in found.items()} == {
        "length": ["Short queries", "Long queries"],
        "kind of question": ["refer", "false"],
    }
    assert found["kind of question"]["false"]["miou_per_sample"].samples == 3
    assert list(found["length"]["Short queries"]) == ["miou_per_sample", "ciou"]


def test_won_and_lost_come_by_how_much_and_then_in_the_order_of_the_split() -> None:
    found = changes(np.array([0.5, 0.5, 0.5, 0.2, np.nan, 0]), np.array([0.9, 0.1, 0.9, 0.1, 0.3, 0]))
    assert found.won.tolist() == [0, 2]
    assert found.lost.tolist() == [1, 3]
    assert found.gain[4] == 0
