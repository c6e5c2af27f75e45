"""Which samples make which batch: the global order of an epoch, split over ranks, from any position on.

The order is a pure function of seed and epoch, whatever ranks, workers and batch size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..read.options import flag, whole
from .batches import Samples
from .sample_set import SampleSet
from .state import MOST_SEED, State, read_state

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
TAILS = ("keep", "drop", "repeat")


@dataclass(frozen=True)
class Step:
    """One batch of one rank: its samples, which of them repeat ones that the epoch had already, and where the epoch then stands."""

    samples: Samples
    repeated: tuple[bool, ...]
    position: int


@dataclass
class Schedule:
    """The batches of every epoch.

    Args:
        sets: name -> samples; several are mixed by ``weights``.
        tail: what becomes of the samples that fill no whole batch on every rank: ``keep`` them (a rank may get a batch more
            than another, and the last one may be short), ``drop`` them, or ``repeat`` the epoch's first ones, flagged.
        length: samples of an epoch of a mixture; default: all there are.

    ``moves`` counts the changes of its place, ``ended`` the epochs that came to their end, so that an iterator sees what
    happened to the place since its last batch.
    """

    sets: Mapping[str, SampleSet]
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    tail: str = "keep"
    weights: Mapping[str, float] | None = None
    length: int | None = None
    epoch: int = 0
    position: int = 0
    moves: int = field(default=0, init=False)
    ended: int = field(default=0, init=False)
    _base: tuple[int, tuple[int, ...]] = field(init=False)
    _own_seed: int = field(init=False)

    def __post_init__(self) -> None:
        self.batch_size = whole("batch_size", self.batch_size, 1)
        self.split(self.rank, self.world_size)
        self.seed = self._own_seed = whole("seed", self.seed, most=MOST_SEED)
        self.epoch, self.position = whole("epoch", self.epoch), whole("position", self.position)
        self.shuffle = flag("shuffle", self.shuffle)
        self.length = None if self.length is None else whole("length", self.length)
        weights = self.weights or dict.fromkeys(self.sets, 1.0)
        checks = (
            (self.tail in TAILS, f"tail={self.tail!r}, expected one of {', '.join(TAILS)}"),
            (set(weights) == set(self.sets), f"found weights for {list(weights)}, expected them for {list(self.sets)}"),
            (min(weights.values()) >= 0 < sum(weights.values()), f"weights={weights}, expected positive ones"),
            (self.shuffle or self.weights is None, "weights without shuffle=True"),
            (self.shuffle or self.length is None, "a length without shuffle=True"),
        )
        for holds, found in checks:
            if not holds:
                raise ValueError(f"found {found}")
        self._base = (0, (0,) * len(self.sets))

    def split(self, rank: int, world_size: int) -> None:
        """Give the batches of one rank of ``world_size``."""
        world_size, rank = whole("world_size", world_size, 1), whole("rank", rank)
        if rank >= world_size:
            raise ValueError(f"found rank={rank}, expected less than world_size={world_size}, such as rank=0")
        self.rank, self.world_size = rank, world_size

    @property
    def samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        total = sum(len(found.image) for found in self.sets.values())
        return total if self.length is None else self.length

    def __len__(self) -> int:
        """Batches that this rank gets of a whole epoch."""
        return sum(1 for _ in self._starts(0))

    def order(self, epoch: int) -> Order:
        """The samples of an epoch."""
        counts = [len(found.image) for found in self.sets.values()]
        if not self.shuffle:
            return plain_order(counts)
        if len(counts) == 1 and self.length is None:
            return single_order(counts[0], self.seed, epoch)
        return mixed_order(counts, self._weights, self.samples, self._consumed(epoch), self.seed, epoch)

    def steps(self) -> Iterator[Step]:
        """The batches that are left of the epoch; the schedule itself stays where it is until :meth:`advance`."""
        order, length = self.order(self.epoch), self.samples
        images = np.concatenate([found.image for found in self.sets.values()])
        targets = np.concatenate([found.target for found in self.sets.values()])
        first = np.cumsum([0, *(len(found.image) for found in self.sets.values())])
        for start in self._starts(self.position):
            places = start + self.rank + self.world_size * np.arange(self.batch_size)
            if self.tail != "repeat":
                places = places[places < length]
            at = places % length
            number = first[order.source[at]] + order.sample[at]
            after = min(start + self.batch_size * self.world_size, length)
            samples = Samples(order.source[at].tolist(), images[number].tolist(), targets[number].tolist())
            yield Step(samples, tuple((places >= length).tolist()), after)

    def begin(self) -> None:
        """Before the first step: an epoch whose last batch was handed out is over, and the next one begins."""
        if self.position and next(self._starts(self.position), None) is None:
            self.finish()

    def advance(self, step: Step) -> None:
        """Note that a batch was handed out."""
        self.position = step.position
        self.moves += 1

    def finish(self) -> None:
        """Note that the epoch is over."""
        self.ended += 1
        self.start(self.epoch + 1)

    def start(self, epoch: int) -> None:
        """Go to the beginning of an epoch."""
        self.epoch, self.position = whole("epoch", epoch), 0
        self.moves += 1

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, unless it is the one that the schedule stands in."""
        if whole("epoch", epoch) != self.epoch:
            self.start(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, for any number of ranks, workers and any batch size.

        It is the same on every rank after the same number of batches.
        """
        return State(
            self.seed,
            self.shuffle,
            self.epoch,
            self.position,
            self.samples,
            {name: len(found.image) for name, found in self.sets.items()},
            dict(zip(self.sets, self._consumed(self.epoch), strict=True)),
            dict(zip(self.sets, self._weights, strict=True)),
        ).as_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Nothing is changed when it is refused.

        Raises:
            StoreError: it is not a state, or is for other data or another seed, so going on would repeat or lose samples.
        """
        found = read_state(state)
        counts = {name: len(own.image) for name, own in self.sets.items()}
        if found.samples != counts:
            raise StoreError(f"the state was taken where there were {found.samples} samples, now there are {counts}")
        if self._own_seed not in (0, found.seed):
            raise StoreError(
                f"the state was taken with seed={found.seed}, this stream was made with seed={self._own_seed}: "
                f"make it with seed={found.seed}, or without one, then the state's is used"
            )
        weights = dict(zip(self.sets, self._weights, strict=True))
        if found.position and (found.weights, found.length) != (weights, self.samples):
            raise StoreError(
                f"the state was taken within an epoch of {found.length} samples with weights {found.weights}, now "
                f"{self.samples} and {weights}: they can change at the end of an epoch only"
            )
        self.seed, self.shuffle = found.seed, found.shuffle
        self.epoch, self.position = found.epoch, found.position
        self._base = (self.epoch, tuple(found.consumed[name] for name in self.sets))
        self.moves += 1

    @property
    def _weights(self) -> list[float]:
        if self.weights is None:
            return [float(len(found.image)) for found in self.sets.values()]
        return [float(self.weights[name]) for name in self.sets]

    def _consumed(self, epoch: int) -> list[int]:
        """Samples of each source that came before an epoch, as if every earlier one had been gone through."""
        since, counts = self._base
        shares = quotas(self._weights, self.samples) if sum(self._weights) else [0] * len(counts)
        return [max(0, count + (epoch - since) * share) for count, share in zip(counts, shares, strict=True)]

    def _starts(self, position: int) -> Iterator[int]:
        """Global positions at which this rank's batches begin."""
        size, length = self.batch_size * self.world_size, self.samples
        for start in range(position, length, size):
            if self.tail == "drop" and start + size > length:
                return
            if self.tail == "repeat" or start + self.rank < length:
                yield start


def splitmix64(values: U64) -> U64:
    """SplitMix64's output function (Steele, Lea, Flood 2014), elementwise; a bijection of 64-bit numbers."""
    mixed = values + _GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def permutation(count: int, *seeds: int) -> I64:
    """A permutation of ``range(count)``, int64 [count], decided by the seeds (each of 0 <= seed < 2**64).

    Sorts by one key per index. The keys are a bijection of the indices, so there are no ties and every build of numpy
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
    """Whole numbers that sum to ``length``, in proportion to the weights (largest remainders)."""
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
    one after the other: no sample comes again before all of them came.
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
