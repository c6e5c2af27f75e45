"""What reading gives: one record per image, with its masks, instances, targets and arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import FailedImageError, StoreError
from ..forks import Lazy
from ..format.names import without_proposer
from ..format.schema import OK
from .display import record_html
from .drawing import SIDE_PX, draw
from .markup import cut
from .open_columns import OpenColumns
from .region import Origin, Region, Target

if TYPE_CHECKING:
    from PIL.Image import Image


class Record(Mapping[str, Any]):
    """Everything the store holds of one image: a mapping from columns to what they hold, which is read when it is asked for.

    ``record["mask_embeddings/NAME"]`` is an array ``[count, ...]``; row k belongs to ``record.masks[k]``.
    """

    __hash__ = object.__hash__
    __eq__ = object.__eq__  # a mapping's would read every column of both

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
        return f"Record({self.image_index}, {cut(self.image_id)!r}, {cut(size)})"

    def _repr_html_(self) -> str:
        try:
            targets: Sequence[Mapping[str, Any]] | str = self._asked() if self.split.has("targets") else ""
        except StoreError as error:
            targets = str(error)
        return record_html(self.split, self._row, targets)

    def _asked(self) -> Sequence[Mapping[str, Any]]:
        """The questions, with the IoU of masks where the split has those of one proposer."""
        if self.split.proposer is not None or len(self.split.proposers) < 2:
            return self.targets
        return self.rows("targets")

    def __getitem__(self, column: str) -> Any:
        """What a column holds of the image: for an array, vectors ``[count, ...]``; for masks, instances and targets, the same as
        the attributes of these names; for any other table, :meth:`rows`.

        Raises FailedImageError, and never returns fill values; raises KeyError where no such column is open.
        """
        source = self.split.column(column)
        if source.meta.array is not None:
            return source.array(self.image_index)
        table = without_proposer(source.meta.column)
        if table == "targets":
            return self.targets
        return self._regions(column) if table in ("masks", "instances") else self.rows(column)

    def __iter__(self) -> Iterator[str]:
        return iter(self.split.columns)

    def __len__(self) -> int:
        return len(self.split.columns)

    def __contains__(self, column: object) -> bool:
        return isinstance(column, str) and self.split.has(column)

    @Lazy
    def masks(self) -> list[Region]:
        """The proposals, largest first.

        Raises:
            FailedImageError: the image has none because it failed.
            StoreError: masks of several proposers are open, and none was chosen (:meth:`store.Split.of_proposer`).
        """
        return self._regions("masks")

    @Lazy
    def instances(self) -> list[Region]:
        """The annotated regions. Raises FailedImageError as :attr:`masks` does."""
        return self._regions("instances")

    @Lazy
    def targets(self) -> list[Target]:
        """The questions about this image: rows of ``targets``, each with its row of ``match/targets`` (IoU and IoP of every mask).

        The latter is left out where that column is not open, or where the image's masks failed.

        Raises FailedImageError where the questions could not be read, StoreError as :attr:`masks` does.
        """
        targets = self.rows("targets")
        matches: list[dict[str, Any]] = [{}] * len(targets)
        if self.split.has("match/targets") and self.split.column("match/targets").is_ok(self.image_index):
            matches = self.rows("match/targets")
        return [
            Target(match | target, *self._size, Origin(self.split, self.image_index, "targets", number))
            for number, (target, match) in enumerate(zip(targets, matches, strict=True))
        ]

    def rows(self, column: str) -> list[dict[str, Any]]:
        """The image's rows of a table as they are stored: one row, or in ``targets`` and ``match/targets`` one per target.

        The row of a failed image says so in ``status`` and ``error``. For a failed image, ``targets`` and ``match/targets`` have no
        row; they raise FailedImageError.
        """
        return self.split.column(column).table_rows(self.image_index)

    def image(self) -> npt.NDArray[np.uint8]:
        """The pixels, uint8 [H, W, 3] RGB, EXIF-oriented. Needs ``images_root`` and Pillow.

        Raises:
            StoreError: the file is not there, or not the one that was indexed (looked at as ``check`` of the split says).
            FailedImageError: the image has no pixels because it failed.
        """
        return self.split.pixels(self.image_index)

    def show(self, column: str | None = None, numbers: Sequence[int] | None = None, *, side_px: int = SIDE_PX) -> Image:
        """The image with outlines of its masks, as a Pillow image: a notebook displays it, ``.save("image.png")`` writes it, and
        ``.show()`` opens the viewer of the desktop. Without ``images_root`` the masks are drawn on gray.

        Args:
            column: ``masks``, ``masks/<proposer>``, ``instances``, or ``targets`` for the answers of the questions. Default: masks,
                or else instances, where they are open.
            numbers: draw only these, ``record.masks[number]``; default: the first 64.
            side_px: longest side of the picture. A small image is enlarged, at most four times.

        Raises:
            StoreError: as :meth:`image`, and as :attr:`masks`.
            FailedImageError: the image has no masks in the column because it failed.
            ValueError, IndexError: the column holds no masks, or not that many.
        """
        if column is None:
            column = next((name for name in ("masks", "instances") if self.split.has(name)), None)
        return draw(self.split, self.image_index, column, numbers, side_px)

    def _regions(self, column: str) -> list[Region]:
        row = self.rows(column)[0]
        if row["status"] != OK:
            reason, place = row["error"] or row["status"], self.split.column(column).place
            message = f"{column}: image {self.image_index}: {reason}"
            raise FailedImageError(message, place=place, image_index=self.image_index, reason=reason)
        fields = [name for name, value in row.items() if isinstance(value, list)]
        full = str(self.split.name_of(column))
        return [
            Region({name: row[name][k] for name in fields}, *self._size, Origin(self.split, self.image_index, full, k))
            for k in range(len(row["segmentation"]))
        ]

    @property
    def _size(self) -> tuple[int, int]:
        return self.height_px, self.width_px
