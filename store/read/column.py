"""One finished column of a split: which shard an image is in, its rows of a table, its vectors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..addresses import is_far
from ..errors import ChangedError, DamagedStoreError, FailedImageError, IncompleteColumnError
from ..forks import arrow_at_work
from ..format.arrays import AnyArray
from ..format.column import ColumnMeta, Commit
from ..format.layout import column_dir, table_file
from ..format.lineage import Lineage, incoherence, no_column, require_readable
from ..format.names import without_proposer
from ..format.schema import ABSENT, OK, PER_TARGET, REMOVED
from ..format.summary import distrust_summary
from ..format.tables import ROW_GROUP_ROWS, concatenated, decode, read_table
from .array import ShardReader
from .far import forget_table, open_table, table_of
from .open_files import with_room
from .row_groups import Parts, read_row_group
from .table import Accessor, DecodedShard, Key, TableCache

T = TypeVar("T")


@dataclass(frozen=True)
class Status:
    """Which images are ok in a column, bool [images]; why others failed, and why there is nothing for those without annotation.

    A removed image is in none of these groups: it is no longer part of the data set.
    """

    ok: npt.NDArray[np.bool_]
    failed: dict[int, str] = field(default_factory=dict)
    absent: dict[int, str] = field(default_factory=dict)

    def note(self, image_index: int, status: str, reason: str) -> None:
        """Note what became of an image that is not ok."""
        if status != REMOVED:
            (self.absent if status == ABSENT else self.failed)[image_index] = reason


class Column:
    """A finished column of a split: reads its shards, each checked against its commit."""

    def __init__(
        self,
        folder: Path,
        place: str,
        meta: ColumnMeta,
        commits: Sequence[Commit | None],
        check: str = "always",
        tables: TableCache | None = None,
    ) -> None:
        self.folder = folder
        self.place = place
        self.meta = meta
        self.commits = commits
        self.check = check
        self.far = is_far(folder)
        self._per_target = without_proposer(meta.column) in PER_TARGET
        self._tables = tables or TableCache()
        self._shards: dict[int, ShardReader] = {}
        self._firsts: dict[int, list[int]] = {}
        self._parts: dict[int, Parts] = {}

    def __repr__(self) -> str:
        kind = "table" if self.meta.array is None else f"{self.meta.array.dtype} {list(self.meta.array.row_shape)}"
        return f"Column({self.meta.column!r}, {kind}, {self.meta.images} images)"

    def commit(self, image_index: int) -> tuple[Commit, int]:
        """The commit of an image's shard and the image's position in it."""
        shard, position = divmod(image_index, self.meta.shard_images)
        commit = self.commits[shard] if shard < len(self.commits) else None
        if commit is None or position >= len(commit.counts):
            message = f"{self.place}: shard {shard} is not there"
            raise IncompleteColumnError(message, place=self.place, shard=shard, image_index=image_index)
        return commit, position

    def table(self, shard: int, fields: tuple[str, ...] | None = None) -> pa.Table:
        """The decoded table of a shard, or some fields of it (the last few are kept)."""
        return self._decoded(shard, fields).table

    def whole(self, fields: tuple[str, ...] | None) -> pa.Table:
        """All rows of the table, or some of their fields, by image_index. Nothing of it is kept."""
        shards = [self.read_table(shard, fields) for shard in range(self.meta.shards)]
        with arrow_at_work():
            return concatenated(shards, self.meta.column)

    def table_rows(self, image_index: int) -> list[dict[str, Any]]:
        """The image's rows of a table, as they are stored. Raises as :meth:`rows`."""
        shard, rows = self.rows(image_index)
        if self._tables.fits(Key(self.place, shard, None)):
            table, first = self.table(shard), 0
        elif not rows:
            return []
        else:
            groups = range(rows.start // ROW_GROUP_ROWS, -(-rows.stop // ROW_GROUP_ROWS))
            table = pa.concat_tables(self._decoded(shard, None, group).table for group in groups)
            first = groups.start * ROW_GROUP_ROWS
        return table.slice(rows.start - first, len(rows)).to_pylist()  # type: ignore[no-any-return]

    def field(self, shard: int, name: str, fields: tuple[str, ...] | None = None) -> Accessor:
        """Row of a table's shard -> value of a field (:mod:`store.read.table`); ``fields`` are decoded together."""
        if self._tables.fits(Key(self.place, shard, fields)):
            return self._decoded(shard, fields).field(name)

        def read(row: int) -> Any:
            group, position = divmod(row, ROW_GROUP_ROWS)
            return self._decoded(shard, fields, group).field(name)(position)

        return read

    def share(self, fields: tuple[str, ...] | None, shards: Iterable[int] | None = None) -> bool:
        """Decode every shard (or these) of a table into memory that loader workers share; False when it would exceed the limit."""
        return all(
            self._tables.share(Key(self.place, shard, fields), partial(self.read_table, shard, fields))
            for shard in (range(self.meta.shards) if shards is None else shards)
        )

    def status(self, images: int, shards: Iterable[int] | None = None) -> Status:
        """The status of each of ``images`` images in this column; False, without a reason, for those outside of ``shards``."""
        found = Status(np.zeros(images, bool))
        for commit, first in self._records(shards):
            # Most are ok, and an array of strings takes long to make.
            all_ok = commit.status.count(OK) == len(commit.status)
            found.ok[first : first + len(commit.status)] = all_ok or np.array(commit.status) == OK
            for position, reason in commit.errors.items():
                found.note(first + int(position), commit.status[int(position)], reason)
        return found

    def counts(self) -> npt.NDArray[np.int64]:
        """How many vectors, targets or entries each image has, int64 [images]."""
        found = np.zeros(self.meta.images, np.int64)
        for commit, first in self._records(None):
            found[first : first + len(commit.counts)] = commit.counts
        return found

    def contents(self) -> list[Any]:
        """What the column holds, for a digest: its fingerprint and the content of its shards."""
        return [self.meta.fingerprint, *(commit.content for commit in self.commits if commit)]

    def _records(self, shards: Iterable[int] | None) -> Iterator[tuple[Commit, int]]:
        """The commit of every shard, or of these, and its first image."""
        for shard in range(self.meta.shards) if shards is None else shards:
            first = shard * self.meta.shard_images
            yield self.commit(first)[0], first

    def _decoded(self, shard: int, fields: tuple[str, ...] | None, group: int | None = None) -> DecodedShard:
        return self._tables.get(Key(self.place, shard, fields, group), partial(self.read_table, shard, fields, group))

    def read_table(self, shard: int, fields: tuple[str, ...] | None, group: int | None = None) -> pa.Table:
        """Decode a shard of a table, some fields of it (None: all), or one row group."""
        commit, _ = self.commit(shard * self.meta.shard_images)

        read = partial(self._whole, commit, fields) if group is None else partial(self._group, commit, fields, group)
        return self._looked_up(partial(with_room, read))

    def _whole(self, commit: Commit, fields: tuple[str, ...] | None) -> pa.Table:
        if not self.far:
            return read_table(self.folder, commit, fields)
        return decode(table_of(self.folder, commit), self.folder / table_file(commit.shard), commit, fields)

    def _group(self, commit: Commit, fields: tuple[str, ...] | None, group: int) -> pa.Table:
        read = partial(read_row_group, self.folder, commit, fields, group, self._parts)
        if not self.far:
            return read()
        known = self._parts.get(commit.shard)
        try:
            return read(open_table(self.folder, commit, known and known.token))
        except (ChangedError, DamagedStoreError):
            if not forget_table(self.folder, commit):
                raise
            return read(open_table(self.folder, commit, None))  # what was in the cache is damaged

    def _looked_up(self, read: Callable[[], T]) -> T:
        """Read a shard; if it is another version than its commit, mark the summary with that commit as out of date."""
        try:
            return read()
        except ChangedError:
            distrust_summary(self.folder)
            raise

    def close(self) -> None:
        """Close the files of shards that nobody reads just now; they are opened again when they are needed."""
        self._shards.clear()

    def rows(self, image_index: int) -> tuple[int, range]:
        """The shard of an image, and its rows there: one, or in ``targets`` and ``match/targets`` one per target.

        Raises:
            FailedImageError: the image has none because it failed; the message holds the reason.
        """
        commit, position = self.commit(image_index)
        if not self._per_target:
            return commit.shard, range(position, position + 1)
        self._require_ok(commit, position, image_index)
        if commit.shard not in self._firsts:
            self._firsts[commit.shard] = [0, *accumulate(commit.counts)]
        first = self._firsts[commit.shard][position]
        return commit.shard, range(first, first + commit.counts[position])

    def is_ok(self, image_index: int) -> bool:
        """Whether the image has data in this column."""
        commit, position = self.commit(image_index)
        return commit.status[position] == OK

    def require_ok(self, image_index: int) -> None:
        """Raise FailedImageError, with the reason, unless the image has data in this column."""
        self._require_ok(*self.commit(image_index), image_index)

    def reader(self, image_index: int) -> tuple[ShardReader, int]:
        """The reader of an image's shard of an array, and the image's position there. Raises as :meth:`rows`."""
        commit, position = self.commit(image_index)
        self._require_ok(commit, position, image_index)
        found = self._shards.get(commit.shard)
        if found is None:
            found = self._looked_up(partial(ShardReader, self.folder, self.meta, commit, self.check, True))
            self._shards[commit.shard] = found
        return found, position

    def array(self, image_index: int, rows: int | None = None) -> AnyArray:
        """The vectors ``[count, ...]`` of an image; with ``rows``, only that many of them. Raises as :meth:`rows`."""
        shard, position = self.reader(image_index)
        return shard.read(position, rows)

    def _require_ok(self, commit: Commit, position: int, image_index: int) -> None:
        if commit.status[position] != OK:
            reason = commit.errors.get(str(position), commit.status[position])
            message = f"{self.meta.column}: image {image_index}: {reason}"
            raise FailedImageError(message, place=self.place, image_index=image_index, reason=reason)


def open_column(
    store: Path,
    place: str,
    allow_incomplete: bool = False,
    lineage: Lineage | None = None,
    check: str = "always",
    tables: TableCache | None = None,
    coherence: str = "error",
    shards: Sequence[int] | None = None,
) -> Column:
    """Open one column by its place below the store, ``<dataset>/<column>/<split>`` or ``means/<mean>/<proposer>/<encoder>``.

    ``lineage`` is the look at the store that several columns share. Only ``shards`` are opened, and they have to be there. Raises
    as :func:`store.open_split`.
    """
    lineage = lineage or Lineage(store, summaries=True)
    meta = lineage.meta(place)
    if meta is None:
        raise no_column(store, place)
    readable = [*range(meta.shards)] if shards is None else [shard for shard in shards if shard < meta.shards]
    if allow_incomplete:
        readable = [shard for shard in readable if lineage.why_not_readable(place, shard) is None]
    else:
        require_readable(lineage, place, shards)
    if coherence == "error" and allow_incomplete:
        readable = [shard for shard in readable if not lineage.why_not_coherent(place, shard)]
    elif (error := incoherence(lineage, place, shards)) is not None:
        if coherence == "error":
            raise error
        warnings.warn(str(error), stacklevel=3)
    commits: list[Commit | None] = [None] * meta.shards
    for shard in readable:
        commits[shard] = lineage.commit(place, shard)
    return Column(column_dir(store, place), place, meta, commits, check, tables)
