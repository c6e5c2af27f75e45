"""numpy memmap: the ceiling. No checks, no columns, no shards; the copy into a batch is all it does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size, names_of
from tests.benchmarks.data import MASKS, PATCHES, Records, batches_of, order_of


def write(folder: Path, records: Records) -> None:
    """Two arrays, and the RLEs and texts one after the other with offsets."""
    ends: dict[str, list[int]] = {"rles": [0], "text": [0]}
    with (
        (folder / "patches.bin").open("wb") as patches,
        (folder / "masks.bin").open("wb") as masks,
        (folder / "rles.bin").open("wb") as rles,
        (folder / "text.bin").open("wb") as text,
    ):
        for record in records:
            patches.write(record.patches.data)
            masks.write(record.masks.data)
            ends["rles"].append(rles.write(record.rle_bytes) + ends["rles"][-1])
            ends["text"].append(text.write(record.text.encode()) + ends["text"][-1])
    for name, found in ends.items():
        np.save(folder / f"{name}.npy", np.array(found))


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of the index: of the third text's offset."""
    return folder / "text.npy", 128 + 16


def loader(folder: Path, profile: str, threads: int = 1) -> Iterable[Batch]:
    """Rows copied into the batch; with two threads, each copies half of them."""
    texts = {name: np.memmap(folder / f"{name}.bin", np.uint8, "r") for name in ("rles", "text")}
    ends = {name: np.load(folder / f"{name}.npy").tolist() for name in texts}
    count, size = len(ends["text"]) - 1, batch_size(profile)
    sources = {"patches": np.memmap(folder / "patches.bin", np.float16, "r", shape=(count, *PATCHES))}
    sources["masks"] = np.memmap(folder / "masks.bin", np.float16, "r", shape=(count, *MASKS))
    buffers, pool = Buffers(size), ThreadPoolExecutor(threads) if threads > 1 else None

    def copy(batch: Batch, slots: range, numbers: list[int]) -> None:
        for name in ("patches", "masks"):
            if name in batch:
                into, source = batch[name].numpy(), np.asarray(sources[name])
                for slot in slots:
                    into[slot] = source[numbers[slot]]

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for numbers in batches_of(order_of(profile, count, epoch), size):
            batch: Batch = dict(buffers.tensors(profile, len(numbers)))
            if pool is None:
                copy(batch, range(len(numbers)), numbers)
            else:
                parts = [range(first, len(numbers), threads) for first in range(threads)]
                list(pool.map(lambda part: copy(batch, part, numbers), parts))  # noqa: B023
            for name in set(names_of(profile)) & {"rles", "text"}:
                found = [texts[name][ends[name][k] : ends[name][k + 1]].tobytes().decode() for k in numbers]
                batch[name] = [text.split("\n") for text in found] if name == "rles" else found
            yield batch

    return Epochs(epoch_of)
