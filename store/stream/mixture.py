"""A mixture of data sets like the one dvlab-research/LISA trains on: which picture and questions about it make up each sample.

A sample is a picture with a few questions. Which ones is a pure function of the seed, the epoch and the sample's number: so any
number of ranks, workers and any batch size draw the same, and a resumed run goes on with what would have come next.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import StoreError
from ..read.open_columns import OpenColumns
from .batches import BatchReader, Samples
from .candidates import Candidates
from .dice import Dice
from .request import Request, named
from .schedule import Order, Schedule, Step, mixed_order
from .source import EITHER, FALSE, I64, TRUE, Source, source_of
from .state import read_state
from .stream import Stream, threads_for

_TRIES = 100_000
DRAWS = ("released", "laps")
ABSENT = ("pooled", "redrawn")


@dataclass(frozen=True)
class Group:
    """Splits that share a weight.

    of: names of sources. absent: how its questions with a false premise are asked. A number: this share of its samples asks
        only these, and the other samples ask none of them; ``pooled``: they are drawn together with all other questions;
        ``redrawn``: as ``pooled``, but a sample in which every question has a false premise is drawn again.
    """

    weight: float
    of: tuple[str, ...]
    absent: float | str = 0.0

    def __post_init__(self) -> None:
        if not (self.absent in ABSENT if isinstance(self.absent, str) else 0 <= self.absent <= 1):
            raise ValueError(
                f"found absent={self.absent!r}, expected a number from 0 to 1 or one of {', '.join(ABSENT)}"
            )

    @property
    def asks(self) -> tuple[str, ...]:
        """Which questions its samples ask, of :data:`TRUE`, :data:`FALSE` and :data:`EITHER`; a sample asks one kind."""
        if isinstance(self.absent, str):
            return (EITHER,)
        return ((TRUE,) if self.absent < 1 else ()) + ((FALSE,) if self.absent > 0 else ())

    def asked(self, dice: Dice) -> str:
        """Which questions one sample asks."""
        if len(self.asks) == 1:
            return self.asks[0]
        return FALSE if dice.fraction() < float(self.absent) else TRUE


@dataclass
class MixtureSchedule(Schedule):
    """The batches of every epoch of a mixture: :class:`Schedule`, whose samples are pictures with up to ``questions`` questions.

    Args:
        sources: name -> what is drawn from. groups: name -> weight and sources.
        questions: at most this many about a picture, each a row of the batch.
        draw: ``released``: every sample is drawn independently: a group by weight, one of its sources, a picture of the source; if
            the picture has no question, again within the group. ``laps``: groups have exact shares, and each source goes through
            shuffled laps.
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
            if not group.weight:
                continue
            for asked in (TRUE,) if group.absent == "redrawn" else group.asks:
                if not any(self._has_any(self.sources[one], asked) for one in group.of):
                    lacking = {
                        TRUE: "no question",
                        FALSE: f"with absent {group.absent}, but no question with a false premise",
                    }
                    raise ValueError(
                        f"group {name} has a weight of {group.weight}, but {lacking.get(asked, 'no question')}"
                    )
        self._names = list(self.sources)
        self._numbers = {name: number for number, name in enumerate(self._names)}
        self._orders: dict[int, Order] = {}
        self._drawn_from = [group for group in self.groups.values() if group.weight]
        self._ends = np.cumsum([group.weight for group in self._drawn_from]).tolist()

    @property
    def per_source(self) -> list[float]:
        """Weight of each source: its group's, shared out evenly."""
        groups = [self._group_of(name) for name in self._names]
        return [group.weight / len(group.of) for group in groups]

    def sample(self, epoch: int, number: int) -> list[tuple[int, int, int, float]]:
        """Source, image_index, target and text (as a share of its texts) of each question of a sample.

        Its picture may be one that is not listed where it is held (:meth:`Source.is_unlisted`). No other picture is drawn
        instead: reading the one that is not listed is an error.
        """
        dice = Dice(self.seed, epoch, number, 3)
        if self.draw == "laps":
            order = self._order(epoch)
            at = int(order.source[number])
            unit = int(self._filled[at][int(order.sample[number])])
            return [(at, *one) for one in self._of_lap(self._names[at], unit, dice)]
        group = self._drawn_from[bisect_right(self._ends, dice.fraction() * self._ends[-1])]
        asked = group.asked(dice)
        for _ in range(_TRIES):
            name = group.of[dice.below(len(group.of))]
            source = self.sources[name]
            if not source.units:
                continue
            unit = dice.below(source.units)
            found = source.questions(unit, self.questions, dice, asked)
            if found and (group.absent != "redrawn" or source.any_true(unit, found)):
                return [(self._numbers[name], *one) for one in found]
        raise ValueError(
            f"found no question in {_TRIES} draws from {', '.join(group.of)}: nearly all of its pictures have none"
        )

    def _of_lap(self, name: str, unit: int, dice: Dice) -> list[tuple[int, int, float]]:
        """The questions of the picture whose turn it is: those of the drawn kind or, if it has none, those of the other kind.

        A picture that failed is replaced by any other one.
        """
        group, source = self._group_of(name), self.sources[name]
        filled = self._filled[self._numbers[name]]
        for _ in range(_TRIES):
            if not source.has_failed(unit):
                break
            unit = int(filled[dice.below(len(filled))])
        else:
            raise ValueError(f"found no picture in {_TRIES} draws from {name}: nearly all of its pictures failed")
        asked = group.asked(dice)
        for kind in (asked, *(other for other in group.asks if other != asked)):
            for _ in range(_TRIES):
                found = source.questions(unit, self.questions, dice, kind)
                if not found or group.absent != "redrawn" or source.any_true(unit, found):
                    break
            if found:
                return found
        raise AssertionError("a lap is of pictures that have a question")

    @staticmethod
    def _has_any(source: Source, asked: str) -> bool:
        """Whether a source has a question of a kind, about a picture that did not fail."""
        filled = source.filled(asked)
        return len(filled) > 0 and (source.failed is None or not all(map(source.has_failed, filled.tolist())))

    def _group_of(self, name: str) -> Group:
        return next(group for group in self.groups.values() if name in group.of)

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
        """Raises NotImplementedError: samples of a mixture are drawn one by one (:meth:`sample`)."""
        raise NotImplementedError(f"a mixture has no order of targets; see sample({epoch}, ...)")

    def drawn(self, epochs: int, samples: int | None = None) -> dict[str, dict[str, int]]:
        """Source -> how many samples and questions of it the first epochs have, and of how many pictures.

        Args:
            samples: how many of the last of these epochs; default: all that are handed out.
        """
        whole = len(self) * self.batch_size * self.world_size if self.tail == "drop" else self.samples
        counts = [[0, 0] for _ in self._names]
        images: list[set[int]] = [set() for _ in self._names]
        for epoch in range(epochs):
            last = epoch == epochs - 1 and samples is not None
            for number in range(int(samples or 0) if last else whole):
                found = self.sample(epoch, number)
                at, image, _, _ = found[0]
                counts[at][0] += 1
                counts[at][1] += len(found)
                images[at].add(image)
        return {
            name: {"samples": of_it[0], "questions": of_it[1], "images": len(shown)}
            for name, of_it, shown in zip(self._names, counts, images, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`Schedule.state_dict`, with what decides which questions a sample has."""
        return {**super().state_dict(), "mixture": self._how}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As :meth:`Schedule.load_state_dict`; within an epoch a state of another mixture is refused, too."""
        found = state.get("mixture", self._how) if read_state(state).position else self._how
        if found != self._how:
            raise StoreError(
                f"the state was taken within an epoch of the mixture {found}, now it is {self._how}: it can change at the end of "
                "an epoch only"
            )
        super().load_state_dict(state)

    @property
    def _how(self) -> dict[str, Any]:
        """What decides which questions a sample has, for JSON."""
        groups = {name: {**vars(group), "of": list(group.of)} for name, group in self.groups.items()}
        return {"draw": self.draw, "questions": self.questions, "groups": groups}

    def unlisted(self, samples: Iterable[tuple[int, int]]) -> dict[str, list[int]]:
        """Source -> image_index, sorted, of the pictures of these samples that are not listed where they are held.

        Args:
            samples: epoch and number of each.
        """
        if not any(source.has_unlisted for source in self.sources.values()):
            return {}
        found: dict[str, set[int]] = {}
        for epoch, number in samples:
            at, image, _, _ = self.sample(epoch, number)[0]
            if self.sources[self._names[at]].is_unlisted(image):
                found.setdefault(self._names[at], set()).add(image)
        return {name: sorted(images) for name, images in found.items()}

    def drawn_so_far(self) -> dict[str, dict[str, int]]:
        """As :meth:`drawn`, up to where the schedule stands."""
        return self.drawn(self.epoch + 1, self.position)

    def _order(self, epoch: int) -> Order:
        if epoch not in self._orders:
            self._filled = [self._askable(name) for name in self._names]
            counts = [len(filled) for filled in self._filled]
            consumed = self._consumed(epoch)
            self._orders = {epoch: mixed_order(counts, self.per_source, self.samples, consumed, self.seed, epoch)}
        return self._orders[epoch]

    def _askable(self, name: str) -> I64:
        group = self._group_of(name)
        kinds = (TRUE,) if group.absent == "redrawn" else group.asks
        return np.unique(np.concatenate([self.sources[name].filled(kind) for kind in kinds]))

    @property
    def _weights(self) -> list[float]:
        return self.per_source


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
        splits, columns, candidates, rank, world_size, tail, failed: as for :func:`store.mix`. groups, questions, draw: of
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
    return Stream(BatchReader(request), schedule, threads_for(request, batch_size))
