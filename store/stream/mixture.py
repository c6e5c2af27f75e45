"""A mixture of data sets as dvlab-research/LISA trains on one: which picture, and which questions about it, make which sample.

A sample is a picture with a few questions. Which ones is a pure function of the seed, the epoch and the sample's number: so any
number of ranks, workers and any batch size draw the same, and a resumed run goes on with what would have come next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..read.open_columns import OpenColumns
from .batches import BatchReader, Samples
from .candidates import Candidates
from .request import Request, named
from .schedule import Order, SampleSet, Schedule, Step, mixed_order, sample_set
from .stream import LARGE_SAMPLE_BYTES, Stream

I64 = npt.NDArray[np.int64]
_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_TRIES = 100_000
DRAWS = ("released", "laps")
POOLS = {"semantic": "targets", "object": "targets", "part": "targets", "box": "targets", "vqa": "records"}
"""Kind of the targets -> what a sample's questions are drawn from; of other kinds, ``texts``."""


@dataclass(frozen=True)
class Group:
    """Splits that share a weight. of: names of sources."""

    weight: float
    of: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """What samples of one split are drawn from.

    pool: ``targets``: questions are targets of the picture, and of each one a text; ``texts``: all texts of all of its targets;
        ``records``: a sample is one target alone.
    image: image_index of its pictures, int64 [n]. targets: how many targets each has, int64 [n]. texts: of each target in turn how
        many texts it has, int64 [sum of targets].
    """

    pool: str
    image: I64
    targets: I64
    texts: I64

    @property
    def units(self) -> int:
        """How many there are to draw from: pictures, or targets."""
        return int(self.targets.sum()) if self.pool == "records" else len(self.image)

    def __post_init__(self) -> None:
        self.__dict__["first"] = np.cumsum(self.targets) - self.targets
        self.__dict__["first_text"] = np.cumsum(self.texts) - self.texts

    def questions(self, unit: int, most: int, dice: Dice) -> list[tuple[int, int, float]]:
        """image_index, number of the target, and which of its texts (as a share of them), of at most ``most`` questions.

        Empty: the picture has none.
        """
        first: I64 = self.__dict__["first"]
        if self.pool == "records":
            at = int(np.searchsorted(first, unit, side="right")) - 1
            return [(int(self.image[at]), unit - int(first[at]), 0.0)]
        image, start, count = int(self.image[unit]), int(first[unit]), int(self.targets[unit])
        if self.pool == "targets":
            return [(image, number, dice.fraction()) for number in dice.some(count, most)]
        texts = self.texts[start : start + count]
        ends = np.cumsum(texts)
        found = []
        for number in dice.some(int(ends[-1]) if count else 0, most):
            target = int(np.searchsorted(ends, number, side="right"))
            inside = number - int(ends[target] - texts[target])
            found.append((image, target, (inside + 0.5) / int(texts[target])))
        return found


def source_of(
    split: OpenColumns, columns: Sequence[str], failed: str = "skip", without: Sequence[int] = ()
) -> tuple[Source, SampleSet]:
    """What is drawn from a split, of the pictures that are ok in every column, and those that are left out.

    Args:
        without: image_index of further pictures to leave out.

    Raises:
        FailedImageError: as :func:`store.stream.schedule.sample_set`.
    """
    found = sample_set(split, [*columns, "targets"], False, failed, without)
    column = split.column("targets")
    targets = column.counts()[found.image]
    kind, texts = "", np.zeros(int(targets.sum()), np.int64)
    at = 0
    for image in found.image.tolist():
        shard, rows = column.rows(image)
        if len(rows) and not kind:
            kind = str(column.field(shard, "kind", ("kind", "texts"))(rows.start))
        read = column.field(shard, "texts", ("kind", "texts"))
        for row in rows:
            texts[at] = len(read(row))
            at += 1
    return Source(POOLS.get(kind, "texts"), found.image, targets, texts), found


