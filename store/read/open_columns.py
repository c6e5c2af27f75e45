"""The columns of a split that are open: what records and streams read from."""

from __future__ import annotations

from pathlib import Path

from .column import Column
from .forks import Lazy
from .options import meant
from .pictures import Pictures
from .table import TableCache


class OpenColumns:
    """Open columns of one split, ``images`` always among them. :class:`store.split.Split` adds records and streams."""

    def __init__(
        self, dataset: str, split: str, columns: dict[str, Column], images_root: Path | None, tables: TableCache
    ) -> None:
        self.dataset, self.split = dataset, split
        self.columns = columns
        self.images_root = images_root
        self.tables = tables
        self._pictures: Pictures | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {len(self)} images, columns: {', '.join(self.columns)})"

    @property
    def name(self) -> str:
        """``<dataset>/<split>``, for messages."""
        return f"{self.dataset}/{self.split}"

    def __len__(self) -> int:
        return self.columns["images"].meta.images

    def column(self, name: str) -> Column:
        """A column by name; an unknown one raises KeyError with the choices."""
        if name not in self.columns:
            raise KeyError(
                f"no column {name!r}; {meant(name, self.columns)}this split was opened with {', '.join(self.columns)}"
            )
        return self.columns[name]

    @Lazy
    def image_ids(self) -> tuple[str, ...]:
        """The image_id of every image, in order of image_index."""
        sources = self.columns["images"].meta.sources or ()
        return tuple(image_id for image_id, _ in sources)

    @property
    def pictures(self) -> Pictures | None:
        """Reads the image files below ``images_root``; None without one."""
        root = self.images_root
        if root is None or self._pictures is None or self._pictures.root != Path(root):
            self._pictures = None if root is None else Pictures(Path(root), self.columns["images"].check)
        return self._pictures

    def close(self) -> None:
        """Close its files and forget its decoded tables. What is read later opens and decodes them again."""
        for column in self.columns.values():
            column.close()
        self.tables.clear()
