"""The splits that are shown, each opened when it is first asked for."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.browse.states import NOT_COMPUTED, states
from pipeline.config import InputError, Settings
from stages.names import SplitRef
from store import Split, open_split
from store.errors import ChangedError, StoreError
from store.format.layout import find_columns, find_splits, what_exists
from store.format.names import is_of_pictures, without_proposer

T = TypeVar("T")

TABLE_BYTES = 64 << 20
"""Bytes of decoded tables that are kept in memory per split."""
OPEN_SPLITS = 2
"""This many splits are open at once: each keeps the records of its shards in memory."""
_TABLES = ("instances", "targets", "masks", "match/targets")
"""The columns that pages are made from, without proposers; vectors are opened by those who need them."""


class UnknownError(Exception):
    """Something was asked for that does not exist; says what does."""


class Shelf:
    """Opens splits of a store, and keeps the last few open. Threads may share it."""

    def __init__(self, settings: Settings, splits: Sequence[SplitRef]) -> None:
        self.settings = settings
        self.splits = {str(split): split for split in splits}
        self._open: OrderedDict[str, Shown] = OrderedDict()
        self._lock = threading.Lock()
        self._opened = 0

    def get(self, name: str) -> Shown:
        """The open split of a name ``<dataset>/<split>``.

        Raises:
            UnknownError: it is not one of those that are shown.
            StoreError: its images are damaged, or gone by now.
        """
        if name not in self.splits:
            raise UnknownError(f"no split {name!r}; there are {', '.join(self.splits)}")
        with self._lock:
            if name not in self._open:
                self._opened += 1
                self._open[name] = Shown(self.settings, self.splits[name], self._opened)
                while len(self._open) > OPEN_SPLITS:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return self._open[name]

    def renew(self, name: str) -> None:
        """Open a split again when it is asked for next."""
        with self._lock:
            self._open.pop(name, None)

    def reading(self, name: str, read: Callable[[Shown], T]) -> T:
        """What ``read`` returns for a split. If a shard was replaced meanwhile, the split is opened again and read once more."""
        try:
            return read(self.get(name))
        except ChangedError:
            self.renew(name)
            return read(self.get(name))


class Shown:
    """An open split.

    Args:
        number: a new one each time a split is opened, so that results of an earlier opening are not used for it.

    ``opened`` has the tables; ``states``: the state of each image in each of them. ``notes`` say what is not shown, and why.
    """

    def __init__(self, settings: Settings, ref: SplitRef, number: int) -> None:
        self.settings, self.ref, self.number = settings, ref, number
        self.notes: list[str] = []
        own = find_columns(settings.store_path, ref.dataset, ref.split)
        self.opened = self._open_tables(own)
        if borrowed := self._borrowed():
            self.opened = self._open_tables([*own, *borrowed])
        self.states = {name: states(column, len(self)) for name, column in self.opened.columns.items()}
        self.notes += [note for name in self.states if (note := self._lacking(name))]

    def __len__(self) -> int:
        return len(self.opened)

    @property
    def name(self) -> str:
        """``<dataset>/<split>``."""
        return str(self.ref)

    @property
    def holder(self) -> str:
        """The data set that has the files of the images."""
        return self.opened.columns["images"].meta.holder or self.ref.dataset

    def columns(self) -> list[str]:
        """The names of all columns of the split, its own and those that it borrows."""
        own = find_columns(self.settings.store_path, self.ref.dataset, self.ref.split)
        return sorted({*own, *self._borrowed()})

    def with_columns(self, *names: str) -> Split:
        """The split with other columns. Raises StoreError where one of them cannot be opened."""
        return self._open(["images", *names])

    def _open_tables(self, names: Sequence[str]) -> Split:
        """The tables among some columns; where not all of them can be opened, those that can, and a note on each other one."""
        tables = ["images", *sorted({name for name in names if without_proposer(name) in _TABLES})]
        try:
            return self._open(tables)
        except StoreError:
            return self._open_what_can_be(tables)

    def _borrowed(self) -> list[str]:
        """Columns of pixels that lie with the holder."""
        store, holder = self.settings.store_path, self.opened.columns["images"].meta.holder
        if holder is None:
            return []
        places = [(holder, split) for split in find_splits(store).get(holder, ())]
        return sorted({name for place in places for name in find_columns(store, *place) if is_of_pictures(name)})

    def _lacking(self, name: str) -> str:
        """A note on a column that lacks some images; else the empty text."""
        lacking = int(self.states[name].are(NOT_COMPUTED).sum())
        why = f"not computed, or computed from something that has changed since; {self.settings.command('info')} says which"
        return f"{name} lacks {lacking} of {len(self)} images: {why}" if lacking else ""

    def _open(self, names: Sequence[str]) -> Split:
        where = self.settings.store_path, self.ref.dataset, self.ref.split
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of columns that do not belong together, which the page says
            return open_split(*where, columns=names, allow_incomplete=True, table_cache_bytes=TABLE_BYTES)

    def _open_what_can_be(self, names: Sequence[str]) -> Split:
        """Open one column after the other, and note those that cannot be opened."""
        self.notes = []
        good = ["images"]
        opened = self._open(good)
        for name in names[1:]:
            try:
                opened = self._open([*good, name])
            except StoreError as error:
                self.notes.append(f"{name} is not shown: {error}")
            else:
                good.append(name)
        return opened


def splits_of(settings: Settings, split: str | None, data: Sequence[str]) -> list[SplitRef]:
    """The splits to show: those of this name, of these data sets, or all in the store, also those that the params do not name.

    Raises:
        InputError: the data set or split is not in the params, or not in the store.
    """
    there = [SplitRef(dataset, name) for dataset, names in find_splits(settings.store_path).items() for name in names]
    asked: Sequence[SplitRef] = [*settings.splits, *(one for one in there if one not in settings.splits)]
    if split or data:
        asked = settings.select(split, data)
    found = [one for one in asked if one in there]
    if not found:
        wanted = ", ".join(map(str, asked))
        raise InputError(
            f"browse: nothing to show of {wanted}: {what_exists(settings.store_path)}; index it: {settings.command('index')}"
        )
    return found
