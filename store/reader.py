"""Opens a split and reads records. numpy, pyarrow and google-crc32c only; no zarr, no torch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from .errors import FailedImageError, IncompleteColumnError, StoreError
from .layout import column_dir, find_columns, split_dir
from .lineage import Lineage, command_for, require_current
from .meta import ColumnMeta, Commit
from .records import Record
from .schema import OK
from .shards import AnyArray, ShardReader
from .tables import read_table

_CACHED_TABLES = 8


class Column:
    """A finished column of a split: reads its shards, each checked against its commit."""

    def __init__(self, folder: Path, place: str, meta: ColumnMeta, commits: Sequence[Commit | None]) -> None:
        self.folder = folder
        self.place = place
        self.meta = meta
        self.commits = commits
        self._shards: dict[int, ShardReader] = {}
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()

    def __repr__(self) -> str:
        kind = "table" if self.meta.array is None else f"{self.meta.array.dtype} {list(self.meta.array.row_shape)}"
        return f"Column({self.meta.column!r}, {kind}, {self.meta.images} images)"

    def commit(self, image_index: int) -> tuple[Commit, int]:
        """The commit of an image's shard and the image's position in it."""
        shard, position = divmod(image_index, self.meta.shard_images)
        commit = self.commits[shard] if shard < len(self.commits) else None
        if commit is None or position >= len(commit.counts):
            raise IncompleteColumnError(f"{self.place}: shard {shard} is not there; run: {command_for(self.place)}")
        return commit, position

    def table(self, shard: int) -> pa.Table:
        """The decoded table of a shard (the last few are kept)."""
        if shard not in self._tables:
            commit, _ = self.commit(shard * self.meta.shard_images)
            self._tables[shard] = read_table(self.folder, commit)
            if len(self._tables) > _CACHED_TABLES:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard)
        return self._tables[shard]

    def array(self, image_index: int) -> AnyArray:
        """The vectors ``[count, ...]`` of an image.

        Raises:
            FailedImageError: the image has none because it failed; the message holds the reason.
        """
        commit, position = self.commit(image_index)
        if commit.status[position] != OK:
            reason = commit.errors.get(str(position), commit.status[position])
            raise FailedImageError(f"{self.meta.column}: image {image_index}: {reason}")
        if commit.shard not in self._shards:
            self._shards[commit.shard] = ShardReader(self.folder, self.meta, commit)
        return self._shards[commit.shard].read(position)

    def mean(self) -> AnyArray:
        """The vector of a column with one row (a train mean)."""
        return self.array(0)


class Split:
    """A split of a data set in the store: a sequence of :class:`Record`, addressed by image_index or image_id."""

    def __init__(self, base: Path, columns: dict[str, Column], images_root: Path | None) -> None:
        self.base = base
        self.columns = columns
        self.images_root = images_root

    def __repr__(self) -> str:
        return (
            f"Split({self.base.parent.name}/{self.base.name}, {len(self)} images, columns: {', '.join(self.columns)})"
        )

    def __len__(self) -> int:
        return self.columns["images"].meta.images

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: int | str) -> Record:
        """The record of an image, by image_index or image_id.

        Raises:
            IndexError, KeyError: there is no such image.
        """
        if isinstance(key, str):
            if key not in self._numbers:
                raise KeyError(f"no image {key!r} in {self.base.name}; its {len(self)} images are in split.image_ids")
            key = self._numbers[key]
        if not -len(self) <= key < len(self):
            raise IndexError(f"image_index {key} is outside 0..{len(self) - 1}")
        return Record(self, key % len(self))

    @cached_property
    def image_ids(self) -> tuple[str, ...]:
        """The image_id of every image, in order of image_index."""
        sources = self.columns["images"].meta.sources or ()
        return tuple(image_id for image_id, _ in sources)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {image_id: number for number, image_id in enumerate(self.image_ids)}

    def column(self, name: str) -> Column:
        """A column by name; an unknown one raises KeyError with the choices."""
        if name not in self.columns:
            raise KeyError(f"no column {name!r}; this split was opened with {', '.join(self.columns)}")
        return self.columns[name]


def open_split(
    store: str | Path,
    dataset: str,
    split: str,
    images_root: str | Path | None = None,
    columns: Sequence[str] | None = None,
    allow_incomplete: bool = False,
) -> Split:
    """Open a split for reading.

    Args:
        store: folder of the store.
        dataset, split: which split.
        images_root: the data set's folder, if pixels are wanted; the store itself knows only relative paths.
        columns: open these alone (``images`` always comes along); default: every column there is.
        allow_incomplete: give the shards that are there instead of raising.

    Raises:
        StoreError: there is no such split or column.
        IncompleteColumnError: a column is unfinished or stale; names the shards and the command to type.
        DamagedStoreError: bytes are not what was committed.
    """
    base = split_dir(Path(store), dataset, split)
    names = find_columns(base) if base.is_dir() else []
    if "images" not in names:
        raise StoreError(f"{base} holds no indexed split; run: python cli.py index --split {split}")
    wanted = names if columns is None else list(dict.fromkeys(["images", *columns]))
    if unknown := sorted(set(wanted) - set(names)):
        raise StoreError(f"{base}: no column {', '.join(unknown)}; found {', '.join(names)}")
    lineage = Lineage(Path(store))
    opened = {name: open_column(Path(store), f"{dataset}/{split}/{name}", allow_incomplete, lineage) for name in wanted}
    images = opened["images"].meta
    for name, column in opened.items():
        made_for = (column.meta.images, column.meta.shard_images)
        if not allow_incomplete and made_for != (images.images, images.shard_images):
            raise IncompleteColumnError(
                f"{name} was made for {made_for[0]} images in shards of {made_for[1]}, the split has {images.images} in shards "
                f"of {images.shard_images}; run: {command_for(f'{dataset}/{split}/{name}')}"
            )
    return Split(base, opened, None if images_root is None else Path(images_root))


def open_column(store: Path, place: str, allow_incomplete: bool = False, lineage: Lineage | None = None) -> Column:
    """Open one column by its place below the store, ``<dataset>/<split>/<column>`` or ``means/<name>/<encoder>``.

    ``lineage`` is the look at the store that several columns share. Raises as :func:`open_split`.
    """
    lineage = lineage or Lineage(store)
    if allow_incomplete:
        meta = lineage.meta(place)
        if meta is None:
            raise StoreError(f"{column_dir(store, place)} holds no column; run: python cli.py info")
        current = [lineage.why_not_current(place, shard) is None for shard in range(meta.shards)]
    else:
        meta = require_current(lineage, place)
        current = [True] * meta.shards
    commits = [lineage.commit(place, shard) if good else None for shard, good in enumerate(current)]
    return Column(column_dir(store, place), place, meta, commits)
