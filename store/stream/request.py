"""What a stream reads: columns and fields by name, and what candidate sets need besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..errors import StoreError
from ..forks import Lazy
from ..format.names import both_names, meant, proposers_of, with_proposer, without_proposer
from ..format.schema import PER_TARGET, TABLES
from ..read.borrowed import AnyColumn
from ..read.open_columns import OpenColumns
from ..read.options import listed, no_field
from .candidates import Candidates

_MASKS, _INSTANCES = "mask_embeddings/", "instance_embeddings/"
_OF_MASKS = ("masks", "match/targets", "match/instances")


@dataclass(frozen=True)
class Wanted:
    """One thing to read: an array column, or a field of a table (None: the whole row as a dict)."""

    column: str
    field: str | None = None
    is_array: bool = False

    @property
    def of_masks(self) -> bool:
        """Whether it has an entry per mask, which candidate sets choose from."""
        return _MASKS in self.column or self.table in _OF_MASKS

    @property
    def table(self) -> str:
        """Its column without the proposer: a key of ``TABLES`` where it is a table."""
        return without_proposer(self.column)


def is_padded(wanted: Wanted, per_target: bool) -> bool:
    """Whether a field is given as an array with an entry per mask, padded or ragged, whatever else is read.

    So is every field of masks that has a number, or a fixed number of numbers, for each: ``masks.area`` [B, K], ``masks.bbox``
    [B, K, 4], and, where a sample is a target, ``match/targets.iou`` [B, K].
    """
    if wanted.field is None or not wanted.of_masks or (wanted.table in PER_TARGET and not per_target):
        return False
    kind = TABLES[wanted.table].field(wanted.field).type
    if not pa.types.is_list(kind):
        return False
    inner = kind.value_type
    while pa.types.is_fixed_size_list(inner):
        inner = inner.value_type
    return bool(pa.types.is_primitive(inner))


def mask_of(key: str) -> str:
    """The key that says where a padded array of a batch has values, bool [B, K]."""
    return f"{key}_mask"


def offsets_of(key: str) -> str:
    """The key that says where each sample of a ragged array begins, int64 [B + 1]."""
    return f"{key}_offsets"


def named(columns: str | Sequence[str] | Mapping[str, str]) -> Mapping[str, str]:
    """Key in the batch -> what to read, from what users may give: one name, several, or such a mapping."""
    return columns if isinstance(columns, Mapping) else {name: name for name in listed(columns)}


def resolve(split: OpenColumns, name: str) -> Wanted:
    """What ``name`` stands for: a column, or ``<table>.<field>``.

    Raises:
        KeyError: it is neither; the message names what there is.
        StoreError: several proposers have such a column, and none was chosen.
    """
    if column := split.name_of(name):
        return Wanted(column, None, split.columns[column].meta.array is not None)
    table, _, field = name.rpartition(".")
    if (column := split.name_of(table)) and (schema := TABLES.get(without_proposer(column))):
        if field not in schema.names:
            raise KeyError(no_field(table, field, schema.names))
        return Wanted(column, field)
    split.require_held(table or name)
    known = both_names(split.columns)
    tables = {column: TABLES.get(without_proposer(column), ()) for column in known}
    fields = [f"{column}.{field.name}" for column, schema in tables.items() for field in schema]
    raise KeyError(
        f"no column {name!r}; {meant(name, [*known, *fields])}this split was opened with "
        f"{', '.join(split.columns)}; fields are <table>.<field>"
    )


class Request:
    """What to read of one or several splits, checked to be there.

    Args:
        names: key in the batch -> column or ``<table>.<field>``.
        per_target: a sample is a target, not an image.
        candidates: which masks to offer; None: those that were embedded.

    Raises:
        KeyError: there is no such column or field.
        StoreError: a column that candidate sets need is not open, or the splits do not fit together.
    """

    def __init__(
        self, splits: Sequence[OpenColumns], names: Mapping[str, str], per_target: bool, candidates: Candidates | None
    ) -> None:
        self.splits, self.per_target, self.candidates = splits, per_target, candidates
        self.wanted = {key: resolve(splits[0], name) for key, name in names.items()}
        for split in splits[1:]:
            for key, name in names.items():
                if (found := resolve(split, name)) != self.wanted[key]:
                    raise StoreError(
                        f"{name} is not the same thing in {split.name} ({found.column}) and {splits[0].name} "
                        f"({self.wanted[key].column})"
                    )
        proposers = proposers_of(wanted.column for wanted in self.wanted.values() if wanted.of_masks)
        if len(proposers) > 1:
            raise StoreError(
                f"found columns of the masks of several proposers, {', '.join(proposers)}: mask k of one is not mask k of another; "
                "make a stream of each"
            )
        self.proposer = next(iter(proposers), None)
        self._check_keys()
        self._check_shapes()

    def column_of(self, table: str) -> str:
        """The column of a table, of the masks' proposer where it has one: ``masks``, ``match/instances``."""
        return table if self.proposer is None else with_proposer(table, self.proposer)

    @Lazy
    def needed(self) -> tuple[str, ...]:
        """Names of all columns that are read, also those that candidate sets are made from."""
        names = [wanted.column for wanted in self.wanted.values()]
        view, arrays = self.candidates, self.mask_arrays
        if any(wanted.of_masks for wanted in self.wanted.values()):
            names += [] if arrays else [self.column_of("masks")]
            if view is not None and view.drop_near_gt is not None:
                names.append(self.column_of("match/instances"))
            if view is not None and view.with_gt:
                names += [companion(name) for name in arrays]
                tables = {wanted.table for wanted in self.wanted.values() if wanted.of_masks and not wanted.is_array}
                names += ["instances"] if tables or not arrays else []
                names += ["targets"] if "match/targets" in tables else []
        names += ["targets"] if self.per_target else []
        return tuple(dict.fromkeys(names))

    @Lazy
    def far(self) -> bool:
        """Whether any of it lies in an object store."""
        return any(split.column(name).far for split in self.splits for name in self.needed)

    @Lazy
    def fields(self) -> dict[str, tuple[str, ...] | None]:
        """Table -> the fields of it that are read, so that each shard is decoded once; None: all."""
        also = {
            "masks": {"area"},
            "match/instances": {"iou"},
            "instances": {"segmentation", "bbox", "area"},
            "targets": {"segmentation", "ignore"},
        }
        found: dict[str, tuple[str, ...] | None] = {}
        for name in self.needed:
            asked = [wanted.field for wanted in self.wanted.values() if wanted.column == name and not wanted.is_array]
            if (table := without_proposer(name)) in TABLES:
                more = also.get(table, set()) if self.candidates is not None or table == "masks" else set()
                found[name] = None if None in asked else tuple(sorted({str(field) for field in asked} | more))
        return found

    @Lazy
    def mask_arrays(self) -> list[str]:
        """The array columns with a vector per mask."""
        return [wanted.column for wanted in self.wanted.values() if wanted.is_array and wanted.of_masks]

    @Lazy
    def chooses(self) -> bool:
        """Whether an image's candidates are decided first: by a view, or because several things must agree on them."""
        of_masks = sum(wanted.of_masks for wanted in self.wanted.values())
        return bool(of_masks) and (self.candidates is not None or (bool(self.mask_arrays) and of_masks > 1))

    @Lazy
    def width(self) -> int | None:
        """Candidates a sample is padded to; None when nothing says how many there can be."""
        arrays, view = self.mask_arrays, self.candidates or Candidates()
        if not arrays:
            return None
        k_max = min(_rows(self.splits[0].column(name)) for name in arrays)
        g_max = min(_rows(self.splits[0].column(companion(name))) for name in arrays) if view.with_gt else 0
        return view.width(k_max, g_max)

    @property
    def sample_bytes(self) -> int:
        """Bytes of a sample's arrays, padding and all."""
        layouts = [
            self.splits[0].column(wanted.column).meta.array for wanted in self.wanted.values() if wanted.is_array
        ]
        return sum(math.prod(layout.row_shape) * np.dtype(layout.dtype).itemsize for layout in layouts if layout)

    def _check_keys(self) -> None:
        """Raise ValueError where two things of a batch would have one key."""
        taken = {"image_index": "the image_index of each sample"}
        taken |= {"target": "the number of each target"} if self.per_target else {}
        taken |= {"source": "the split of each sample"} if len(self.splits) > 1 else {}
        taken |= {"candidates": "the numbers of the candidates"} if self.candidates is not None else {}
        for key in [*taken, *self.wanted]:
            taken |= dict.fromkeys((mask_of(key), offsets_of(key)), f"what belongs to {key}")
        for key in self.wanted:
            if key in taken:
                raise ValueError(
                    f"found the key {key!r} for {self.wanted[key].column}, which is {taken[key]}: choose another one"
                )

    def _check_shapes(self) -> None:
        for name in self.needed:
            layouts = []
            for split in self.splits:
                if name not in split.columns:
                    split.require_held(name)
                    raise StoreError(
                        f"{split.name}: what was asked for needs the column {name}: open the split with it"
                    )
                layouts.append(split.columns[name].meta.array)
            if any(layout != layouts[0] for layout in layouts):
                raise StoreError(f"{name}: splits to be mixed need arrays of one shape, found {layouts}")


def companion(name: str) -> str:
    """The column of instances' vectors that goes with one of masks' vectors: same encoder and, if centred, same proposer."""
    return (name if name.startswith("centered/") else without_proposer(name)).replace(_MASKS, _INSTANCES)


def _rows(column: AnyColumn) -> int:
    assert column.meta.array is not None
    return column.meta.array.row_shape[0]
