"""``make bench-write``: adding a column to a store, and writing a store, against LitData and MDS, which keep a record in one piece.

The new column has 77 kB per image (50 x 768 float16). The store it joins holds another such column with RLEs and text: the
fewer bytes it holds, the better for the formats that rewrite all of them; with patch tokens (1.2 MB per image) it would be 13
times as many.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from store import open_split
from store.format.column import ArrayLayout, ColumnMeta, fingerprint
from store.format.layout import column_dir
from store.format.schema import OK
from store.write.writer import ShardData, begin_column, write_shard
from tests.benchmarks import data, machine
from tests.benchmarks.data import MASKS, Records
from tests.benchmarks.peers import ours
from tests.benchmarks.report import table

BASE = ("images", "masks/sam", "targets", "mask_embeddings/sam/masks")
NEW = "mask_embeddings/sam/new"
HEADER = ("", "new bytes, MB", "rewritten bytes, MB", "seconds", "MB/s of the new column", "files per 100 000 images")


def main() -> None:
    """Make the store and its rivals, add the column to each, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="256 images instead of 10 000")
    parser.add_argument("--images", type=int, help="images of the store (default 10 000)")
    parser.add_argument("--folder", type=Path, default=Path("data/bench-write"), help="made from scratch (about 6 GB)")
    parser.add_argument("--json", type=Path, help="all figures into this file")
    options = parser.parse_args()
    count = options.images or (256 if options.quick else 10_000)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    records = Records(count, narrow=True)
    column = new_column(min(count, 256))
    rows, failed = {}, {}
    writers: dict[str, Callable[..., dict[str, Any]]] = {"this store": add_ours, "LitData": add_litdata, "MDS": add_mds}
    for name, add in writers.items():
        folder = options.folder / name.replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            rows[name] = add(folder, records, column)
        except Exception as error:  # noqa: BLE001 - a peer may raise anything, and the table says what
            failed[name] = f"{type(error).__name__}: {error}"
        shutil.rmtree(folder)
    packages = ["numpy", "pyarrow", "litdata", "mosaicml-streaming"]
    facts = {"machine": machine.describe(options.folder), "versions": machine.versions(packages)}
    document = {**facts, "images": count, "results": rows, "failed": failed}
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(write_report(document))


def new_column(distinct: int) -> list[data.F16]:
    """Rows of the new column; few distinct ones, so that making them is not what is measured."""
    return [data.record(number, seed=5, narrow=True).masks for number in range(distinct)]


def add_ours(folder: Path, records: Records, column: list[data.F16]) -> dict[str, Any]:
    """A column of its own next to the others, shard by shard, each durable before its commit."""
    ours.write(folder, records, BASE)
    before = files_of(folder)
    identity = {"stage": "benchmark", "column": NEW}
    layout = ArrayLayout((64, MASKS[1]), 16, "float16")
    place = ours.place(NEW)
    meta = ColumnMeta(NEW, identity, fingerprint(identity), len(records), records.in_a_file, layout)
    masks = open_split(folder, *ours.SPLIT, columns=["masks/sam"]).column("masks/sam")
    start = time.perf_counter()
    meta = begin_column(column_dir(folder, place), meta)
    for shard in range(meta.shards):
        numbers = meta.shard_range(shard)
        rows = [column[number % len(column)] for number in numbers]
        upstream = {"masks/sam": masks.commit(numbers.start)[0].content}
        shard_data = ShardData(rows, [len(row) for row in rows], [OK] * len(rows))
        write_shard(column_dir(folder, place), meta, place, shard, shard_data, upstream, None, {})
    seconds = time.perf_counter() - start
    split = open_split(folder, *ours.SPLIT)
    last = len(records) - 1
    if not np.array_equal(split[last][NEW], column[last % len(column)]):
        raise ValueError("the new column does not hold what was written")
    return outcome(before, files_of(folder), seconds, len(records))


