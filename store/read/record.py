"""What reading gives: one record an image, with its masks, instances, targets and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .. import rle
from ..errors import FailedImageError, StoreError
from ..forks import Lazy
from ..format.arrays import AnyArray
from ..format.schema import OK
from .open_columns import OpenColumns
from .options import index_of, meant


@dataclass(frozen=True)
class Region:
    """A mask or an instance of an image, with the fields of its table as attributes of ``fields``.

    segmentation: COCO RLE counts in the frame height_px x width_px. bbox: XYWH px. area: px.
    """

    segmentation: str
    height_px: int
    width_px: int
    fields: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        if name == "segmentation":
            return self.segmentation
        if name not in self.fields:
            raise KeyError(f"no field {name!r}; {meant(name, self.fields)}found segmentation, {', '.join(self.fields)}")
        return self.fields[name]

    def decode(self) -> npt.NDArray[np.bool_]:
        """The mask as bool [height_px, width_px]."""
        return rle.decode(self.segmentation, self.height_px, self.width_px)

    def coco(self) -> dict[str, Any]:
        """The mask as pycocotools takes it: ``{"size": [h, w], "counts": ...}``."""
        return {"size": [self.height_px, self.width_px], "counts": self.segmentation}


class Records(Sequence["Record"]):
    """Some records of a split, one after the other. Each is read when it is asked for; nothing is copied."""

    def __init__(self, split: OpenColumns, numbers: range) -> None:
        self.split, self.numbers = split, numbers

    def __repr__(self) -> str:
        return f"Records({len(self)} of {self.split!r})"

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


class Record:
    """Everything the store holds of one image. Columns are read when they are asked for.

    ``record["mask_embeddings/NAME"]`` is an array ``[count, ...]``; row k belongs to ``record.masks[k]``.
    """

    def __init__(self, split: OpenColumns, image_index: int) -> None:
        self.split = split
        self.image_index = image_index
        self._row = self.rows("images")[0]
        self.image_id: str = self._row["image_id"]
        self.path: str = self._row["path"]
        self.height_px: int = self._row["height_px"]
        self.width_px: int = self._row["width_px"]
        self.status: str = self._row["status"]
        self.error: str | None = self._row["error"]

    def __repr__(self) -> str:
        size = f"{self.width_px}x{self.height_px} px" if self.status == OK else f"{self.status}: {self.error}"
        return f"Record({self.image_index}, {self.image_id!r}, {size})"

    def __getitem__(self, column: str) -> AnyArray:
        """The image's vectors in an array column. Raises FailedImageError, never gives fill values; ValueError for a table."""
        source = self.split.column(column)
        if source.meta.array is None:
            raise ValueError(
                f"{column} is a table, expected an array column; a record has rows of tables as record.masks, record.instances "
                f"and record.targets, and record.height_px and others of images; whole: split.column({column!r}).table(0)"
            )
        return source.array(self.image_index)

    @Lazy
    def masks(self) -> list[Region]:
        """The proposals, largest first.

        Raises:
            FailedImageError: the image has none because it failed.
            StoreError: there are those of several proposers, and the split does not say which (:meth:`store.Split.of_proposer`).
        """
        return self._regions("masks")

    @Lazy
    def instances(self) -> list[Region]:
        """The annotated regions. Raises FailedImageError as :attr:`masks` does."""
        return self._regions("instances")

    @Lazy
    def targets(self) -> list[dict[str, Any]]:
        """The questions about this image: rows of ``targets``, with the lists of ``match/targets`` where that is open and ok.

        Raises FailedImageError when they could not be read, StoreError as :attr:`masks` does. An image whose masks failed has
        questions, without those lists.
        """
        targets = self.rows("targets")
        if not self.split.has("match/targets") or not self.split.column("match/targets").is_ok(self.image_index):
            return targets
        return [{**match, **target} for target, match in zip(targets, self.rows("match/targets"), strict=True)]

    def rows(self, column: str) -> list[dict[str, Any]]:
        """The image's rows of a table as it is stored: one, or of ``targets`` and ``match/targets`` one per target.

        A row of a failed image says so in ``status`` and ``error``. Tables of targets have none then: they raise FailedImageError.
        """
        return self.split.column(column).table_rows(self.image_index)

    def image(self) -> npt.NDArray[np.uint8]:
        """The pixels, uint8 [H, W, 3] RGB, EXIF-oriented. Needs ``images_root`` and Pillow.

        Raises:
            StoreError: the file is not there, or not the one that was indexed (looked at as ``check`` of the split says).
            FailedImageError: the image has no pixels because it failed.
        """
        pictures = self.split.pictures
        if pictures is None:
            raise StoreError("no pixels: open the split with images_root=<the data set's folder>")
        if self.status != OK:
            raise FailedImageError(f"image {self.image_index}: {self.error or self.status}")
        return pictures.read(self.path, self._row["sha256"])

    def _regions(self, column: str) -> list[Region]:
        row = self.rows(column)[0]
        if row["status"] != OK:
            raise FailedImageError(f"{column}: image {self.image_index}: {row['error'] or row['status']}")
        names = [name for name, value in row.items() if isinstance(value, list) and name != "segmentation"]
        return [
            Region(counts, self.height_px, self.width_px, {name: row[name][k] for name in names})
            for k, counts in enumerate(row["segmentation"])
        ]
