"""Reads the samples of a batch into arrays ``[B, ...]``: only the columns, vectors and fields that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .buffers import BufferPool
from .errors import StoreError
from .overlap import against_instances, against_targets
from .reader import Column, Split
from .schema import PER_TARGET, TABLES
from .shards import AnyArray
from .views import Candidates, Chosen

_MASKS, _INSTANCES = "mask_embeddings/", "instance_embeddings/"
_OVERLAPS = ("match/targets", "match/instances")

Batch = dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """Which samples: source (position among the splits), image_index and number of the target (-1: the image), [B] each."""

    source: Sequence[int]
    image: Sequence[int]
    target: Sequence[int]


@dataclass(frozen=True)
class Wanted:
    """One thing to read: an array column, or a field of a table (None: the whole row as a dict)."""

    column: str
    field: str | None = None
    is_array: bool = False

    @property
    def of_masks(self) -> bool:
        """Whether it has an entry a mask, which candidate sets choose from."""
        return _MASKS in self.column or self.column in ("masks", *_OVERLAPS)


def resolve(split: Split, name: str) -> Wanted:
    """What ``name`` stands for: a column, or ``<table>.<field>``.

    Raises:
        KeyError: it is neither; the message names what there is.
    """
    if name in split.columns:
        return Wanted(name, None, split.columns[name].meta.array is not None)
    table, _, field = name.rpartition(".")
    if table in split.columns and table in TABLES:
        if field not in TABLES[table].names:
            raise KeyError(f"the table {table} has no field {field!r}; its fields are {', '.join(TABLES[table].names)}")
        return Wanted(table, field)
    raise KeyError(
        f"no column {name!r}; this split was opened with {', '.join(split.columns)}; fields are <table>.<field>"
    )


class BatchReader:
    """Reads batches of samples of one or several splits.

    Args:
        names: key in the batch -> column or ``<table>.<field>``.
        per_target: a sample is a target, not an image.
        ragged: array columns come as ``[total, ...]`` with offsets, not padded with zeros.
        candidates: which masks to offer; None: those that were embedded.
    """

    def __init__(
        self,
        splits: Sequence[Split],
        names: Mapping[str, str],
        per_target: bool = False,
        ragged: bool = False,
        candidates: Candidates | None = None,
        pool: BufferPool | None = None,
    ) -> None:
        self.splits, self.per_target, self.ragged = splits, per_target, ragged
        self.candidates = candidates
        self.pool = pool or BufferPool()
        self.wanted = {key: resolve(splits[0], name) for key, name in names.items()}
        for split in splits[1:]:
            for key, name in names.items():
                if resolve(split, name) != self.wanted[key]:
                    raise StoreError(f"{name} is not the same thing in {split.base} and {splits[0].base}")
        self._check_shapes()

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """Names of all columns that are read, also those that candidate sets are made from."""
        names = [wanted.column for wanted in self.wanted.values()]
        if any(wanted.of_masks for wanted in self.wanted.values()) and (view := self.candidates):
            names += ["match/instances"] if view.drop_near_gt is not None else []
            names += [self._companion(w.column) for w in self.wanted.values() if view.with_gt and _MASKS in w.column]
            if view.with_gt and any(not w.is_array and w.of_masks for w in self.wanted.values()):
                names += ["instances", "targets"]
        names += ["targets"] if self.per_target else []
        return tuple(dict.fromkeys(names))

    @cached_property
    def fields(self) -> dict[str, tuple[str, ...] | None]:
        """Table -> its fields that are read, so that each shard is decoded once; None: all."""
        found: dict[str, set[str] | None] = {}
        for wanted in self.wanted.values():
            if not wanted.is_array:
                before = found.get(wanted.column, set())
                found[wanted.column] = None if before is None or wanted.field is None else {*before, wanted.field}
        extra = {"instances": {"segmentation", "bbox", "area"}, "targets": {"segmentation", "ignore"}}
        extra |= {"match/instances": {"iou"}, "masks": {"area"}}
        for name, more in extra.items():
            have = found.get(name, set())
            if have is not None and (name in found or name in self.needed or name == "masks"):
                found[name] = have | more
        return {name: None if have is None else tuple(sorted(have)) for name, have in found.items()}

    @cached_property
    def width(self) -> int | None:
        """Candidates a sample is padded to; None when nothing says how many there can be."""
        arrays = [w.column for w in self.wanted.values() if w.is_array and w.of_masks]
        view = self.candidates or Candidates()
        if not arrays:
            return None
        k_max = min(_rows(self.splits[0].column(name)) for name in arrays)
        g_max = min(_rows(self.splits[0].column(self._companion(name))) for name in arrays) if view.with_gt else 0
        return view.width(k_max, g_max)

    def read(self, samples: Samples) -> Batch:
        """Read a batch.

        ``batch[key]`` of an array column: ``[B, K, ...]``, zeros behind the vectors, ``key + ":mask"`` bool [B, K] says
        where there are any; ragged: ``[total, ...]`` and ``key + ":offsets"`` int64 [B + 1]. Of a field: a list [B], or
        where it is a number a candidate ``[B, K]`` as well. With candidate sets, ``"candidates"`` int64 says which mask
        (or, -1 - j, which instance j) each one is. ``"image_index"`` is int64 [B], ``"target"`` too where samples are
        targets, ``"source"`` where there are several splits.
        """
        batch: Batch = {"image_index": np.array(samples.image, np.int64)}
        if self.per_target:
            batch["target"] = np.array(samples.target, np.int64)
        if len(self.splits) > 1:
            batch["source"] = np.array(samples.source, np.int64)
        places = list(zip(samples.source, samples.image, samples.target, strict=True))
        chosen: dict[tuple[int, int], Chosen] = {}
        if any(wanted.of_masks for wanted in self.wanted.values()):
            chosen = {place[:2]: self._choose(*place[:2]) for place in places}
            if self.candidates is not None:
                self._stack(batch, "candidates", [chosen[place[:2]].index for place in places], -1)
        for key, wanted in self.wanted.items():
            if wanted.is_array:
                self._read_array(batch, key, wanted.column, places, chosen)
                continue
            values = [self._value(wanted, *place, chosen.get(place[:2])) for place in places]
            stackable = wanted.of_masks and self.width is not None and all(_is_numbers(value) for value in values)
            if stackable:
                self._stack(batch, key, values, 0)
            else:
                batch[key] = values
        return batch

    def _read_array(
        self,
        batch: Batch,
        key: str,
        name: str,
        places: list[tuple[int, int, int]],
        chosen: dict[tuple[int, int], Chosen],
    ) -> None:
        """Read each image's vectors to where they belong in one array; an image that comes twice is read once."""
        column = self.splits[0].column(name)
        layout = column.meta.array
        assert layout is not None
        of_masks = _MASKS in name
        columns = [split.column(name) for split in self.splits]
        counts = [
            len(chosen[source, image]) if of_masks else _count(columns[source], image) for source, image, _ in places
        ]
        width = (self.width if of_masks else None) or layout.row_shape[0]
        starts = np.zeros(len(places) + 1, np.int64)
        np.cumsum(counts if self.ragged else [width] * len(places), out=starts[1:])
        shape = (int(starts[-1]),) if self.ragged else (len(places), width)
        out = self.pool.array((*shape, *layout.row_shape[1:]), layout.dtype)
        flat = out.reshape(-1).view(np.uint8)
        row_bytes = flat.nbytes // max(1, int(starts[-1]))
        seen: dict[tuple[int, int], tuple[int, int]] = {}
        for slot, (source, image, _) in enumerate(places):
            start, end = int(starts[slot]) * row_bytes, int(starts[slot + 1]) * row_bytes
            filled = start + counts[slot] * row_bytes
            if (source, image) in seen:
                first, last = seen[source, image]
                flat[start:filled] = flat[first:last]
            else:
                seen[source, image] = (start, filled)
                if of_masks and not self._is_plain(chosen[source, image]):
                    self._read_chosen(source, image, name, chosen[source, image], flat[start:filled])
                elif counts[slot]:
                    shard, position = columns[source].reader(image)
                    shard.read_into(position, flat[start:filled], counts[slot])
            if filled < end:
                flat[filled:end] = 0
        batch[key] = out
        if self.ragged:
            batch[f"{key}:offsets"] = starts
        else:
            batch[f"{key}:mask"] = np.arange(width) < np.array(counts)[:, None]

    @staticmethod
    def _is_plain(chosen: Chosen) -> bool:
        return chosen.is_prefix and not chosen.instances

    def _read_chosen(self, source: int, image: int, name: str, chosen: Chosen, out: npt.NDArray[np.uint8]) -> None:
        """Candidates that are not just the first masks: read as far as the last one, and take."""
        split = self.splits[source]
        upto = int(chosen.masks[-1]) + 1 if len(chosen.masks) else 0
        parts = [split.column(name).array(image, upto)[chosen.masks]]
        if chosen.instances:
            parts.append(split.column(self._companion(name)).array(image, chosen.instances))
        out[:] = np.ascontiguousarray(np.concatenate(parts)).reshape(-1).view(np.uint8)

    def _choose(self, source: int, image: int) -> Chosen:
        split, view = self.splits[source], self.candidates or Candidates()
        arrays = [w.column for w in self.wanted.values() if w.is_array and w.of_masks]
        if arrays:
            masks = min(_count(split.column(name), image) for name in arrays)
        else:
            masks = len(self._field(split, "masks", "area", image))
        near = self._field(split, "match/instances", "iou", image) if view.drop_near_gt is not None else None
        instances = 0
        if view.with_gt:
            companions = [split.column(self._companion(name)) for name in arrays]
            counts = [_count(column, image) for column in companions]
            instances = min(counts) if counts else len(self._field(split, "instances", "area", image))
        return Chosen(view.choose(masks, near), instances)

    def _value(self, wanted: Wanted, source: int, image: int, target: int, chosen: Chosen | None) -> Any:
        """A field (or a whole row) of a sample: of its image, of its target, or a list of all targets of its image."""
        split = self.splits[source]
        if wanted.field is None:
            names = [name for name in TABLES[wanted.column].names if name not in ("status", "error")]
            parts = [self._value(Wanted(wanted.column, name), source, image, target, chosen) for name in names]
            if wanted.column in PER_TARGET and not self.per_target:
                return [dict(zip(names, values, strict=True)) for values in zip(*parts, strict=True)]
            return dict(zip(names, parts, strict=True))
        shard, rows = split.column(wanted.column).rows(image)
        read = split.column(wanted.column).field(shard, wanted.field, self.fields[wanted.column])
        if wanted.column not in PER_TARGET:
            return self._choose_from(wanted, split, image, -1, read(rows.start), chosen)
        asked = [target] if self.per_target else range(len(rows))
        values = [self._choose_from(wanted, split, image, number, read(rows[number]), chosen) for number in asked]
        return values[0] if self.per_target else values

    def _choose_from(
        self, wanted: Wanted, split: Split, image: int, target: int, value: Any, chosen: Chosen | None
    ) -> Any:
        """The candidates' part of a value that has an entry a mask; any other value as it is."""
        if chosen is None or not wanted.of_masks or not isinstance(value, list | np.ndarray):
            return value
        added: Any = ()
        if chosen.instances:
            added = self._of_instances(wanted, split, image, target, chosen.instances)
        return chosen.take(value, added)

    def _of_instances(self, wanted: Wanted, split: Split, image: int, target: int, count: int) -> Any:
        """What the field would say of the image's first instances, were they masks."""
        field = str(wanted.field)
        segmentation = self._field(split, "instances", "segmentation", image)[:count]
        if wanted.column == "match/targets":
            of_target = [self._field(split, "targets", name, image, target) for name in ("segmentation", "ignore")]
            names = ("iou", "iop", "iou_valid", "iop_valid")
            return dict(zip(names, against_targets(segmentation, *of_target), strict=True))[field]
        if wanted.column == "match/instances":
            every = self._field(split, "instances", "segmentation", image)
            return list(dict(zip(("iou", "iop"), against_instances(segmentation, every), strict=True))[field])
        if field == "bbox":  # SAM's boxes run from first to last pixel, those of instances count pixels
            return self._field(split, "instances", field, image)[:count] - np.array([0, 0, 1, 1], np.int32)
        if field in TABLES["instances"].names:
            return self._field(split, "instances", field, image)[:count]
        raise StoreError(f"instances have no {field}: leave masks.{field} out, or with_gt")

    def _field(self, split: Split, table: str, field: str, image: int, target: int = 0) -> Any:
        column = split.column(table)
        shard, rows = column.rows(image)
        return column.field(shard, field, self.fields.get(table, (field,)))(
            rows[target] if table in PER_TARGET else rows.start
        )

    def _stack(self, batch: Batch, key: str, values: list[AnyArray], padding: int) -> None:
        """Values [n, ...] as one array: padded to the width, or one after the other."""
        width = self.width
        if self.ragged or width is None:
            batch[key] = np.concatenate(values) if values else np.empty(0)
            batch[f"{key}:offsets"] = np.cumsum([0, *map(len, values)], dtype=np.int64)
            return
        out = np.full((len(values), width, *values[0].shape[1:]), padding, values[0].dtype)
        for row, value in zip(out, values, strict=True):
            row[: len(value)] = value
        batch[key] = out

    def _companion(self, name: str) -> str:
        return name.replace(_MASKS, _INSTANCES)

    def _check_shapes(self) -> None:
        for name in self.needed:
            layouts = []
            for split in self.splits:
                if name not in split.columns:
                    raise StoreError(
                        f"{split.base}: what was asked for needs the column {name}: open the split with it"
                    )
                layouts.append(split.columns[name].meta.array)
            if any(layout != layouts[0] for layout in layouts):
                raise StoreError(f"{name}: splits to be mixed need arrays of one shape, found {layouts}")


def _rows(column: Column) -> int:
    assert column.meta.array is not None
    return column.meta.array.row_shape[0]


def _count(column: Column, image: int) -> int:
    commit, position = column.commit(image)
    return commit.counts[position]


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray)
