"""tensorstore on this project's files: one record per read, all reads of a batch started together, into recycled memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorstore as ts

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size
from tests.benchmarks.data import MASKS, batches_of, order_of
from tests.benchmarks.peers.ours import index_byte, write
from tests.benchmarks.peers.tables import array_folders, texts_of

__all__ = ["index_byte", "loader", "write"]


def loader(folder: Path, profile: str, copies: int = 2, reads: int = 4) -> Iterable[Batch]:
    """A cache of 16 MB holds the shards' indices; data is not cached."""
    limits = {"data_copy_concurrency": {"limit": copies}, "file_io_concurrency": {"limit": reads}}
    context = ts.Context({**limits, "cache_pool": {"total_bytes_limit": 16_000_000}})
    found = {
        name: ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}, "recheck_cached_data": False},
            context=context,
            read=True,
        ).result()
        for name, path in array_folders(folder, profile).items()
    }
    texts, size = texts_of(folder, profile), batch_size(profile)
    count, buffers = len(texts["text"]), Buffers(size)

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for numbers in batches_of(order_of(profile, count, epoch), size):
            batch: Batch = dict(buffers.tensors(profile, len(numbers)))
            pending = []
            with ts.Batch() as together:
                for name, array in found.items():
                    into = batch[name].numpy()
                    for slot, number in enumerate(numbers):
                        rows = array[number, : MASKS[0]] if name == "masks" else array[number]
                        pending.append(ts.array(into[slot]).write(rows, batch=together))
            for read in pending:
                read.result()
            for name, values in texts.items():
                batch[name] = [values[number] for number in numbers]
            yield batch

    return Epochs(epoch_of)
