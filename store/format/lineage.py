"""Says whether a shard is current: computed from the right parameters, from shards that are themselves current."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from ..errors import DamagedStoreError, IncompleteColumnError, StoreError
from ..storage.listing import is_there
from .column import ColumnMeta, Commit, read_column, read_commit
from .layout import UNUSED, column_dir, holds_shards, parts_of, place_of
from .schema import REMOVED

FILE = "file:"
"""Prefix of an upstream name that is a source file, which only the index looks at."""


class Lineage:
    """Reads every ``column.json`` and commit of a store at most once, so one instance is one look at the store.

    A place is ``<dataset>/<column>/<split>`` or ``means/<name>/<encoder>``.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._metas: dict[str, ColumnMeta | DamagedStoreError | None] = {}
        self._commits: dict[tuple[str, int], Commit | DamagedStoreError | None] = {}
        self._reasons: dict[tuple[str, int], str | None] = {}
        self._folder = cache(partial(column_dir, store))

    def meta(self, place: str) -> ColumnMeta | None:
        """The column's ``column.json``; None when there is none. Raises DamagedStoreError."""
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
        key = (place, shard)
        if key not in self._commits:
            try:
                self._commits[key] = read_commit(self._folder(place), shard)
            except DamagedStoreError as error:
                error.place, error.shard = place, shard
                self._commits[key] = error
        found = self._commits[key]
        if isinstance(found, DamagedStoreError):
            raise found
        return found

    def content(self, place: str, shard: int) -> str:
        """:attr:`Commit.content` of a shard as it is now, ``missing`` or ``damaged``."""
        try:
            commit = self.commit(place, shard)
        except DamagedStoreError:
            return "damaged"
        return "missing" if commit is None else commit.content

    def why_not_current(self, place: str, shard: int) -> str | None:
        """Why a shard must not be read, or None when it may: all the way up to the index."""
        key = (place, shard)
        if key not in self._reasons:
            self._reasons[key] = "it is computed from itself"  # stands while its upstream is looked at
            self._reasons[key] = self._why(place, shard)
        return self._reasons[key]

    def _why(self, place: str, shard: int) -> str | None:
        meta, commit = self.meta(place), self.commit(place, shard)
        if meta is None or commit is None:
            return "not computed"
        if commit.place != place:
            return f"its commit is that of {commit.place}"
        if commit.fingerprint != meta.fingerprint:
            return "computed with other parameters"
        if len(commit.counts) != len(meta.shard_range(shard)):
            return "images were added since"
        if meta.array is not None and max(commit.counts, default=0) > meta.array.row_shape[0]:
            raise DamagedStoreError(
                f"{place}: the commit of shard {shard} counts more vectors than the column holds",
                place=place,
                shard=shard,
            )
        if meta.sources is not None and not _holds_sources(meta, commit):
            return "column.json names other images than it holds"
        for name, content in commit.upstream.items():
            if name.startswith(FILE):
                continue
            upstream, number = upstream_place(place, name, shard)
            if self.content(upstream, number) != content:
                return f"{name} changed since"
            if reason := self.why_not_current(upstream, number):
                return f"{name} is not current: {reason}"
        return None


def own_meta(place: str, meta: ColumnMeta | None) -> ColumnMeta | None:
    """What was read from the place's ``column.json``; raises DamagedStoreError when it is that of another column."""
    own = place if place.startswith("means/") else parts_of(place)[1]
    if meta is not None and meta.column != own:
        raise DamagedStoreError(f"{place}: its column.json is that of {meta.column}", place=place)
    return meta


def _holds_sources(meta: ColumnMeta, commit: Commit) -> bool:
    """Whether a shard of ``images`` was computed from the files that ``column.json`` says its images are."""
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
    """The meta of a finished column.

    Raises:
        StoreError: there is no such column.
        IncompleteColumnError: shards are not done; names them and the reason.
    """
    meta = lineage.meta(place)
    if meta is None:
        raise no_column(lineage.store, place)
    wrong = {shard: reason for shard in range(meta.shards) if (reason := lineage.why_not_current(place, shard))}
    if wrong:
        shards = ", ".join(str(shard) for shard in list(wrong)[:8]) + (", ..." if len(wrong) > 8 else "")
        first, reason = next(iter(wrong.items()))
        raise IncompleteColumnError(
            f"{place}: shards {shards} of {meta.shards}: {reason}; compute them, or leave the column out with columns=[...]",
            place=place,
            shard=first,
            reason=reason,
        )
    return meta


def no_column(store: Path, place: str) -> StoreError:
    """The error for a column that is not there, or that lost its ``column.json``."""
    if holds_shards(column_dir(store, place)):
        return DamagedStoreError(
            f"{column_dir(store, place)}: column.json is missing, but shards are there", place=place
        )
    return StoreError(f"{column_dir(store, place)} holds no column", place=place, reason="not computed")


def is_unused(lineage: Lineage, place: str) -> bool:
    """Whether a column is a leftover that must not stop those who open a whole split.

    Nothing of it was ever computed, or it is not current and the pipeline has marked it: its parameters no longer name it.
    """
    meta = lineage.meta(place)
    folder = column_dir(lineage.store, place)
    if meta is None:
        return is_there(folder / UNUSED) or not holds_shards(folder)
    if not holds_shards(folder):
        return meta.shards > 0
    return is_there(folder / UNUSED) and any(lineage.why_not_current(place, shard) for shard in range(meta.shards))
