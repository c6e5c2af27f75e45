"""Regions and questions of an image, as a record gives them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import rle
from .display import region_html
from .markup import page, table
from .open_columns import OpenColumns
from .options import meant

_MASKS = ("segmentation", "ignore")
"""Fields of a target that are COCO RLE counts."""


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
    """Where a region was read: ``number`` of an image in a column of a split."""

    columns: OpenColumns
    image_index: int
    column: str
    number: int


@dataclass(frozen=True, repr=False)
class Region:
    """A mask or an instance of an image, with the fields of its table as attributes of ``fields``.

    segmentation: COCO RLE counts in the frame height_px x width_px. bbox: XYWH px. area: px. origin: where it was read, for
    its picture; a copy has none.
    """

    segmentation: str
    height_px: int
    width_px: int
    fields: dict[str, Any]
    origin: Origin | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        where = [] if self.origin is None else [f"{self.origin.column} {self.origin.number}"]
        return f"Region({', '.join([*where, f'{self.width_px}x{self.height_px} px', *_short(self.fields)])})"

    def _repr_html_(self) -> str:
        if self.origin is None:
            title = f"a region of an image of {self.width_px} x {self.height_px} px"
            return page(title, table(("field", "value"), self.fields.items(), len(self.fields)))
        return region_html(*self.origin, self.fields)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"origin": None}  # or every copy, as for another process, would take the split along

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


class Target(dict[str, Any]):
    """A question about an image: its row of the table ``targets``. A dict that is printed without its run lengths."""

    def __repr__(self) -> str:
        shown = {name: value for name, value in self.items() if name not in _MASKS}
        areas = [f"{name}=<{rle.area(self[name])} px>" for name in _MASKS if name in self]
        return f"Target({', '.join([*_short(shown), *areas])})"


def _short(fields: Mapping[str, Any]) -> list[str]:
    """``name=value`` of each field."""
    return [f"{name}={_SHORT.repr(value)}" for name, value in fields.items()]
