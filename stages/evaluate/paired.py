"""Two systems on the same questions: differences of their figures with paired bootstrap intervals, and which questions each won."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.bootstrap import F64, interval, replicates
from stages.evaluate.breakdown import MAIN, groups_of
from stages.evaluate.metrics import METRICS, Samples, Sums, value
from stages.evaluate.protocol_figures import figures_of
from stages.evaluate.tables import GROUPS, TITLES

Figures = Mapping[str, Callable[[Samples], Sums]]


def differences(first: Samples, other: Samples, figures: Figures, resamples: int, seed: int) -> dict[str, Difference]:
    """The figures that both systems have, and how much higher the second system's are, with 95 % intervals of the difference.

    Both see the same resamples of the images (:func:`stages.evaluate.bootstrap.replicates`), so that what makes an image hard for
    both does not widen the interval.

    Args:
        first, other: samples of the same questions in the same order.

    Raises:
        ValueError: the samples are of different images.
    """
    if not np.array_equal(first.image_index, other.image_index):
        raise ValueError(f"found {len(first)} and {len(other)} samples of other images, expected the same questions")
    sums = {name: (figure(first), figure(other)) for name, figure in figures.items()}
    sums = {name: both for name, both in sums.items() if all(parts[1].any() for parts in both)}
    if not sums:
        return {}
    drawn = [_drawn([both[side] for both in sums.values()], first, resamples, seed) for side in (0, 1)]
    found = {}
    for column, (name, both) in enumerate(sums.items()):
        counted = first.image_index[(both[0][1] > 0) | (both[1][1] > 0)]
        # Resamples of a single image are all the same, and say nothing about how certain the difference is.
        several = len(np.unique(counted)) > 1
        low, high = interval(drawn[1][:, column] - drawn[0][:, column]) if several else (np.nan, np.nan)
        found[name] = Difference(value(both[0]), value(both[1]), low, high, int((both[0][1] > 0).sum()))
    return {name: found[name] for name in TITLES if name in found}


def _drawn(sums: Sequence[Sums], samples: Samples, resamples: int, seed: int) -> F64:
    numerator, denominator = (np.stack([parts[k] for parts in sums], axis=1) for k in (0, 1))
    return replicates(numerator, denominator, samples.image_index, resamples, seed)


def by_group(
    first: Samples, other: Samples, kinds: Sequence[str], resamples: int, seed: int, protocol: str | None = None
) -> dict[str, dict[str, dict[str, Difference]]]:
    """Title of the breakdown -> group -> main figure -> difference; only breakdowns with questions in two groups or more.

    Args:
        kinds: names, numbered by ``Samples.kind``.
        protocol: None: the common figures.
    """
    known: Figures = METRICS if protocol is None else figures_of(protocol)
    figures = {name: known[name] for name in (MAIN if protocol is None else tuple(known)[:2])}
    named = {name: (title, belongs(first)) for name, (title, belongs) in GROUPS.items() if name != "all"}
    groups = {
        "length": {title: rows for name, (title, rows) in named.items() if name in ("short", "long")},
        "existence": {title: rows for name, (title, rows) in named.items() if name in ("existing", "empty")},
        **dict(groups_of(first, kinds)),
    }
    found: dict[str, dict[str, dict[str, Difference]]] = {}
    for title, of_title in groups.items():
        there = {name: rows for name, rows in of_title.items() if rows.any()}
        if len(there) > 1:
            found[title] = {
                name: differences(first.where(rows), other.where(rows), figures, resamples, seed)
                for name, rows in there.items()
            }
    return found


def iou_of(samples: Samples, protocol: str | None = None) -> F64:
    """IoU of each question [n], as the figures count it; NaN where a protocol has none."""
    return samples.iou if protocol is None else samples.protocol_iou


def changes(first: F64, other: F64) -> Changes:
    """Which questions the other system won and lost, by IoU [n]; a question that lacks an IoU of either system is neither."""
    gain = np.nan_to_num(other - first)
    won, lost = (np.argsort(sign * gain, kind="stable") for sign in (-1, 1))
    return Changes(gain, won[gain[won] > 0], lost[gain[lost] < 0])


@dataclass(frozen=True)
class Difference:
    """A figure of two systems, each from 0 to 1.

    low, high: 95 % interval of the difference; NaN where only one image counts. samples: how many count.
    """

    first: float
    other: float
    low: float
    high: float
    samples: int

    @property
    def gain(self) -> float:
        """How much higher the other system's figure is."""
        return self.other - self.first

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def in_points(self) -> str:
        """Percentage points: ``+3.2 [+0.4, +6.1]``, a star where the interval excludes 0; or the points without an interval."""
        if np.isnan(self.low):
            return f"{100 * self.gain:+.1f}"
        return f"{100 * self.gain:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]{' *' * self.is_clear}"


@dataclass(frozen=True)
class Changes:
    """gain: IoU of the other minus the first's, float64 [n]. won, lost: numbers of questions; those that differ most first."""

    gain: F64
    won: NDArray[np.intp]
    lost: NDArray[np.intp]
