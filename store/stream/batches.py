"""Reads the samples of a batch into arrays ``[B, ...]``: only the columns, vectors and fields that were asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreError
from ..format.arrays import AnyArray
from ..format.names import without_proposer
from ..format.schema import PER_TARGET, TABLES
from ..overlap import against_targets, among_instances
from ..read.borrowed import AnyColumn
from ..read.far import asked_ahead
from ..read.open_columns import OpenColumns
from ..read.open_files import keep_to_limit
from ..read.table import Accessor
from ..rle import sam_bbox
from .ahead import ask_ahead
from .buffers import Allocate, BufferPool
from .candidates import Chosen
from .request import Request, Wanted, companion, is_padded, mask_of, offsets_of

Batch = dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """Which samples: source (position among the splits), image_index and number of the target (-1: the image), [B] each.

    text, number: for a mixture, which of the target's texts (as a share of them), and which sample of the epoch the row belongs to.
    """

    source: Sequence[int]
    image: Sequence[int]
    target: Sequence[int]
    text: Sequence[float] = ()
    number: Sequence[int] = ()


class BatchReader:
    """Reads batches of samples.

    Args:
        ragged: vectors and numbers of candidates come one after the other with offsets, not padded with zeros.
        allocate: makes the arrays of vectors; default: memory that is used again as soon as nobody holds it.
    """

    def __init__(self, request: Request, ragged: bool = False, allocate: Allocate | None = None) -> None:
        self.request, self.splits, self.wanted = request, request.splits, request.wanted
        self.per_target, self.candidates = request.per_target, request.candidates
        self.ragged = ragged
        self.allocate = allocate or BufferPool().array

    def read(self, samples: Samples) -> Batch:
        """Read a batch.

        ``batch[key]`` of an array column: ``[B, K, ...]``, zeros after the vectors, and ``key_mask`` bool [B, K] says where there
        are any; ragged: ``[total, ...]``, and ``key_offsets`` int64 [B + 1]. Fields with a number per mask are arrays of the same
        form (:func:`store.stream.request.is_padded`), with the K of the mask arrays in the batch, or else the largest
        number in it. Any other field: a list [B].

        With candidate sets, ``"candidates"`` int64 says which mask (or, -1 - j, which instance j) each one is, with a mask or
        offsets as well. ``"image_index"`` is int64 [B], and so are ``"target"`` where samples are targets, and ``"source"`` where
        there are several splits. For a mixture (:mod:`.mixture`) each row is a question: ``"sample"`` int64 [B] says which sample
        of the epoch it belongs to, and ``"text"`` float64 [B] which of the target's texts it asks, as a share of them:
        ``texts[int(text * len(texts))]``.
        """
        keep_to_limit()
        if not self.request.far:
            return self._read(samples)
        with asked_ahead(partial(ask_ahead, self.request, list(zip(samples.source, samples.image, strict=True)))):
            return self._read(samples)

    def _read(self, samples: Samples) -> Batch:
        batch: Batch = {"image_index": np.array(samples.image, np.int64)}
        if self.per_target:
            batch["target"] = np.array(samples.target, np.int64)
        if len(self.splits) > 1:
            batch["source"] = np.array(samples.source, np.int64)
        if samples.number:
            batch["text"] = np.array(samples.text, np.float64)
            batch["sample"] = np.array(samples.number, np.int64)
        places = list(zip(samples.source, samples.image, samples.target, strict=True))
        chosen: dict[tuple[int, int], Chosen] = {}
        if self.request.chooses:
            chosen = {place[:2]: self._choose(*place[:2]) for place in places}
            if self.candidates is not None:
                self._stack(batch, "candidates", [chosen[place[:2]].index for place in places])
        for key, wanted in self.wanted.items():
            if wanted.is_array:
                self._read_array(batch, key, wanted.column, places, chosen)
                continue
            values = self._values(wanted, places, chosen)
            if is_padded(wanted, self.per_target):
                self._stack(batch, key, [np.asarray(value) for value in values])
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
        of_masks = name in self.request.mask_arrays
        columns = [split.column(name) for split in self.splits]
        shards = [columns[source].reader(image) for source, image, _ in places]
        if of_masks and chosen:
            counts = [len(chosen[place[:2]]) for place in places]
        else:
            counts = [shard.commit.counts[position] for shard, position in shards]
        width = (self.request.width if of_masks else None) or layout.row_shape[0]
        starts = np.zeros(len(places) + 1, np.int64)
        np.cumsum(counts if self.ragged else [width] * len(places), out=starts[1:])
        shape = (int(starts[-1]),) if self.ragged else (len(places), width)
        dtype = np.dtype(layout.dtype).newbyteorder("<")  # as on disk, whatever the machine
        out = self.allocate((*shape, *layout.row_shape[1:]), dtype)
        flat = out.reshape(-1).view(np.uint8)
        memory, address = flat.data, flat.ctypes.data
        row_bytes = flat.nbytes // max(1, int(starts[-1]))
        seen: dict[tuple[int, int], tuple[int, int]] = {}
        borders = (starts * row_bytes).tolist()
        for slot, (source, image, _) in enumerate(places):
            start, end = borders[slot], borders[slot + 1]
            filled = start + counts[slot] * row_bytes
            if (source, image) in seen:
                first, last = seen[source, image]
                flat[start:filled] = flat[first:last]
            else:
                seen[source, image] = (start, filled)
                picked = chosen.get((source, image)) if of_masks else None
                if picked is not None and (picked.rows is not None or picked.instances):
                    self._read_chosen(source, image, name, picked, flat[start:filled])
                else:  # may write past this slot's bytes: the next slots are filled later and overwrite that
                    shard, position = shards[slot]
                    shard.read_into(position, memory[start:], address + start, counts[slot])
            if filled < end:
                flat[filled:end] = 0
        batch[key] = out
        if self.ragged:
            batch[offsets_of(key)] = starts
        else:
            batch[mask_of(key)] = np.arange(width) < np.array(counts)[:, None]

    def _read_chosen(self, source: int, image: int, name: str, chosen: Chosen, out: npt.NDArray[np.uint8]) -> None:
        """Read candidates that are not just the first masks: all vectors up to the last candidate's, then keep theirs."""
        split = self.splits[source]
        upto = chosen.count if chosen.rows is None else int(chosen.rows.max(initial=-1)) + 1
        masks = split.column(name).array(image, upto)
        parts = [masks if chosen.rows is None else masks[chosen.rows]]
        if chosen.instances:
            parts.append(split.column(companion(name)).array(image, chosen.instances))
        out[:] = np.ascontiguousarray(np.concatenate(parts)).reshape(-1).view(np.uint8)

    def _choose(self, source: int, image: int) -> Chosen:
        split, view, arrays = self.splits[source], self.candidates, self.request.mask_arrays
        if arrays:
            masks = min(_count(split.column(name), image) for name in arrays)
        else:
            masks = len(self._field(split, self.request.column_of("masks"), "area", image))
        if view is None:
            return Chosen(masks)
        near = None
        if view.drop_near_gt is not None:
            near = self._field(split, self.request.column_of("match/instances"), "iou", image)
        instances = 0
        if view.with_gt:
            counts = [_count(split.column(companion(name)), image) for name in arrays]
            instances = min(counts) if counts else len(self._field(split, "instances", "area", image))
        return view.choose(masks, near, instances)

    def _values(
        self, wanted: Wanted, places: list[tuple[int, int, int]], chosen: dict[tuple[int, int], Chosen]
    ) -> list[Any]:
        """A field (or whole rows) of each sample: of its image, of its target, or a list of all targets of its image."""
        nested = wanted.table in PER_TARGET and not self.per_target
        if wanted.field is None:
            names = [name for name in TABLES[wanted.table].names if name not in ("status", "error")]
            parts = [self._values(Wanted(wanted.column, name), places, chosen) for name in names]
            if nested:
                return [
                    [dict(zip(names, row, strict=True)) for row in zip(*rows, strict=True)]
                    for rows in zip(*parts, strict=True)
                ]
            return [dict(zip(names, row, strict=True)) for row in zip(*parts, strict=True)]
        columns = [split.column(wanted.column) for split in self.splits]
        readers: dict[tuple[int, int], Accessor] = {}
        picks = wanted.of_masks and bool(chosen)
        per_target = wanted.table in PER_TARGET
        values = []
        for source, image, target in places:
            shard, rows = columns[source].rows(image)
            read = readers.get((source, shard))
            if read is None:
                read = columns[source].field(shard, wanted.field, self.request.fields[wanted.column])
                readers[source, shard] = read
            if not picks:
                values.append(
                    [read(row) for row in rows] if nested else read(rows[target] if per_target else rows.start)
                )
                continue
            split, picked = self.splits[source], chosen[source, image]
            if nested:
                values.append([self._pick(wanted, split, image, n, read(row), picked) for n, row in enumerate(rows)])
            else:
                row = rows[target] if per_target else rows.start
                values.append(self._pick(wanted, split, image, target, read(row), picked))
        return values

    def _pick(self, wanted: Wanted, split: OpenColumns, image: int, target: int, value: Any, chosen: Chosen) -> Any:
        """The candidates' part of a value that has an entry per mask; any other value as it is."""
        if not isinstance(value, list | np.ndarray):
            return value
        added: Any = ()
        if chosen.instances:
            added = self._of_instances(wanted, split, image, target, chosen.instances)
        return chosen.take(value, added)

    def _of_instances(self, wanted: Wanted, split: OpenColumns, image: int, target: int, count: int) -> Any:
        """Values of the field for the image's first instances, as if they were masks."""
        field = str(wanted.field)
        every = self._field(split, "instances", "segmentation", image)
        segmentation = every[:count]
        if wanted.table == "match/targets":
            of_target = [self._field(split, "targets", name, image, target) for name in ("segmentation", "ignore")]
            names = ("iou", "iop", "iou_valid", "iop_valid")
            return dict(zip(names, against_targets(segmentation, *of_target), strict=True))[field]
        if wanted.table == "match/instances":
            return list(dict(zip(("iou", "iop"), among_instances(every), strict=True))[field][:count])
        if field == "bbox":
            return sam_bbox(self._field(split, "instances", field, image)[:count])
        if field in TABLES["instances"].names:
            return self._field(split, "instances", field, image)[:count]
        raise StoreError(f"instances have no {field}: leave masks.{field} out, or with_gt")

    def _field(self, split: OpenColumns, table: str, field: str, image: int, target: int = 0) -> Any:
        column = split.column(table)
        shard, rows = column.rows(image)
        return column.field(shard, field, self.request.fields.get(table, (field,)))(
            rows[target] if without_proposer(table) in PER_TARGET else rows.start
        )

    def _stack(self, batch: Batch, key: str, values: list[AnyArray]) -> None:
        """Values [n, ...] as one array: padded with zeros to the width, or one after the other."""
        counts = list(map(len, values))
        values = values or [np.empty(0)]
        if self.ragged:
            batch[key] = np.concatenate(values)
            batch[offsets_of(key)] = np.cumsum([0, *counts], dtype=np.int64)
            return
        width = self.request.width or max(counts, default=0)
        out = np.zeros((len(counts), width, *values[0].shape[1:]), values[0].dtype)
        for row, value in zip(out, values, strict=False):
            row[: len(value)] = value
        batch[key] = out
        batch[mask_of(key)] = np.arange(width) < np.array(counts)[:, None]


def _count(column: AnyColumn, image: int) -> int:
    commit, position = column.commit(image)
    return commit.counts[position]
