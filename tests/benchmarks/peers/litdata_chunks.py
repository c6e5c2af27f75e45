"""LitData: chunks of 64 MB read in place through mmap; the parts of a record as bytes, which it hands out without a copy.

Mask embeddings and text lie in a second data set as well (7 % more on disk): reading them out of whole records would be slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size
from tests.benchmarks.data import Record, Records, batches_of, order_of

PARTS = {"whole": 1 << 26, "narrow": 1 << 26}


def write(folder: Path, records: Records, parts: Iterable[str] = tuple(PARTS)) -> None:
    """With the writer that ``litdata.optimize`` runs in its workers."""
    for part in parts:
        (folder / part).mkdir()
        rows = min(records.in_a_file, 256) if part == "whole" else -(-len(records) // 2)
        size = {"chunk_size": rows} if len(records) <= 64 else {"chunk_bytes": PARTS[part]}
        writer = BinaryWriter(str(folder / part), **size)
        for number, record in enumerate(records):
            writer[number] = row_of(record, part)
        writer.done()
        writer.merge(1)


def row_of(record: Record, part: str) -> dict[str, Any]:
    """What is stored of a record."""
    row = {"masks": record.masks.tobytes(), "text": record.text.encode()}
    return row if part == "narrow" else {"patches": record.patches.tobytes(), "rles": record.rle_bytes, **row}


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of a chunk's table of offsets: of the second record."""
    return min((folder / "whole").glob("chunk*.bin")), 4 + 4 + 1


def loader(folder: Path, profile: str, workers: int = 0, decode: int | str = 0) -> Iterable[Batch]:
    """LitData's own shuffle (of chunks and within them); sequential and single records by index, which is faster for sequential."""
    size, part = batch_size(profile), "narrow" if profile == "embeddings_text" else "whole"
    shuffle = profile in ("shuffled", "embeddings_text")
    dataset = StreamingDataset(str(folder / part), shuffle=shuffle, drop_last=False, batch_decode=decode)
    buffers = Buffers(size)

    def collate(rows: list[Any]) -> Batch:
        return buffers.collate(profile, rows)

    if shuffle:
        return StreamingDataLoader(dataset, batch_size=size, num_workers=workers, collate_fn=collate)

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for numbers in batches_of(order_of(profile, len(dataset), epoch), size):
            yield collate([dataset[number] for number in numbers])

    return Epochs(epoch_of)
