"""What the samples of a mixture are drawn from: the pictures of a split, their targets, and the targets' texts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..forks import arrow_at_work
from ..read.open_columns import OpenColumns
from .dice import Dice
from .sample_set import SampleSet, sample_set

I64 = npt.NDArray[np.int64]
POOLS = {"semantic": "targets", "object": "targets", "part": "targets", "box": "targets", "vqa": "records"}
"""Kind of the targets -> what a sample's questions are drawn from; for other kinds, ``texts``."""
TRUE, FALSE, EITHER = "true", "false", "either"
"""Which questions are drawn from: those whose premise is true, those that ask for what the picture does not show, or both."""


@dataclass(frozen=True)
class Source:
    """What samples of one split are drawn from.

    pool: ``targets``: questions are targets of the picture, each with one of its texts; ``texts``: all texts of all of its targets;
        ``records``: a sample is a single target.
    image: image_index of its pictures, int64 [n]. targets: how many targets each has, int64 [n]. texts: for each target in turn,
        how many texts it has, int64 [sum of targets]. absent: for each in turn, whether its premise is false, bool; None: all true.
    failed: bool [n], pictures that failed in what is made of their pixels; None: none. A sample that draws one
        of them draws again, so that a further failed picture changes no sample that does not draw it.
    unlisted: bool [n], pictures that the data set that holds them does not list (``only``), so that nothing is made of their
        pixels; None: none. They have their questions and can be drawn, but not be read.
    """

    pool: str
    image: I64
    targets: I64
    texts: I64
    absent: npt.NDArray[np.bool_] | None = None
    failed: npt.NDArray[np.bool_] | None = None
    unlisted: npt.NDArray[np.bool_] | None = None
    _first: I64 = field(init=False, repr=False, compare=False)
    _units: int = field(init=False, repr=False, compare=False)

    @property
    def units(self) -> int:
        """How many there are to draw from: pictures, or targets."""
        return self._units

    def __post_init__(self) -> None:
        first = np.cumsum(self.targets) - self.targets
        self.__dict__.update(
            _first=first,
            _units=int(self.targets.sum()) if self.pool == "records" else len(self.image),
            absent=_if_any(self.absent),
            failed=_if_any(self.failed),
            unlisted=_if_any(self.unlisted),
        )

    def questions(self, unit: int, most: int, dice: Dice, asked: str = EITHER) -> list[tuple[int, int, float]]:
        """image_index, number of the target, and which of its texts (as a share of them), of at most ``most`` questions.

        Empty: the picture has none, or it failed. ``asked``: :data:`TRUE`, :data:`FALSE` or :data:`EITHER`; a record is asked as
        it is.
        """
        if self.has_failed(unit):
            return []
        if self.pool == "records":
            at = self._picture(unit)
            return [(int(self.image[at]), unit - int(self._first[at]), 0.0)]
        image, start, count = int(self.image[unit]), int(self._first[unit]), int(self.targets[unit])
        numbers = self._numbers(start, count, asked)
        if self.pool == "targets":
            return [(image, numbers[place], dice.fraction()) for place in dice.some(len(numbers), most)]
        texts = [int(self.texts[start + number]) for number in numbers]
        ends = list(accumulate(texts))
        found = []
        for place in dice.some(ends[-1] if ends else 0, most):
            at = bisect_right(ends, place)
            found.append((image, numbers[at], (place - ends[at] + texts[at] + 0.5) / texts[at]))
        return found

    def has_failed(self, unit: int) -> bool:
        """Whether the picture of a unit failed."""
        return self.failed is not None and bool(self.failed[self._picture(unit)])

    @property
    def has_unlisted(self) -> bool:
        """Whether any picture is not listed where it is held."""
        return self.unlisted is not None

    def is_unlisted(self, image: int) -> bool:
        """Whether a picture, by its image_index, is not listed where it is held."""
        return self.unlisted is not None and bool(self.unlisted[np.searchsorted(self.image, image)])

    def any_true(self, unit: int, found: Sequence[tuple[int, int, float]]) -> bool:
        """Whether the premise of one of a picture's questions is true."""
        if self.absent is None or self.pool == "records":
            return True
        start = int(self._first[unit])
        return any(not self.absent[start + number] for _, number, _ in found)

    def filled(self, asked: str) -> I64:
        """The units that have something to ask, int64."""
        if self.pool == "records":
            return np.arange(self.units)
        if asked == EITHER or (self.absent is None and asked == TRUE):
            return np.flatnonzero(self.targets > 0)
        absent = np.zeros(int(self.targets.sum()), bool) if self.absent is None else self.absent
        unit = np.repeat(np.arange(len(self.image)), self.targets)
        return np.unique(unit[absent == (asked == FALSE)])

    def _picture(self, unit: int) -> int:
        """Position in ``image`` of the picture of a unit."""
        return int(np.searchsorted(self._first, unit, side="right")) - 1 if self.pool == "records" else unit

    def _numbers(self, start: int, count: int, asked: str) -> Sequence[int]:
        if asked == EITHER or (self.absent is None and asked == TRUE):
            return range(count)
        if self.absent is None:
            return ()
        numbers: list[int] = np.flatnonzero(self.absent[start : start + count] == (asked == FALSE)).tolist()
        return numbers


def source_of(
    split: OpenColumns, columns: Sequence[str], failed: str = "skip", without: Sequence[int] = ()
) -> tuple[Source, SampleSet]:
    """The source of a split: its pictures whose own rows of ``images`` and ``targets`` are ok, and those that are left out.

    So what is drawn depends only on the pictures and on the annotation, and not on which pictures are extracted.

    Args:
        without: image_index of further pictures to leave out.

    Raises:
        FailedImageError: as :func:`store.stream.sample_set.sample_set`.
    """
    import pyarrow.compute as pc  # takes 50 ms, which importing this module should not cost

    found = sample_set(split, [*columns, "targets"], False, failed, without)
    column = split.column("targets")
    pictures, own = split.column("images").status(len(split)), column.status(len(split)).ok.copy()
    unlisted = np.zeros(len(split), bool)
    unlisted[list(pictures.absent)] = True
    own &= pictures.ok | unlisted
    own[np.array(without, np.int64)] = False
    readable = np.zeros(len(split), bool)
    readable[found.image] = True
    image = np.flatnonzero(own)
    counts = column.counts()
    first, targets = (np.cumsum(counts) - counts)[image], counts[image]
    rows = np.repeat(first - (np.cumsum(targets) - targets), targets) + np.arange(int(targets.sum()))
    tables = [column.table(shard, ("kind", "texts", "absent")) for shard in range(column.meta.shards)]
    with arrow_at_work():
        table = pa.concat_tables(tables)
        kind = table.column("kind")[int(rows[0])].as_py() if len(rows) else ""
        texts = pc.list_value_length(table.column("texts")).to_numpy()[rows].astype(np.int64)
        absent = table.column("absent").fill_null(False).to_numpy()[rows]
    bad, lacking = (~readable & ~unlisted)[image], unlisted[image]
    source = Source(pool_of(kind), image, targets, texts, absent, bad, lacking)
    return source, SampleSet(image, np.full(len(image), -1, np.int64), found.failed, found.absent)


def pool_of(kind: str) -> str:
    """``pool`` of a :class:`Source` whose first target is of this kind."""
    return POOLS.get(kind, "texts")


def _if_any(flags: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.bool_] | None:
    return flags if flags is not None and flags.any() else None
