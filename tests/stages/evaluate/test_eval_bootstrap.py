"""The bootstrap against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from stages.evaluate import bootstrap
from stages.evaluate.bootstrap import interval, replicates

IMAGES = np.array([4, 4, 9, 2, 2, 2, 7])


def plain(numerator: np.ndarray, denominator: np.ndarray, resamples: int, seed: int) -> list[float]:
    """Draw images, gather the rows of each as often as it was drawn, and divide."""
    rng = np.random.default_rng(seed)
    names = sorted(set(IMAGES.tolist()))
    out = []
    for draw in rng.integers(len(names), size=(resamples, len(names))):
        rows = [row for image in draw for row in np.flatnonzero(names[image] == IMAGES)]
        above, below = sum(numerator[rows]), sum(denominator[rows])
        out.append(above / below if below else np.nan)
    return out


@pytest.mark.parametrize("kind", ["mean", "ratio", "some"])
def test_replicates_equal_a_plain_loop(kind: str) -> None:
    rng = np.random.default_rng(1)
    numerator = rng.random(7)
    denominator = {"mean": np.ones(7), "ratio": 1 + rng.random(7), "some": np.eye(7)[3]}[kind]
    numerator = numerator * (denominator > 0)
    found = replicates(numerator, denominator, IMAGES, 200, seed=5)
    np.testing.assert_allclose(found, plain(numerator, denominator, 200, 5), rtol=1e-12)
    assert np.isnan(found).any() == (kind == "some")


def test_several_metrics_see_the_same_resamples() -> None:
    rng = np.random.default_rng(2)
    numerator, denominator = rng.random((7, 3)), 1 + rng.random((7, 3))
    both = replicates(numerator, denominator, IMAGES, 50, seed=0)
    for column in range(3):
        alone = replicates(numerator[:, column], denominator[:, column], IMAGES, 50, seed=0)
        np.testing.assert_allclose(both[:, column], alone, rtol=1e-12)


def test_drawing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    numerator = np.arange(7.0)
    whole = replicates(numerator, np.ones(7), IMAGES, 40, seed=3)
    monkeypatch.setattr(bootstrap, "_DRAWS", 9)
    np.testing.assert_array_equal(replicates(numerator, np.ones(7), IMAGES, 40, seed=3), whole)
    assert not np.array_equal(replicates(numerator, np.ones(7), IMAGES, 40, seed=4), whole)


def test_samples_of_one_image_come_together() -> None:
    """Two images with equal samples each: a resample has the mean 0, 1/2 or 1, nothing between."""
    images = np.repeat([0, 1], 50)
    found = replicates((images == 1).astype(float), np.ones(100), images, 300, seed=0)
    assert set(found.tolist()) == {0.0, 0.5, 1.0}


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        draw = rng.normal(size=60)
        low, high = interval(replicates(draw, np.ones(60), np.arange(60), 300, seed), level=0.8)
        hits += low <= 0 <= high
    assert 0.7 < hits / 200 < 0.9


def test_interval_is_of_the_percentiles_that_are_there() -> None:
    values = np.concatenate([np.arange(101.0), [np.nan] * 9])
    np.random.default_rng(0).shuffle(values)
    assert interval(values) == pytest.approx((2.5, 97.5))
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_no_sample_gives_nan() -> None:
    nothing = np.empty((0, 2))
    found = replicates(nothing, nothing, np.empty(0, np.int64), 4, seed=0)
    assert found.shape == (4, 2)
    assert np.isnan(found).all()
