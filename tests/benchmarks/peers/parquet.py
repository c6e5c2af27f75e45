"""Parquet by pyarrow: uncompressed, no dictionary, one record per row group, page checksums written and verified."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size, names_of
from tests.benchmarks.data import MASKS, PATCHES, Records, batches_of, order_of

SCHEMA = pa.schema(
    [
        ("patches", pa.binary(2 * PATCHES[0] * PATCHES[1])),
        ("masks", pa.binary(2 * MASKS[0] * MASKS[1])),
        ("rles", pa.binary()),
        ("text", pa.binary()),
    ]
)


def write(folder: Path, records: Records) -> None:
    """Files of 256 row groups."""
    numbers = iter(records)
    how: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    for file, first in enumerate(range(0, len(records), records.in_a_file)):
        with pq.ParquetWriter(folder / f"{file:05d}.parquet", SCHEMA, write_page_checksum=True, **how) as writer:
            for _ in range(first, min(first + records.in_a_file, len(records))):
                record = next(numbers)
                row = {"patches": record.patches.tobytes(), "masks": record.masks.tobytes()}
                row |= {"rles": record.rle_bytes, "text": record.text.encode()}
                writer.write_table(pa.Table.from_pylist([row], SCHEMA), row_group_size=1)


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte in the middle of the footer."""
    file = min(folder.glob("*.parquet"))
    with file.open("rb") as data:
        data.seek(-8, 2)
        length = int.from_bytes(data.read(4), "little")
    return file, file.stat().st_size - 8 - length // 2


def loader(folder: Path, profile: str, verify: bool = True) -> Iterable[Batch]:
    """Footers are read once; a record is a row group."""
    how = {"memory_map": True, "page_checksum_verification": verify}
    files = [pq.ParquetFile(path, **how) for path in sorted(folder.glob("*.parquet"))]
    places = [(file, group) for file in files for group in range(file.num_row_groups)]
    names, size = names_of(profile), batch_size(profile)
    buffers = Buffers(size)

    def row(number: int) -> dict[str, Any]:
        file, group = places[number]
        table = file.read_row_group(group, columns=names, use_threads=False)
        return {name: table.column(name)[0].as_buffer() for name in names}

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for numbers in batches_of(order_of(profile, len(places), epoch), size):
            yield buffers.collate(profile, [row(number) for number in numbers])

    return Epochs(epoch_of)
