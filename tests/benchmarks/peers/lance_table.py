"""Lance: fixed-size lists of float16; one sorted ``take`` per batch, scans in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size, names_of
from tests.benchmarks.data import MASKS, PATCHES, Record, Records, batches_of, order_of

SCHEMA = pa.schema(
    [
        ("patches", pa.list_(pa.float16(), PATCHES[0] * PATCHES[1])),
        ("masks", pa.list_(pa.float16(), MASKS[0] * MASKS[1])),
        ("rles", pa.large_binary()),
        ("text", pa.string()),
    ]
)


def write(folder: Path, records: Records) -> None:
    """Fragments of 256 records, in the newest stable version of its files."""
    rows = (_batch(record) for record in records)
    reader = pa.RecordBatchReader.from_batches(SCHEMA, rows)
    lance.write_dataset(
        reader, str(folder / "data.lance"), max_rows_per_file=records.in_a_file, data_storage_version="stable"
    )


def _batch(record: Record) -> pa.RecordBatch:
    arrays = [
        pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.size)
        for array in (record.patches, record.masks)
    ]
    arrays += [pa.array([record.rle_bytes], pa.large_binary()), pa.array([record.text])]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of a file's footer: of where its metadata stands."""
    file = min(folder.rglob("data/*.lance"))
    return file, file.stat().st_size - 40


def loader(folder: Path, profile: str) -> Iterable[Batch]:
    """A batch's records in the order of the file, which is its fastest."""
    dataset = lance.dataset(str(folder / "data.lance"))
    names, size, count = names_of(profile), batch_size(profile), dataset.count_rows()
    buffers = Buffers(size)

    def tables(epoch: int) -> Iterator[Any]:
        if profile == "sequential":
            yield from dataset.to_batches(columns=names, batch_size=size, batch_readahead=2)
            return
        for numbers in batches_of(order_of(profile, count, epoch), size):
            yield dataset.take(sorted(numbers), columns=names)

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for table in tables(epoch):
            batch: Batch = dict(buffers.tensors(profile, table.num_rows))
            for name in names:
                column = table.column(name)
                if name in batch:
                    into, first = batch[name].numpy(), 0
                    for chunk in getattr(column, "chunks", [column]):
                        flat = chunk.flatten().to_numpy(zero_copy_only=True)
                        into[first : first + len(chunk)] = np.asarray(flat).reshape(len(chunk), *into.shape[1:])
                        first += len(chunk)
                elif name == "rles":
                    batch[name] = [value.decode().split("\n") for value in column.to_pylist()]
                else:
                    batch[name] = column.to_pylist()
            yield batch

    return Epochs(epoch_of)
