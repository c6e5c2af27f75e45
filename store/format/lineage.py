"""Whether a shard may be read, whether it fits the rest of the store, and whether it is current.

Readable: its record fits the column. Coherent: of the shards that it was computed from, those in the store are still the same.
Current: they are all in the store, and current themselves, all the way up. Readers check the first two, the pipeline the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

from ..addresses import is_remote, is_web
from ..errors import DamagedStoreError, IncompleteColumnError, StoreError
from ..storage.listing import is_there
from ..storage.requests import at_once
from .column import ColumnMeta, Commit, read_column
from .layout import UNUSED, column_dir, holds_shards, parts_of, place_of
from .schema import REMOVED
from .shard import read_commit
from .summary import read_summary

FILE = "file:"
"""Prefix of an upstream name that is a source file, which only the index looks at."""
MISSING, DAMAGED = "missing", "damaged"


class Lineage:
    """Reads every ``column.json`` and commit of a store at most once, so one instance is one look at the store.

    A place is ``<dataset>/<column>/<split>`` or ``means/<mean>/<proposer>/<encoder>``.

    Args:
        summaries: take the commits of finished columns from their ``summary.json``, where there is one. A summary may be older
            than a shard: whoever reads that shard compares the two.
    """

    def __init__(self, store: Path, summaries: bool = False) -> None:
        self.store = store
        self.summaries = summaries
        self._metas: dict[str, ColumnMeta | DamagedStoreError | None] = {}
        self._commits: dict[tuple[str, int], Commit | DamagedStoreError | None] = {}
        self._holds_shards: dict[str, bool] = {}
        self._summarised: dict[str, Sequence[Commit]] = {}
        self._reasons: dict[tuple[str, int, bool], str | None] = {}
        self.unused: dict[str, bool] = {}
        self._folder = cache(partial(column_dir, store))

    def meta(self, place: str) -> ColumnMeta | None:
        """The column's ``column.json``; None if it is missing. Raises DamagedStoreError."""
        if place not in self._metas:
            try:
                self._metas[place] = own_meta(place, read_column(column_dir(self.store, place)))
            except DamagedStoreError as error:
                error.place = place
                self._metas[place] = error
        found = self._metas[place]
        if isinstance(found, DamagedStoreError):
            raise found
        return found

    def commit(self, place: str, shard: int) -> Commit | None:
        """The shard's commit; None when it is not computed. Raises DamagedStoreError."""
        if self.summaries and place not in self._summarised:
            meta = self.meta(place)
            self._summarised[place] = () if meta is None else read_summary(self._folder(place), place, meta)
        if shard < len(self._summarised.get(place, ())):
            return self._summarised[place][shard]
        key = (place, shard)
        if key not in self._commits:
            try:
                self._commits[key] = self._read_commit(place, shard)
            except DamagedStoreError as error:
                error.place, error.shard = place, shard
                self._commits[key] = error
        found = self._commits[key]
        if isinstance(found, DamagedStoreError):
            raise found
        return found

    def _read_commit(self, place: str, shard: int) -> Commit | None:
        meta, folder = self._meta_or_none(place), self._folder(place)
        if meta is None and not is_web(folder):  # a web server does not list what it has
            if place not in self._holds_shards:
                self._holds_shards[place] = holds_shards(folder)
            if not self._holds_shards[place]:
                return None  # the column is not begun: no need to look for each of its shards
        return read_commit(folder, shard, meta)

    def read_shards(self, place: str) -> None:
        """Read the commits of all shards of a column at once, if it is in an object store; elsewhere, do nothing."""
        if is_remote(self.store):
            at_once(self._look_at_shard, [(place, shard) for shard in self._left_to_read(place)])

    def ask_ahead(self, places: Iterable[str]) -> None:
        """Look at several columns of an object store at once, and then at what those were computed from, and so on."""
        level, seen = list(dict.fromkeys(places)) if is_remote(self.store) else [], set[str]()
        while level:
            seen.update(level)
            at_once(self._look_at, level)
            unsummarised = [(place, shard) for place in level for shard in self._left_to_read(place)]
            at_once(self._look_at_shard, unsummarised)
            above = dict.fromkeys(upstream for place in level for upstream in self._above(place))
            level = [place for place in above if place not in seen]

    def _look_at(self, place: str) -> None:
        """Read the meta and the summary of a column. Errors are raised later, when these are asked for."""
        for look in (partial(self.commit, place, 0), partial(is_unused, self, place)):
            with suppress(StoreError, OSError):
                look()

    def _look_at_shard(self, which: tuple[str, int]) -> None:
        with suppress(StoreError, OSError):
            self.commit(*which)

    def _left_to_read(self, place: str) -> range:
        """The shards of a column whose commits its summary does not hold."""
        meta = self._metas.get(place)
        return range(meta.shards) if isinstance(meta, ColumnMeta) and not self.is_summarised(place) else range(0)

    def _above(self, place: str) -> list[str]:
        """The places that the first shard of a column was computed from."""
        with suppress(StoreError, OSError):
            return [upstream for _, upstream, _, _ in self._upstream(place, 0)]
        return []

    def is_summarised(self, place: str) -> bool:
        """Whether the commits of a column were read from its summary, so that all of its shards were there."""
        return len(self._summarised.get(place, ())) > 0

    def _meta_or_none(self, place: str) -> ColumnMeta | None:
        try:
            return self.meta(place)
        except DamagedStoreError:
            return None

    def content(self, place: str, shard: int) -> str:
        """:attr:`Commit.content` of a shard as it is now, :data:`MISSING` or :data:`DAMAGED`."""
        try:
            commit = self.commit(place, shard)
        except DamagedStoreError:
            return DAMAGED
        return MISSING if commit is None else commit.content

    def why_not_current(self, place: str, shard: int) -> str | None:
        """Why a shard has to be computed again, or None. Checks all the way up to the index, but not the index's source files."""
        return self._remembered(place, shard, fresh=True)

    def why_not_readable(self, place: str, shard: int) -> str | None:
        """Why a shard must not be read as what the column holds, or None when it may: its own record does not fit the column."""
        return why_not_of_column(self.meta(place), self.commit(place, shard), place, shard)

    def why_not_coherent(self, place: str, shard: int) -> str | None:
        """Why a shard does not fit what it was computed from: a shard in the store that has changed since. None if it fits.

        What those shards were computed from is checked in the same way, up to a mean: all vectors minus the same mean
        belong together, whatever the mean was made from.
        """
        return self._remembered(place, shard, fresh=False)

    def _remembered(self, place: str, shard: int, fresh: bool) -> str | None:
        key = (place, shard, fresh)
        if key not in self._reasons:
            self._reasons[key] = "it is computed from itself"  # stands while its upstream is looked at
            why = self._why_not_current if fresh else self._why_not_coherent
            self._reasons[key] = why(place, shard)
        return self._reasons[key]

    def _upstream(self, place: str, shard: int) -> Iterator[tuple[str, str, int, str]]:
        """For every upstream shard: its name, place and number, and the content that was read."""
        commit = self.commit(place, shard)
        for name, content in commit.upstream.items() if commit is not None else ():
            if not name.startswith(FILE):
                yield (name, *upstream_place(place, name, shard), content)

    def _why_not_current(self, place: str, shard: int) -> str | None:
        if reason := self.why_not_readable(place, shard):
            return reason
        for name, upstream, number, content in self._upstream(place, shard):
            now = self.content(upstream, number)
            if now in (MISSING, DAMAGED):
                return f"{name} is {now}"
            if now != content:
                return f"{name} changed since"
            if reason := self.why_not_current(upstream, number):
                return f"{name} is not current: {reason}"
        return None

    def _why_not_coherent(self, place: str, shard: int) -> str | None:
        for name, upstream, number, content in self._upstream(place, shard):
            now = self.commit(upstream, number)
            if now is None:
                continue
            if now.content != content:
                return f"{name} changed since: it was computed from another {upstream} than the one in the store (shard {number})"
            if not upstream.startswith("means/") and (reason := self.why_not_coherent(upstream, number)):
                return f"{name} does not fit what it was computed from: {reason}"
        return None


