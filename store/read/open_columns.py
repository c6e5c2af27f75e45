"""The columns of a split that are open: what records and streams read from."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..errors import FailedImageError, StoreError
from ..forks import Lazy
from ..format.names import both_names, find_name, is_of_pictures, meant, proposers_of, without_proposer
from ..format.schema import MADE, OK, TABLES
from .borrowed import AnyColumn
from .folders import Folders
from .holder import NotThere, lacking
from .options import listed, no_field
from .pictures import Pictures
from .table import TableCache

if TYPE_CHECKING:
    import pandas


class OpenColumns:
    """Open columns of one split, ``images`` always among them. :class:`store.split.Split` adds records and streams."""

    def __init__(
        self,
        dataset: str,
        split: str,
        columns: dict[str, AnyColumn],
        images_root: str | Path | Sequence[str | Path] | None,
        tables: TableCache,
        proposer: str | None = None,
        why_not_borrowed: NotThere | None = None,
    ) -> None:
        self.dataset, self.split = dataset, split
        self.columns = columns
        self.proposer = proposer
        self.why_not_borrowed = why_not_borrowed
        self.images_root = images_root
        self.tables = tables
        self._pictures: Pictures | None = None
        self._names: dict[str, str | None] = {}

    def __repr__(self) -> str:
        names = textwrap.shorten(", ".join(self.columns), 160, placeholder=" ...")
        return f"{type(self).__name__}({self.name}, {len(self)} images, {len(self.columns)} columns: {names})"

    @property
    def name(self) -> str:
        """``<dataset>/<split>``, for messages."""
        return f"{self.dataset}/{self.split}"

    def __len__(self) -> int:
        return self.columns["images"].meta.images

    @property
    def proposers(self) -> tuple[str, ...]:
        """The proposers whose columns are open."""
        return proposers_of(self.columns)

    def name_of(self, name: str) -> str | None:
        """The column that a name stands for, which may leave the proposer out (:func:`find_name`); None: it is not open.

        Raises:
            StoreError: several proposers have such a column, and none was chosen.
        """
        if name not in self._names:
            self._names[name] = find_name(name, self.columns, self.proposer)
        return self._names[name]

    def has(self, name: str) -> bool:
        """Whether a column is open. Raises as :meth:`name_of`."""
        return self.name_of(name) is not None

    def require_held(self, name: str) -> None:
        """Raise StoreError where a column is made of pixels alone, and the data set that holds the images is not in the store."""
        if self.why_not_borrowed is not None and is_of_pictures(name):
            raise lacking(self.name, name, self.why_not_borrowed)

    def column(self, name: str) -> AnyColumn:
        """A column by name; an unknown one raises KeyError with the choices. Raises as :meth:`name_of`, :meth:`require_held`."""
        found = self.name_of(name)
        if found is None:
            self.require_held(name)
            raise KeyError(
                f"no column {name!r}; {meant(name, both_names(self.columns))}this split was opened with {', '.join(self.columns)}"
            )
        return self.columns[found]

    @Lazy
    def image_ids(self) -> tuple[str, ...]:
        """The image_id of every image, in order of image_index."""
        sources = self.columns["images"].meta.sources or ()
        return tuple(image_id for image_id, _ in sources)

    @property
    def pictures(self) -> Pictures | None:
        """Reads the image files below ``images_root``; None without one."""
        root = self.images_root
        folders = None if root is None else Folders(root)
        if self._pictures is None or self._pictures.root != folders:
            self._pictures = None if folders is None else Pictures(folders, self.columns["images"].check)
        return self._pictures

    def pixels(self, image_index: int) -> npt.NDArray[np.uint8]:
        """The pixels of an image, uint8 [H, W, 3] RGB, EXIF-oriented. Needs ``images_root`` and Pillow.

        Raises:
            StoreError: the file is not there, or not the one that was indexed (looked at as ``check`` of the split says).
            FailedImageError: the image has no pixels because it failed.
        """
        if self.pictures is None:
            raise StoreError("no pixels: open the split with images_root=<the data set's folder>")
        row = self.image_row(image_index)
        return self.pictures.read(row["path"], row["sha256"])

    def image_row(self, image_index: int) -> dict[str, Any]:
        """The row of ``images`` of an image that is ok; raises FailedImageError where it is not."""
        (row,) = self.columns["images"].table_rows(image_index)
        if row["status"] != OK:
            reason, place = row["error"] or row["status"], self.columns["images"].place
            message = f"image {image_index}: {reason}"
            raise FailedImageError(message, place=place, image_index=image_index, reason=reason)
        return row

    def to_arrow(self, column: str, fields: str | Sequence[str] | None = None) -> pa.Table:
        """A whole table of the split by image_index: a row per image, or per question for ``targets`` and ``match/targets``.

        Rows are as they are stored. A table with a row per image records a failed image in ``status`` and ``error``; a table with a
        row per question has no row for it. In a borrowed column, ``image_index`` is that of this split, and an image that the
        holder does not have has no row.

        Args:
            fields: only this one or these, in this order.

        Raises:
            ValueError: the column is an array. KeyError: there is no such column or field.
            IncompleteColumnError: shards of it are not there.
        """
        source = self.column(column)
        schema = TABLES.get(without_proposer(source.meta.column))
        if schema is None:
            raise ValueError(f"{column} is an array, expected a table; an image's vectors are split[image][{column!r}]")
        if fields is None:
            return source.whole(None)
        wanted = listed(fields)
        for name in set(wanted) - {*schema.names, MADE.name}:
            raise KeyError(no_field(column, name, schema.names))
        return source.whole(tuple(wanted)).select(wanted)

    def to_pandas(self, column: str, fields: str | Sequence[str] | None = None) -> pandas.DataFrame:
        """As :meth:`to_arrow`, as a data frame. Raises StoreError where pandas is not installed."""
        table = self.to_arrow(column, fields)
        try:
            importlib.import_module("pandas")
        except ModuleNotFoundError as error:
            raise StoreError("a data frame needs pandas; type: pip install pandas") from error
        return table.to_pandas()

    def close(self) -> None:
        """Close its files and forget its decoded tables. What is read later opens and decodes them again."""
        for column in self.columns.values():
            column.close()
        self.tables.clear()
