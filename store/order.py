"""The order of the samples of an epoch: a pure function of seed and epoch, whatever ranks, workers and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def splitmix64(values: U64) -> U64:
    """SplitMix64's output function (Steele, Lea, Flood 2014), elementwise; a bijection of 64-bit numbers."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permutation(count: int, *seeds: int) -> I64:
    """A permutation of ``range(count)``, int64 [count], decided by the seeds (each of 0 <= seed < 2**64).

    Sorts by a key an index. The keys are a bijection of the indices, so there are no ties and every build of numpy
    gives the same order.
    """
    key = np.zeros(1, np.uint64)
    for seed in seeds:
        key = splitmix64(key ^ splitmix64(np.array([seed], np.uint64)))
    order: I64 = np.argsort(splitmix64(key + np.arange(count, dtype=np.uint64) * _GOLDEN)).astype(np.int64, copy=False)
    return order


@dataclass(frozen=True)
class Order:
    """Samples of an epoch in order: sample ``sample[p]`` of source ``source[p]`` is at position p; int64 [length] both."""

    source: I64
    sample: I64

    def __len__(self) -> int:
        return len(self.sample)


def plain_order(counts: Sequence[int]) -> Order:
    """All samples of one source after the other, each in its own order."""
    source = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return Order(source, np.concatenate([np.arange(count, dtype=np.int64) for count in counts]))


def single_order(count: int, seed: int, epoch: int) -> Order:
    """One source, each sample once, shuffled."""
    return Order(np.zeros(count, np.int64), permutation(count, seed, epoch))


def quotas(weights: Sequence[float], length: int) -> list[int]:
    """Whole numbers in proportion to the weights that sum to ``length`` (largest remainders)."""
    exact = np.asarray(weights, np.float64) / sum(weights) * length
    parts = np.floor(exact).astype(np.int64)
    for index in np.argsort(parts - exact, kind="stable")[: length - int(parts.sum())]:
        parts[index] += 1
    return [int(part) for part in parts]


def mixed_order(
    counts: Sequence[int], weights: Sequence[float], length: int, consumed: Sequence[int], seed: int, epoch: int
) -> Order:
    """Several sources by weight, in random turns.

    A source goes on where it stopped (``consumed`` samples of it came in earlier epochs), through permutations of its own,
    one after the other: none of its samples comes again before all of them came.
    """
    shares = quotas(weights, length)
    turns = np.repeat(np.arange(len(counts), dtype=np.int64), shares)[permutation(length, seed, epoch, 1)]
    sample = np.empty(length, np.int64)
    for source, (count, share, start) in enumerate(zip(counts, shares, consumed, strict=True)):
        if not share:
            continue
        if not count:
            raise ValueError(f"source {source} has a weight of {weights[source]}, but no samples")
        laps = range(start // count, -(-(start + share) // count))
        order = np.concatenate([permutation(count, seed, lap, 2, source) for lap in laps])
        sample[turns == source] = order[start % count :][:share]
    return Order(turns, sample)