def why_not_of_column(meta: ColumnMeta | None, commit: Commit | None, place: str, shard: int) -> str | None:
    """Why a shard's record is not that of a finished shard of the column as it is now; None when it is.

    Raises:
        DamagedStoreError: it holds impossible values.
    """
    if meta is None or commit is None:
        return "not computed"
    if commit.place != place:
        return f"its file is that of {commit.place}"
    if commit.fingerprint != meta.fingerprint:
        return "computed with other parameters"
    if len(commit.counts) != len(meta.shard_range(shard)):
        return "images were added since"
    if meta.array is not None and max(commit.counts, default=0) > meta.array.row_shape[0]:
        raise DamagedStoreError(
            f"{place}: the record of shard {shard} counts more vectors than the column holds", place=place, shard=shard
        )
    if meta.sources is not None and meta.holder is None and not _holds_sources(meta, commit):
        return "column.json names other images than it holds"
    return None


def own_meta(place: str, meta: ColumnMeta | None) -> ColumnMeta | None:
    """What was read from the place's ``column.json``; raises DamagedStoreError when it is that of another column."""
    own = place if place.startswith("means/") else parts_of(place)[1]
    if meta is not None and meta.column != own:
        message = f"{place}: its column.json is that of {meta.column}"
        raise DamagedStoreError(message, place=place, found=meta.column, expected=own)
    return meta