@dataclass
class MixtureSchedule(Schedule):
    """The batches of every epoch of a mixture: :class:`Schedule`, whose samples are pictures with up to ``questions`` questions.

    Args:
        sources: name -> what is drawn from. groups: name -> weight and sources.
        questions: at most this many of a picture, each a row of the batch.
        draw: ``released``: every sample is drawn by itself, a group by weight, a source of it, a picture of that; where that has
            no question, again within the group. ``laps``: groups have exact shares, and each source goes through shuffled laps.
        length: samples of an epoch.
    """

    sources: Mapping[str, Source] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    questions: int = 3
    draw: str = "released"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length is None or self.draw not in DRAWS or self.questions < 1:
            raise ValueError(
                f"found length={self.length}, draw={self.draw!r}, questions={self.questions}; expected a length, one of "
                f"{', '.join(DRAWS)}, and 1 or more"
            )
        known = [name for group in self.groups.values() for name in group.of]
        if sorted(known) != sorted(self.sources):
            raise ValueError(f"found groups of {known}, expected each of {list(self.sources)} once")
        for name, group in self.groups.items():
            if group.weight and not any(self.sources[one].targets.any() for one in group.of):
                raise ValueError(f"group {name} has a weight of {group.weight}, but no question")
        self._names = list(self.sources)
        self._orders: dict[int, Order] = {}

    @property
    def per_source(self) -> list[float]:
        """Weight of each source: its group's, shared out evenly."""
        return [
            next(group.weight / len(group.of) for group in self.groups.values() if name in group.of)
            for name in self._names
        ]

    def sample(self, epoch: int, number: int) -> list[tuple[int, int, int, float]]:
        """Source, image_index, target and text (as a share of its texts) of each question of a sample."""
        dice = Dice(self.seed, epoch, number, 3)
        if self.draw == "laps":
            order = self._order(epoch)
            at = int(order.source[number])
            filled = self._filled[at]
            found = self.sources[self._names[at]].questions(int(filled[order.sample[number]]), self.questions, dice)
            return [(at, *one) for one in found]
        groups = [group for group in self.groups.values() if group.weight]
        ends = np.cumsum([group.weight for group in groups])
        group = groups[int(np.searchsorted(ends, dice.fraction() * ends[-1], side="right"))]
        for _ in range(_TRIES):
            name = group.of[dice.below(len(group.of))]
            source = self.sources[name]
            if source.units and (found := source.questions(dice.below(source.units), self.questions, dice)):
                return [(self._names.index(name), *one) for one in found]
        raise ValueError(
            f"found no question in {_TRIES} draws from {', '.join(group.of)}: nearly all of its pictures have none"
        )

    def steps(self) -> Iterator[Step]:
        """As :meth:`Schedule.steps`; a step has a row for each question of its samples."""
        length, epoch = self.samples, self.epoch
        for start in self._starts(self.position):
            places = start + self.rank + self.world_size * np.arange(self.batch_size)
            if self.tail != "repeat":
                places = places[places < length]
            rows = [(place, *row) for place in places.tolist() for row in self.sample(epoch, place % length)]
            number, source, image, target, text = zip(*rows, strict=True)
            samples = Samples(source, image, target, text, tuple(place % length for place in number))
            after = min(start + self.batch_size * self.world_size, length)
            yield Step(samples, tuple(place >= length for place in number), after)

    def order(self, epoch: int) -> Order:
        """Not of a mixture: its samples are drawn one by one (:meth:`sample`)."""
        raise NotImplementedError(f"a mixture has no order of targets; see sample({epoch}, ...)")

    def drawn(self, epochs: int, samples: int | None = None) -> dict[str, dict[str, int]]:
        """Source -> how many samples and questions of it the first epochs have, and of how many pictures.

        Args:
            samples: of the last of these epochs; default: all of them.
        """
        counts: dict[str, Counter[str]] = {name: Counter() for name in self._names}
        images: dict[str, set[int]] = {name: set() for name in self._names}
        for epoch in range(epochs):
            last = epoch == epochs - 1 and samples is not None
            for number in range(int(samples or 0) if last else self.samples):
                found = self.sample(epoch, number)
                name = self._names[found[0][0]]
                counts[name].update(samples=1, questions=len(found))
                images[name].add(found[0][1])
        return {
            name: {"samples": one["samples"], "questions": one["questions"], "images": len(images[name])}
            for name, one in counts.items()
        }

    def _order(self, epoch: int) -> Order:
        if epoch not in self._orders:
            self._filled = [_with_questions(source) for source in self.sources.values()]
            counts = [len(filled) for filled in self._filled]
            consumed = self._consumed(epoch)
            self._orders = {epoch: mixed_order(counts, self.per_source, self.samples, consumed, self.seed, epoch)}
        return self._orders[epoch]

    @property
    def _weights(self) -> list[float]:
        return self.per_source


def _with_questions(source: Source) -> I64:
    return np.arange(source.units) if source.pool == "records" else np.flatnonzero(source.targets > 0)


def mixture(
    splits: Mapping[str, OpenColumns],
    groups: Mapping[str, Group],
    columns: str | Sequence[str] | Mapping[str, str],
    batch_size: int,
    length: int,
    *,
    questions: int = 3,
    draw: str = "released",
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    candidates: Candidates | int | None = None,
    tail: str = "drop",
    failed: str = "skip",
    without: Mapping[str, Sequence[int]] | None = None,
) -> Stream:
    """Batches of a mixture; each row is a question (:meth:`store.stream.batches.BatchReader.read`).

    Args:
        splits, columns, candidates, rank, world_size, tail, failed: as of :func:`store.mix`. groups, questions, draw: of
            :class:`MixtureSchedule`.
        batch_size: samples, that is pictures, of a rank's batch. length: samples of an epoch, over all ranks.
        without: split -> image_index of pictures that are left out.
    """
    request = Request(list(splits.values()), named(columns), True, Candidates.of(candidates))
    sources, sets = {}, {}
    for name, split in splits.items():
        sources[name], sets[name] = source_of(split, request.needed, failed, (without or {}).get(name, ()))
    schedule = MixtureSchedule(
        sets, batch_size, True, seed, rank, world_size, tail, None, length,
        sources=sources, groups=groups, questions=questions, draw=draw,
    )  # fmt: skip
    return Stream(BatchReader(request), schedule, 2 if request.sample_bytes >= LARGE_SAMPLE_BYTES else 1)


class Dice:
    """Numbers that the seeds decide, the same on every machine (SplitMix64; Steele, Lea, Flood 2014)."""

    def __init__(self, *seeds: int) -> None:
        self._state = 0
        for seed in seeds:
            self._state = _mixed(self._state ^ _mixed(seed & _MASK))

    def _next(self) -> int:
        self._state = (self._state + _GOLDEN) & _MASK
        return _mixed(self._state)

    def below(self, count: int) -> int:
        """A whole number, 0 <= n < count."""
        return (self._next() * count) >> 64

    def fraction(self) -> float:
        """A number, 0 <= x < 1."""
        return (self._next() >> 11) / 2**53

    def some(self, count: int, most: int) -> list[int]:
        """At most ``most`` different whole numbers below ``count``, in random order; all of them where there are no more."""
        moved: dict[int, int] = {}
        found = []
        for place in range(min(count, most)):
            other = place + self.below(count - place)
            found.append(moved.get(other, other))
            moved[other] = moved.get(place, place)
        return found


def _mixed(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
