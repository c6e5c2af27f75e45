"""Some images of a split, in an order of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from .read.display import records_html
from .read.open_columns import OpenColumns
from .read.options import index_of
from .read.record import Record
from .stream.stream import stream


class Records(Sequence[Record]):
    """Some records of a split, as a sequence. Each is read when it is asked for; nothing is copied.

    ``split[2:5]``, ``split.select(...)`` and ``split.filter(...)`` make one. ``split``: the whole split. ``numbers``: the
    image_index of each record.
    """

    def __init__(self, split: OpenColumns, numbers: Sequence[int]) -> None:
        self.split, self.numbers = split, numbers

    def __repr__(self) -> str:
        return f"Records({len(self)} of the {len(self.split)} images of {self.split.name})"

    def _repr_html_(self) -> str:
        return records_html(self.split, self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, key: int) -> Record: ...

    @overload
    def __getitem__(self, key: slice) -> Records: ...

    def __getitem__(self, key: int | slice) -> Record | Records:
        """The record at a position, or those of a slice."""
        if isinstance(key, slice):
            return Records(self.split, self.numbers[key])
        number = index_of(key, "a position or a slice")
        if not -len(self) <= number < len(self):
            raise IndexError(f"position {number} is outside 0..{len(self) - 1}")
        return Record(self.split, self.numbers[number])

    def filter(self, keep: Callable[[Record], object]) -> Records:
        """The records for which ``keep(record)`` is true, in the same order. Only what ``keep`` looks at is read."""
        return Records(self.split, [record.image_index for record in self if keep(record)])

    stream = stream