def _holds_sources(meta: ColumnMeta, commit: Commit) -> bool:
    """Whether a shard of ``images`` was computed from the files that ``column.json`` names for its images."""
    span = meta.shard_range(commit.shard)
    sources = (meta.sources or ())[span.start : span.stop]
    named = {f"{FILE}{path}" for (_, path), status in zip(sources, commit.status, strict=True) if status != REMOVED}
    return named <= commit.upstream.keys()


def upstream_place(place: str, name: str, shard: int) -> tuple[str, int]:
    """Where an upstream name of a commit leads: to the same shard of a column of the split, or ``/<place>#<shard>``."""
    if not name.startswith("/"):
        dataset, _, split = parts_of(place)
        return place_of(dataset, name, split), shard
    upstream, _, number = name[1:].partition("#")
    if number and not (number.isascii() and number.isdigit() and len(number) < 12):
        raise DamagedStoreError(
            f"{place}: found the upstream {name[:80]!r}, expected /<place>#<shard>", place=place, shard=shard
        )
    return upstream, int(number or 0)


def require_current(lineage: Lineage, place: str) -> ColumnMeta:
    """The meta of a finished column that is current.

    Raises:
        StoreError: there is no such column.
        IncompleteColumnError: shards are not done or not current; names them and the reason.
    """
    return _require(lineage, place, lineage.why_not_current)


def require_readable(lineage: Lineage, place: str, shards: Iterable[int] | None = None) -> ColumnMeta:
    """The meta of a column whose shards (or these ones) are readable, whatever they were computed from. Raises as
    :func:`require_current`."""
    return _require(lineage, place, lineage.why_not_readable, shards)


def incoherence(lineage: Lineage, place: str, shards: Iterable[int] | None = None) -> IncompleteColumnError | None:
    """The error for a column (or these shards of it) that does not fit the present version of what it was computed from; it
    names both."""
    try:
        _require(lineage, place, lineage.why_not_coherent, shards)
    except IncompleteColumnError as error:
        return error
    return None


def _require(
    lineage: Lineage, place: str, why_not: Callable[[str, int], str | None], shards: Iterable[int] | None = None
) -> ColumnMeta:
    meta = lineage.meta(place)
    if meta is None:
        raise no_column(lineage.store, place)
    wrong = {
        shard: why for shard in (range(meta.shards) if shards is None else shards) if (why := why_not(place, shard))
    }
    if wrong:
        named = ", ".join(str(shard) for shard in list(wrong)[:8]) + (", ..." if len(wrong) > 8 else "")
        first, reason = next(iter(wrong.items()))
        raise IncompleteColumnError(
            f"{place}: shards {named} of {meta.shards}: {reason}; compute them, or leave the column out with columns=[...]",
            place=place,
            shard=first,
            reason=reason,
            found=wrong,
        )
    return meta


def no_column(store: Path, place: str) -> StoreError:
    """The error for a column that is not there, or that lost its ``column.json``."""
    if holds_shards(column_dir(store, place)):
        return DamagedStoreError(
            f"{column_dir(store, place)}: column.json is missing, but shards are there",
            place=place,
            path=column_dir(store, place),
        )
    folder = column_dir(store, place)
    return StoreError(f"{folder} holds no column", place=place, path=folder, reason="not computed")


def is_unused(lineage: Lineage, place: str) -> bool:
    """Whether a column is a leftover that must not keep anyone from opening the whole split.

    Nothing of it was ever computed; or it cannot be read, and the pipeline has marked it: its parameters no longer name it.
    """
    if place not in lineage.unused:
        lineage.unused[place] = _is_unused(lineage, place)
    return lineage.unused[place]


def _is_unused(lineage: Lineage, place: str) -> bool:
    meta = lineage.meta(place)
    folder = column_dir(lineage.store, place)
    if is_web(folder):  # a web server does not list what it has
        return meta is None
    if meta is None:
        return is_there(folder / UNUSED) or not holds_shards(folder)
    if not lineage.is_summarised(place) and not holds_shards(folder):
        return meta.shards > 0
    return is_there(folder / UNUSED) and any(
        lineage.why_not_readable(place, shard) or lineage.why_not_coherent(place, shard) for shard in range(meta.shards)
    )