def add_litdata(folder: Path, records: Records, column: list[data.F16]) -> dict[str, Any]:
    """Every record is read and written again with the new part in it."""
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    from tests.benchmarks.peers import litdata_chunks

    litdata_chunks.write(folder, records, ("narrow",))
    before = files_of(folder)
    start = time.perf_counter()
    (folder / "again").mkdir()
    old = StreamingDataset(str(folder / "narrow"))
    writer = BinaryWriter(str(folder / "again"), chunk_bytes=1 << 28)
    for number in range(len(records)):
        row = old[number]
        writer[number] = {name: bytes(row[name]) for name in row} | {"new": column[number % len(column)].tobytes()}
    writer.done()
    writer.merge(1)
    return replaced(folder / "narrow", folder / "again", before, start, len(records))


def add_mds(folder: Path, records: Records, column: list[data.F16]) -> dict[str, Any]:
    """Every record is read and written again with the new part in it."""
    from streaming import MDSWriter, StreamingDataset

    from tests.benchmarks.peers import mosaic_mds

    mosaic_mds.write(folder, records, ("narrow",))
    before = files_of(folder)
    start = time.perf_counter()
    old = StreamingDataset(local=str(folder / "narrow"), batch_size=1)
    encodings = {name: mosaic_mds.ENCODINGS[name] for name in mosaic_mds.PARTS["narrow"]}
    columns = {**encodings, "new": mosaic_mds.ENCODINGS["masks"]}
    with MDSWriter(out=str(folder / "again"), columns=columns, size_limit=1 << 28, hashes=["xxh3_64"]) as writer:
        for number in range(len(records)):
            writer.write({**old[number], "new": column[number % len(column)]})
    return replaced(folder / "narrow", folder / "again", before, start, len(records))


Files = dict[str, tuple[int, int, int]]


def files_of(folder: Path) -> Files:
    """Path -> inode, time of change and size of every file."""
    found = {path: path.stat() for path in folder.rglob("*") if path.is_file()}
    return {str(path): (state.st_ino, state.st_mtime_ns, state.st_size) for path, state in found.items()}


def replaced(old: Path, new: Path, before: Files, start: float, images: int) -> dict[str, Any]:
    """Make the new files durable and put them in the place of the old ones."""
    for path in new.rglob("*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    shutil.rmtree(old)
    new.rename(old)
    return outcome(before, files_of(old), time.perf_counter() - start, images)


def outcome(before: Files, after: Files, seconds: float, images: int) -> dict[str, Any]:
    """Bytes of the new column, and how many bytes that were there before had to be written again."""
    kept = [path for path in before if after.get(path) == before[path]]
    written = sum(size for path, (_, _, size) in after.items() if path not in kept)
    own = 2 * MASKS[0] * MASKS[1] * images
    rewritten = 0 if len(kept) == len(before) else max(0, written - own)
    return {
        "new_bytes": written - rewritten,
        "rewritten_bytes": rewritten,
        "seconds": seconds,
        "bytes_s": own / seconds,
        "files_per_100000": 100_000 * len(after) / images,
    }


def write_report(document: dict[str, Any]) -> str:
    """The table, with what it depends on."""
    facts = ", ".join(f"{key} {value}" for part in ("machine", "versions") for key, value in document[part].items())
    rows = []
    for name, found in document["results"].items():
        megabytes = [f"{found[key] / 1e6:.0f}" for key in ("new_bytes", "rewritten_bytes")]
        speed = [f"{found['seconds']:.2f}", f"{found['bytes_s'] / 1e6:.0f}", f"{found['files_per_100000']:.0f}"]
        rows.append([name, *megabytes, *speed])
    failed = [f"Not measured: {name}: {why}" for name, why in document["failed"].items()]
    head = f"{facts}. {document['images']} images; every file is fsynced."
    return "\n\n".join([head, table(HEADER, rows), *failed])


if __name__ == "__main__":
    main()
