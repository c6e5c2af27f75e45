"""The probes of places find them where they are, and nothing where they are not."""

from __future__ import annotations

import numpy as np

from demo.measure.places import cells_right, explained


def features(seed: int, knows: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    cells = np.tile(np.eye(4), (100, 1))
    noise = rng.normal(size=(400, 6))
    return (np.c_[noise[:, :2], cells + 0.1 * noise[:, 2:]] if knows else noise), cells


def test_cells_are_found_where_features_know_them_and_by_chance_where_not() -> None:
    right, chance = cells_right(features(0, True), features(1, True))
    assert chance == 0.25
    assert right > 0.99
    assert abs(cells_right(features(0, False), features(1, False))[0] - chance) < 0.1


def test_r2_is_that_of_the_prediction() -> None:
    rng = np.random.default_rng(0)
    known, asked = (rng.normal(size=(500, 3)) for _ in range(2))
    slope = np.array([[1.0, 0], [0, 2], [0, 0]])
    x, y = explained((known, known @ slope), (asked, asked @ slope))
    assert x > 0.99
    assert y > 0.99
    nothing = explained((known, rng.normal(size=(500, 2))), (asked, rng.normal(size=(500, 2))))
    assert (nothing < 0.05).all()
