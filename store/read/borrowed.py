"""Columns that a split borrows: what is made of pixels alone lies with the data set that holds the images, and is read there.

A borrowed column is addressed by the borrower's image_index. The ``image_index`` in a row of a borrowed table is the holder's, as
the row is read as it is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import FailedImageError, StoreError
from ..forks import arrow_at_work
from ..format.arrays import AnyArray
from ..format.column import Commit
from ..format.links import I64, link_arrays
from ..format.schema import OK
from ..format.tables import concatenated
from .array import ShardReader
from .column import Column, Status
from .table import Accessor


@dataclass(frozen=True)
class Borrowing:
    """Where each image of a borrower is.

    Args:
        name: ``<dataset>/<split>`` of the borrower.
        images: its own column ``images``.
        holder: the data set that holds the images. ``splits``: its splits that have any of these images.
        split: which of the splits each image is in, int64 [N]; -1: in none, as it is not ok (or its shard is not there).
        index: its image_index there, int64 [N].
    """

    name: str
    images: Column
    holder: str
    splits: tuple[str, ...]
    split: I64
    index: I64
    _compared: set[int] = field(default_factory=set)
    _rows: dict[str, Column] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, images: Column) -> Borrowing:
        """Read the links in the records of a borrower's images. Raises DamagedStoreError where a record holds no links."""
        numbers: dict[str, int] = {}
        split, index = (np.full(images.meta.images, -1, np.int64) for _ in range(2))
        for commit in images.commits:
            if commit is None:
                continue
            names, which, where = link_arrays(commit)
            number = np.array([*(numbers.setdefault(each, len(numbers)) for each in names), -1])
            if commit.status.count(OK) < len(commit.status):
                which = np.where(np.array(commit.status) == OK, which, -1)
            span = slice(first := commit.shard * images.meta.shard_images, first + len(which))
            split[span], index[span] = number[which], where
        used = [number for number in range(len(numbers)) if (split == number).any()]
        again = np.full(len(numbers) + 1, -1)
        again[used] = np.arange(len(used))
        splits = tuple(each for each, number in numbers.items() if number in used)
        return cls(name, images, str(images.meta.holder), splits, again[split], index)

    def __len__(self) -> int:
        return len(self.split)

    def shards(self, split: str, shard_images: int) -> list[int]:
        """The shards of a column of a split of the holder that the images lie in, sorted."""
        there = self.index[self.split == self.splits.index(split)]
        return np.unique(there // shard_images).tolist()  # type: ignore[no-any-return]

    def last(self, split: str) -> tuple[int, int]:
        """The largest image_index in a split of the holder, and which image of the borrower that is."""
        mine = np.flatnonzero(self.split == self.splits.index(split))
        image = int(mine[np.argmax(self.index[mine])])
        return int(self.index[image]), image

    def prove(self, contents: Mapping[str, Mapping[int, str]], shard_images: Mapping[str, int]) -> None:
        """Note the shards whose images are proved to be the holder's: they were indexed from rows that are there now.

        Args:
            contents: split of the holder -> shard of its images -> content as it is now. ``shard_images``: of each split.
        """
        sizes = np.array([shard_images[split] for split in self.splits])
        linked = np.flatnonzero(self.split >= 0)
        split, own = self.split[linked], linked // self.images.meta.shard_images
        read = np.unique(np.stack([own, split, self.index[linked] // sizes[split]], axis=1), axis=0).tolist()
        proved = {commit.shard: True for commit in self.images.commits if commit is not None}
        for shard, which, number in read:
            commit, name = self.images.commits[shard], self.splits[which]
            assert commit is not None
            if commit.upstream.get(f"/{self.holder}/images/{name}#{number}") != contents[name][number]:
                proved[shard] = False
        self._compared.update(shard for shard, good in proved.items() if good)

    @property
    def all_proved(self) -> bool:
        """Whether no row needs to be compared."""
        return len(self._compared) == sum(commit is not None for commit in self.images.commits)

    def compare_with(self, rows: Mapping[str, Column]) -> None:
        """The holder's ``images``, by split, for shards that are not proved."""
        self._rows.update(rows)

    def at(self, image_index: int) -> tuple[int, int]:
        """Which of the splits an image is in (-1: none), and its image_index there.

        Raises:
            StoreError: an image of the same shard is not the holder's any longer: its file is another one.
        """
        shard = image_index // self.images.meta.shard_images
        if shard not in self._compared:
            self._compare(shard)
        return self.split.item(image_index), self.index.item(image_index)

    def _compare(self, shard: int) -> None:
        """Check the sha256 of a shard's images against the holder's rows."""
        if self.images.commits[shard] is not None:
            for image in self.images.meta.shard_range(shard):
                if self.split[image] >= 0:
                    self._compare_image(image)
            self._compared.add(shard)

    def _compare_image(self, image: int) -> None:
        name, index = self.splits[self.split.item(image)], self.index.item(image)
        (own_id, own), (their_id, theirs) = _file_of(self.images, image), _file_of(self._rows[name], index)
        if own != theirs:
            place = self.images.place
            raise StoreError(
                f"{place}: image {image} ({own_id!r}, sha256 {own[:12]}) should be image {index} of {self.holder}/images/{name}, "
                f"which is another file ({their_id!r}, sha256 {theirs[:12]}): index {self.name} again",
                place=place,
                shard=image // self.images.meta.shard_images,
                image_index=image,
                reason="its holder has other images now",
                found=theirs,
                expected=own,
            )


def _file_of(images: Column, image_index: int) -> tuple[str, str]:
    """image_id and sha256 of an image."""
    shard, rows = images.rows(image_index)
    fields = ("image_id", "sha256")
    image_id, sha256 = (images.field(shard, name, fields)(rows.start) for name in fields)
    return str(image_id), str(sha256)


class Borrowed:
    """The part of a holder's column that is about a borrower's images; used as a :class:`Column` of the borrower.

    Shards are the holder's: :meth:`rows` names those that :meth:`table` and :meth:`field` take.

    Args:
        place: where the column would be if it were the borrower's own. There is no such folder.
        columns: the holder's, one for each of ``borrowing.splits``. Only the shards that the images lie in are looked at.
    """

    def __init__(self, place: str, borrowing: Borrowing, columns: Sequence[Column]) -> None:
        own = borrowing.images.meta
        self.place = place
        self.borrowing = borrowing
        self.columns = tuple(columns)
        self.check = columns[0].check
        self.far = columns[0].far
        self.meta = replace(columns[0].meta, images=own.images, shard_images=own.shard_images)

    def __repr__(self) -> str:
        places = ", ".join(column.place for column in self.columns)
        return f"Borrowed({self.meta.column!r}, {self.meta.images} images, of {places})"

    def commit(self, image_index: int) -> tuple[Commit, int]:
        """The commit of an image's shard and its position in it; those of the borrower's own ``images`` if the holder lacks it.

        Raises:
            IncompleteColumnError: the shard is not there.
            StoreError: the holder has other images now.
        """
        which, index = self.borrowing.at(image_index)
        return self.columns[which].commit(index) if which >= 0 else self.borrowing.images.commit(image_index)

    def table(self, shard: int, fields: tuple[str, ...] | None = None) -> pa.Table:
        """As :meth:`Column.table`, of a shard that :meth:`rows` named."""
        number, which = divmod(shard, len(self.columns))
        return self.columns[which].table(number, fields)

    def whole(self, fields: tuple[str, ...] | None) -> pa.Table:
        """As :meth:`Column.whole`, of the images that the holder has; ``image_index`` is the borrower's."""
        images = np.flatnonzero(self.borrowing.split >= 0)
        at = [self.rows(image) for image in images.tolist()]
        shards = sorted({shard for shard, _ in at})
        tables = [
            self.columns[shard % len(self.columns)].read_table(shard // len(self.columns), fields) for shard in shards
        ]
        first = dict(zip(shards, accumulate([0, *map(len, tables)]), strict=False))
        with arrow_at_work():
            found = concatenated(tables, self.meta.column).take([first[shard] + rows.start for shard, rows in at])
            if "image_index" not in found.column_names:
                return found
            return found.set_column(found.column_names.index("image_index"), "image_index", pa.array(images))

    def table_rows(self, image_index: int) -> list[dict[str, Any]]:
        """As :meth:`Column.table_rows`. Raises as :meth:`rows`."""
        which, index = self._there(image_index)
        return self.columns[which].table_rows(index)

    def field(self, shard: int, name: str, fields: tuple[str, ...] | None = None) -> Accessor:
        """As :meth:`Column.field`, of a shard that :meth:`rows` named."""
        number, which = divmod(shard, len(self.columns))
        return self.columns[which].field(number, name, fields)

    def share(self, fields: tuple[str, ...] | None) -> bool:
        """As :meth:`Column.share`, for the shards that the images lie in."""
        return all(column.share(fields, self._shards(column, which)) for which, column in enumerate(self.columns))

    def status(self, images: int) -> Status:
        """As :meth:`Column.status`. An image that the holder removed counts as failed: the borrower still asks about it."""
        found = Status(np.zeros(images, bool))
        for which, column in enumerate(self.columns):
            mine = self.borrowing.split == which
            theirs = column.status(column.meta.images, self._shards(column, which)).ok
            found.ok[mine] = theirs[self.borrowing.index[mine]]
        own = self.borrowing.images.status(images)
        for image in np.flatnonzero(~found.ok).tolist():
            if own.ok[image]:
                commit, position = self.commit(image)
                found.failed[image] = commit.errors.get(str(position), commit.status[position])
        found.failed.update(own.failed)
        found.absent.update(own.absent)
        return found

    def counts(self) -> I64:
        """As :meth:`Column.counts`."""
        at = (self.commit(image) for image in range(self.meta.images))
        return np.array([commit.counts[position] for commit, position in at], np.int64)

    def contents(self) -> list[Any]:
        """As :meth:`Column.contents`: of the shards that the images lie in."""
        return [
            [column.place, column.meta.fingerprint]
            + [[shard, commit.content] for shard, commit in enumerate(column.commits) if commit is not None]
            for column in self.columns
        ]

    def close(self) -> None:
        """As :meth:`Column.close`."""
        for column in self.columns:
            column.close()

    def rows(self, image_index: int) -> tuple[int, range]:
        """The shard of an image, for :meth:`table` and :meth:`field`, and its row there.

        Raises:
            FailedImageError: there is no row, as the holder has no such image; the message holds the reason.
        """
        which, index = self._there(image_index)
        shard, rows = self.columns[which].rows(index)
        return shard * len(self.columns) + which, rows

    def is_ok(self, image_index: int) -> bool:
        """Whether the image has data in this column."""
        commit, position = self.commit(image_index)
        return commit.status[position] == OK

    def require_ok(self, image_index: int) -> None:
        """Raise FailedImageError, with the reason, unless the image has data in this column."""
        commit, position = self.commit(image_index)
        if commit.status[position] != OK:
            raise self._failed(commit, position, image_index)

    def reader(self, image_index: int) -> tuple[ShardReader, int]:
        """The reader of an image's shard of an array, and its position there. Raises FailedImageError as :meth:`require_ok`."""
        which, index = self._there(image_index)
        column = self.columns[which]
        if not column.is_ok(index):
            raise self._failed(*column.commit(index), image_index)
        return column.reader(index)

    def array(self, image_index: int, rows: int | None = None) -> AnyArray:
        """The vectors ``[count, ...]`` of an image; with ``rows``, only that many of them. Raises as :meth:`reader`."""
        shard, position = self.reader(image_index)
        return shard.read(position, rows)

    def _there(self, image_index: int) -> tuple[int, int]:
        which, index = self.borrowing.at(image_index)
        if which < 0:
            raise self._failed(*self.borrowing.images.commit(image_index), image_index)
        return which, index

    def _failed(self, commit: Commit, position: int, image_index: int) -> FailedImageError:
        reason = commit.errors.get(str(position), commit.status[position])
        message = f"{self.meta.column}: image {image_index}: {reason}"
        return FailedImageError(message, place=self.place, image_index=image_index, reason=reason)

    def _shards(self, column: Column, which: int) -> list[int]:
        return self.borrowing.shards(self.borrowing.splits[which], column.meta.shard_images)


AnyColumn = Column | Borrowed
"""A column of a split that is open: its own, or one that it borrows."""
