"""WebDataset: tars of 256 MB with raw .bin members; shards and a buffer of 100 records are shuffled.

Mask embeddings and text lie in tars of their own as well (its recipe for columns; 7 % more on disk).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import webdataset

from tests.benchmarks.collate import Batch, Buffers, Epochs, batch_size, in_batches
from tests.benchmarks.data import Records

MEMBERS = {"patches": "patches.bin", "rles": "rles.bin", "masks": "masks.bin", "text": "text.bin"}
PARTS = {"whole": tuple(MEMBERS), "narrow": ("masks", "text")}


def write(folder: Path, records: Records) -> None:
    """With its own writer."""
    for part, names in PARTS.items():
        (folder / part).mkdir()
        rows = min(200, records.in_a_file) if part == "whole" else min(700, records.in_a_file)
        with webdataset.ShardWriter(str(folder / part / "%05d.tar"), maxcount=rows, verbose=0) as writer:
            for number, record in enumerate(records):
                values = {"rles": record.rle_bytes, "text": record.text.encode(), "masks": record.masks.tobytes()}
                values["patches"] = record.patches.tobytes() if part == "whole" else b""
                writer.write({"__key__": f"{number:08d}", **{MEMBERS[name]: values[name] for name in names}})


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of a member's header: of its name."""
    return min((folder / "whole").glob("*.tar")), 3


def loader(folder: Path, profile: str, buffer: int = 100) -> Iterable[Batch]:
    """It cannot read a record by number: ``single`` gives one at a time of the shuffled stream."""
    size, part = batch_size(profile), "narrow" if profile == "embeddings_text" else "whole"
    shuffle = profile != "sequential"
    tars = [str(path) for path in sorted((folder / part).glob("*.tar"))]
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars) if shuffle else False, empty_check=False)
    if shuffle:
        dataset = dataset.shuffle(buffer)
    buffers = Buffers(size)

    def row(sample: dict[str, Any]) -> dict[str, Any]:
        return {name: sample[member] for name, member in MEMBERS.items() if member in sample}

    def epoch_of(epoch: int) -> Iterator[Batch]:
        for rows in in_batches(map(row, dataset), size):
            yield buffers.collate(profile, rows)

    return Epochs(epoch_of)
