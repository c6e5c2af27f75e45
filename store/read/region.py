"""Masks, instances and questions of an image, as a record gives them: all are rows with the fields of their table."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import rle
from ..format.names import meant
from .display import row_html
from .markup import page, table
from .open_columns import OpenColumns

_RLE = ("segmentation", "ignore")
"""Fields that are COCO RLE counts."""


class _Short(reprlib.Repr):
    """Values as text, long ones cut and numbers rounded to four digits."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist, self.maxstring, self.maxother = 4, 120, 80

    def repr_float(self, value: float, level: int) -> str:
        """Called by the base class."""
        return f"{value:.4g}"


_SHORT = _Short()


class Origin(NamedTuple):
    """Where a row was read: ``number`` of an image in a column of a split."""

    columns: OpenColumns
    image_index: int
    column: str
    number: int


class Row(Mapping[str, Any]):
    """One mask, instance or question of an image. A field is an attribute and an item: ``mask.area``, ``mask["area"]``.

    segmentation: COCO RLE counts in the frame height_px x width_px. The other fields: :mod:`store.format.schema`. origin: where it
    was read, for its picture; a copy in another process has none.
    """

    def __init__(self, fields: Mapping[str, Any], height_px: int, width_px: int, origin: Origin | None = None) -> None:
        self._fields = dict(fields)
        self.height_px, self.width_px, self.origin = height_px, width_px, origin

    def __getitem__(self, name: str) -> Any:
        if name not in self._fields:
            raise KeyError(self._unknown(name))
        return self._fields[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also those that copy and pickle look for before there are any fields
            raise AttributeError(name)
        if name not in self._fields:
            raise AttributeError(self._unknown(name))
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._fields]

    def __repr__(self) -> str:
        where = [] if self.origin is None else [f"{self.origin.column} {self.origin.number}"]
        said = [f"{name}={_SHORT.repr(value)}" for name, value in self._shown() if value is not None]
        known = "area" in self
        areas = [f"{name}=<{rle.area(self[name])} px>" for name in _RLE if name in self and not known]
        return f"{type(self).__name__}({', '.join([*where, f'{self.width_px}x{self.height_px} px', *said, *areas])})"

    def _repr_html_(self) -> str:
        shown = dict(self._shown())
        if self.origin is None:
            title = f"{type(self).__name__} of an image of {self.width_px} x {self.height_px} px"
            return page(title, table(("field", "value"), shown.items(), len(shown)))
        return row_html(*self.origin, shown)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"origin": None}  # or every copy, such as one for another process, would include the split

    def decode(self, name: str = "segmentation") -> npt.NDArray[np.bool_]:
        """The mask as bool [height_px, width_px]; a question also has ``ignore``, the pixels that do not count."""
        return rle.decode(self[name], self.height_px, self.width_px)

    def coco(self, name: str = "segmentation") -> dict[str, Any]:
        """The mask as pycocotools takes it: ``{"size": [h, w], "counts": ...}``."""
        return {"size": [self.height_px, self.width_px], "counts": self[name]}

    def _shown(self) -> Iterator[tuple[str, Any]]:
        """The fields but for run lengths."""
        return ((name, value) for name, value in self._fields.items() if name not in _RLE)

    def _unknown(self, name: str) -> str:
        return f"no field {name!r}; {meant(name, self._fields)}found {', '.join(self._fields)}"


class Region(Row):
    """A mask or an annotated instance of an image."""


class Target(Row):
    """A question about an image, with its answer as painted, and with its row of ``match/targets`` where that is open."""
