"""zarr-python on this project's files: one orthogonal selection per batch, by one of three pipelines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
import zarr

from tests.benchmarks.collate import Batch, Epochs, batch_size
from tests.benchmarks.data import MASKS, batches_of, order_of
from tests.benchmarks.peers.ours import index_byte, write
from tests.benchmarks.peers.tables import array_folders, texts_of

__all__ = ["index_byte", "loader", "write"]

PIPELINES = {
    "batched": "zarr.core.codec_pipeline.BatchedCodecPipeline",
    "fused": "zarr.core.codec_pipeline.FusedCodecPipeline",
    "zarrs": "zarrs.ZarrsCodecPipeline",
}


def loader(folder: Path, profile: str, pipeline: str = "fused", threads: int = 2) -> Iterable[Batch]:
    """A missing shard raises (``array.read_missing_chunks``), as it should in training; zarrs' pipeline does not support that."""
    settings = {"threading.max_workers": threads, "codec_pipeline.max_workers": threads, "async.concurrency": 8}
    zarr.config.set(
        {"codec_pipeline.path": PIPELINES[pipeline], "array.read_missing_chunks": pipeline == "zarrs", **settings}
    )
    found = {name: zarr.open_array(path, mode="r") for name, path in array_folders(folder, profile).items()}
    texts = texts_of(folder, profile)
    count = len(texts["text"])

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for numbers in batches_of(order_of(profile, count, epoch), batch_size(profile)):
            batch: Batch = {}
            for name, array in found.items():
                rows = slice(0, MASKS[0]) if name == "masks" else slice(None)
                whole_run = len(numbers) == 1 or profile == "sequential"
                at = slice(numbers[0], numbers[-1] + 1) if whole_run else numbers
                batch[name] = torch.from_numpy(array.oindex[at, rows])
            for name, values in texts.items():
                batch[name] = [values[number] for number in numbers]
            yield batch

    return Epochs(epoch_of)
