"""HF datasets: Arrow files with binary columns, read as Arrow tables without a copy before the batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.arrow_writer import ArrowWriter

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size, names_of
from tests.benchmarks.data import Records, batches_of, order_of

FEATURES = datasets.Features({name: datasets.Value("large_binary") for name in ("patches", "masks", "rles", "text")})


def write(folder: Path, records: Records) -> None:
    """Files of 256 records, one record per batch of the file."""
    numbers = iter(records)
    for file, first in enumerate(range(0, len(records), records.in_a_file)):
        with ArrowWriter(
            features=FEATURES, path=str(folder / f"{file:05d}.arrow"), writer_batch_size=1, disable_nullable=False
        ) as writer:
            for _ in range(first, min(first + records.in_a_file, len(records))):
                record = next(numbers)
                row = {"patches": record.patches.tobytes(), "masks": record.masks.tobytes()}
                writer.write({**row, "rles": record.rle_bytes, "text": record.text.encode()})
            writer.finalize()


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of the first record batch's description, which follows the schema."""
    file = min(folder.glob("*.arrow"))
    with pa.ipc.open_stream(pa.memory_map(str(file))) as stream:
        schema_bytes = stream.schema.serialize().size
    return file, schema_bytes + 8 + 80


def loader(folder: Path, profile: str) -> Iterable[Batch]:
    """Any rows by number; no indices map, which would cost a look-up per row."""
    files = sorted(folder.glob("*.arrow"))
    dataset = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in files])
    dataset = dataset.select_columns(names_of(profile)).with_format("arrow")
    size = batch_size(profile)
    buffers = Buffers(size)

    def rows(table: Any) -> list[dict[str, Any]]:
        columns = {name: [value.as_buffer() for value in table.column(name)] for name in table.column_names}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for numbers in batches_of(order_of(profile, len(dataset), epoch), size):
            at = slice(numbers[0], numbers[-1] + 1) if profile == "sequential" else numbers
            yield buffers.collate(profile, rows(dataset[at]))

    return Epochs(epoch_of)
