"""MosaicML Streaming: MDS shards of 256 MB, typed columns, no compression, local only.

Mask embeddings and text lie in a second data set as well (7 % more on disk). Hashes are written, but only checked on download.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size, in_batches
from tests.benchmarks.data import Records, batches_of, order_of

ENCODINGS = {"patches": "ndarray:float16:576,1024", "rles": "bytes", "masks": "ndarray:float16:50,768", "text": "str"}
PARTS = {"whole": tuple(ENCODINGS), "narrow": ("masks", "text")}


def write(folder: Path, records: Records, parts: Iterable[str] = tuple(PARTS)) -> None:
    """With hashes."""
    for part in parts:
        columns = {name: ENCODINGS[name] for name in PARTS[part]}
        size = 1_300_000 * min(200, records.in_a_file) if part == "whole" else 90_000 * min(700, records.in_a_file)
        with MDSWriter(out=str(folder / part), columns=columns, size_limit=size, hashes=["xxh3_64"]) as writer:
            for record in records:
                values = {"rles": record.rle_bytes, "text": record.text}
                writer.write({name: values.get(name, getattr(record, name, None)) for name in columns})


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of a shard's table of offsets: of the second record."""
    return min((folder / "whole").glob("*.mds")), 4 + 4 + 1


def loader(folder: Path, profile: str, by_index: bool = True) -> Iterable[Batch]:
    """By index in a permutation, which is faster on a local disk than its own iteration (``by_index=False``)."""
    size, part = batch_size(profile), "narrow" if profile == "embeddings_text" else "whole"
    clean_stale_shared_memory()
    how = {"shuffle": profile != "sequential", "shuffle_algo": "py1e", "predownload": 4 * size, "batch_size": size}
    dataset = StreamingDataset(local=str(folder / part), validate_hash="xxh3_64", **how)
    buffers = Buffers(size)

    def epoch_of(epoch: int) -> Iterator[Batch]:
        if by_index:
            for numbers in batches_of(order_of(profile, dataset.num_samples, epoch), size):
                yield buffers.collate(profile, [dataset[number] for number in numbers])
        else:
            for rows in in_batches(dataset, size):
                yield buffers.collate(profile, rows)

    return Epochs(epoch_of)
