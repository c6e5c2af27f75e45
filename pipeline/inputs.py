"""What a shard is computed from: committed shards of the split, of the data set that holds its images, and image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline.config import ROOT, Settings, VanishedError
from pipeline.graph import is_borrowed, lies_at, reduced, specs, wanted_fingerprint
from pipeline.upstream import Upstream, place_of, upstream_shards
from stages.base import Entry, Pixels
from stages.digests import digests_in
from stages.images import ImageFailure, inside, read_image
from stages.names import SplitRef
from stages.source_files import source_sha256
from stages.threads import in_threads
from store.errors import IncompleteColumnError
from store.format.arrays import AnyArray
from store.format.column import Commit, read_column
from store.format.layout import column_dir
from store.format.lineage import Lineage, no_column
from store.format.links import Link, links_of
from store.format.names import without_proposer
from store.format.schema import ABSENT, FAILED, OK, TABLES
from store.format.shard import commit_at, file_of
from store.format.tables import read_table
from store.read.array import ShardReader


class ShardSource:
    """Reads what the columns of a shard are computed from. For what is borrowed it gives, for each image, what the holder has.

    Args:
        entries: for the index of borrowed images, where they lie; else the record of ``images`` says that.
    """

    def __init__(self, settings: Settings, split: SplitRef, shard: int, entries: Sequence[Entry] = ()) -> None:
        self.settings = settings
        self.split = split
        self.shard = shard
        self.entries = entries
        self._commits: dict[Upstream, Commit] = {}
        self._tables: dict[Upstream, pa.Table] = {}
        self._readers: dict[Upstream, ShardReader] = {}

    @cached_property
    def links(self) -> list[Link | None]:
        """Where each image of the shard lies at the holder."""
        if self.entries:
            return [entry.link for entry in self.entries]
        return links_of(self.commit("images", self.split, self.shard))

    def upstream(self, column: str) -> list[Upstream]:
        """All shards that a column of the shard is computed from."""
        reads = specs(self.settings, self.split.dataset)[column].reads
        borrows = any(is_borrowed(self.settings, self.split.dataset, read) for read in reads)
        links = self.links if borrows else ()
        return upstream_shards(self.settings, Lineage(self.settings.store_path), column, self.split, self.shard, links)

    def commit(self, column: str, split: SplitRef | None, shard: int) -> Commit:
        """The commit of an upstream shard.

        Args:
            split: None for a column that is reduced over splits.

        Raises:
            IncompleteColumnError: it is missing, or belongs to another column or other parameters.
        """
        key = (column, split, shard)
        if key not in self._commits:
            place = place_of(self.settings, split, column)
            spec = reduced(self.settings)[column] if split is None else specs(self.settings, split.dataset)[column]
            folder = column_dir(self.settings.store_path, place)
            commit = commit_at(folder / file_of(spec.layout, shard), folder, shard)
            if commit is None:
                raise IncompleteColumnError(f"{place}: shard {shard} is not computed", place=place, shard=shard)
            dataset = None if split is None else split.dataset
            if commit.place != place or commit.fingerprint != wanted_fingerprint(self.settings, dataset, column):
                raise IncompleteColumnError(
                    f"{place}: shard {commit.shard} is of {commit.place} with fingerprint {commit.fingerprint[:12]}, not of the "
                    "parameters asked for",
                    place=place,
                    shard=commit.shard,
                )
            self._commits[key] = commit
        return self._commits[key]

    def rows(self, read: str) -> list[dict[str, Any]]:
        """Rows of an upstream table; for a borrowed one, the row of each image, with the reason where the holder lacks it."""
        if not is_borrowed(self.settings, self.split.dataset, read):
            return self._table((read, self.split, self.shard)).to_pylist()  # type: ignore[no-any-return]
        rows = []
        first = self.shard * self.settings.shard_images
        for position in range(len(self.links)):
            where = self._at(read, position)
            if where is None:
                rows.append(self._no_row(read, position))
            else:
                key, at = where
                (row,) = self._table(key).slice(at, 1).to_pylist()
                rows.append({**row, "image_index": first + position})
        return rows

    def array(self, read: str, position: int) -> AnyArray:
        """Vectors of an upstream array."""
        where = self._at(read, position)
        assert where is not None, "an image without trouble has vectors"
        key, at = where
        if key not in self._readers:
            place = place_of(self.settings, key[1], key[0])
            folder = column_dir(self.settings.store_path, place)
            meta = read_column(folder)
            if meta is None:
                raise no_column(self.settings.store_path, place)
            self._readers[key] = ShardReader(folder, meta, self.commit(*key))
        return self._readers[key].read(at)

    def trouble(self, read: str, position: int) -> tuple[str, str] | None:
        """(status, reason) of an image that has no vectors, else None."""
        where = self._at(read, position)
        if where is None:
            return self._not_there(position)
        key, at = where
        commit = self.commit(*key)
        if commit.status[at] == OK:
            return None
        return commit.status[at], commit.errors.get(str(at), commit.status[at])

    def pixels(self, positions: Sequence[int] | None = None) -> Iterator[Pixels | None]:
        """The shard's images, ``run.prefetch`` of them decoded ahead in threads; None where the index says not ok.

        Args:
            positions: in the shard, of those that are wanted; None: all.
        """
        settings, holder = self.settings, self.settings.data[self.split.dataset].images
        root, digests = settings.folders(holder), digests_in(ROOT / settings.run.cache_dir)
        rows = self.rows("images")
        rows = rows if positions is None else [rows[position] for position in positions]

        def decode(row: dict[str, Any]) -> Pixels | None:
            if row["status"] != OK:
                return None
            found = source_sha256(root, row["path"], digests)
            if found == "missing":
                raise VanishedError(f"{row['path']} is gone, and was there when this run began")
            if found != row["sha256"]:
                raise IncompleteColumnError(
                    f"{row['path']} changed since it was indexed; run: python cli.py index {settings.holder_options(self.split)}"
                )
            try:
                return read_image(inside(root, row["path"]), settings.data[holder].max_pixels)
            except ImageFailure as error:  # the same bytes were read when it was indexed
                raise VanishedError(f"{row['path']} changed while it was read: {error}") from error

        prefetch = settings.run.prefetch
        yield from in_threads(decode, rows, min(4, prefetch), prefetch)
        digests.keep()

    def _at(self, read: str, position: int) -> tuple[Upstream, int] | None:
        """The shard of a column that an image is in, and its position there; None: the holder has no such image."""
        dataset, column = lies_at(self.settings, self.split.dataset, read)
        if dataset is None:
            return (column, None, 0), position
        if dataset == self.split.dataset:
            return (column, self.split, self.shard), position
        link = self.links[position]
        if link is None:
            return None
        shard, at = divmod(link[1], self.settings.shard_images)
        key = (column, SplitRef(dataset, link[0]), shard)
        if at >= len(self.commit(*key).counts):
            place = place_of(self.settings, key[1], column)
            raise IncompleteColumnError(f"{place}: shard {shard}: images were added since", place=place, shard=shard)
        return key, at

    def _table(self, key: Upstream) -> pa.Table:
        if key not in self._tables:
            folder = column_dir(self.settings.store_path, place_of(self.settings, key[1], key[0]))
            self._tables[key] = read_table(folder, self.commit(*key))
        return self._tables[key]

    def _no_row(self, read: str, position: int) -> dict[str, Any]:
        """The row of an image that the holder does not have."""
        schema = TABLES[without_proposer(lies_at(self.settings, self.split.dataset, read)[1])]
        empty: dict[str, Any] = {item.name: [] if pa.types.is_list(item.type) else None for item in schema}
        index = self.shard * self.settings.shard_images + position
        status, error = self._not_there(position)
        return {**empty, "image_index": index, "status": status, "error": error}

    def _not_there(self, position: int) -> tuple[str, str]:
        """(status, reason) of an image that the holder does not have: absent, where it does not list it (``only``)."""
        if not self.entries:
            own = self.commit("images", self.split, self.shard)
            if own.status[position] == ABSENT:
                return ABSENT, own.errors.get(str(position), ABSENT)
        return FAILED, f"{self.settings.holder(self.split.dataset)} has no such image"
