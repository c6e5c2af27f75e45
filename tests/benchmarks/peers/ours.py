"""This project's store, written by its own writer and read by its own stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from store import open_split
from store.format.column import ArrayLayout, ColumnMeta, Commit, fingerprint
from store.format.layout import column_dir, place_of
from store.format.schema import IMAGES, MASKS, OK, TARGETS
from store.torch import loader as torch_loader
from store.write.writer import ShardData, begin_column, finish_column, write_shard
from tests.benchmarks import data
from tests.benchmarks.collate import Batch, batch_size, in_batches, names_of
from tests.benchmarks.data import Record, Records

SPLIT = ("bench", "all")
"""Data set and split."""
NAMES = {
    "patches": "image_features/patches",
    "masks": "mask_embeddings/sam/masks",
    "rles": "masks/sam.segmentation",
    "text": "targets.texts",
}
LAYOUTS = {
    "image_features/patches": ArrayLayout(data.PATCHES, data.PATCHES[0], "float16"),
    "mask_embeddings/sam/masks": ArrayLayout((64, data.MASKS[1]), 16, "float16"),
}
SCHEMAS = {"images": IMAGES, "masks/sam": MASKS, "targets": TARGETS}
COLUMNS = (*SCHEMAS, *LAYOUTS)


def place(name: str) -> str:
    """Place of a column."""
    return place_of(SPLIT[0], name, SPLIT[1])


def write(folder: Path, records: Records, columns: Sequence[str] = COLUMNS) -> None:
    """All columns, shard by shard."""
    metas = {name: begin_column(column_dir(folder, place(name)), _meta(name, records)) for name in columns}
    for shard, part in enumerate(in_batches(records, records.in_a_file)):
        above: dict[str, Commit] = {}
        for name in columns:
            above[name] = write_column_shard(folder, metas[name], shard, part, above)
    for name in columns:
        finish_column(column_dir(folder, place(name)), place(name))


def write_column_shard(
    folder: Path, meta: ColumnMeta, shard: int, part: list[Record], above: dict[str, Commit]
) -> Commit:
    """One shard of one column, with its commit."""
    name, first = meta.column, shard * meta.shard_images
    rows: Sequence[Any] = [row for number, record in enumerate(part, first) for row in _rows(name, number, record)]
    counts = [len(row) for row in rows] if meta.array else [1] * len(part)
    below = {"images": [], "mask_embeddings/sam/masks": ["masks/sam"]}.get(name, ["images"])
    upstream = {column: above[column].content for column in below if column in above}
    if name == "images":
        upstream = {f"file:{number}.jpg": "as it was" for number in range(first, first + len(part))}
    shard_data = ShardData(rows, counts, [OK] * len(part))
    where = place(name)
    return write_shard(column_dir(folder, where), meta, where, shard, shard_data, upstream, SCHEMAS.get(name), {})


def _meta(name: str, records: Records) -> ColumnMeta:
    identity = {"stage": "benchmark", "column": name}
    sources = tuple((f"image{k}", f"{k}.jpg") for k in range(len(records))) if name == "images" else None
    layout = LAYOUTS.get(name)
    return ColumnMeta(name, identity, fingerprint(identity), len(records), records.in_a_file, layout, None, sources)


def _rows(name: str, number: int, record: Record) -> list[Any]:
    if name in LAYOUTS:
        return [record.patches if name == "image_features/patches" else record.masks]
    key = {"image_index": number, "status": OK, "error": None}
    if name == "images":
        file = {"image_id": f"image{number}", "path": f"{number}.jpg", "sha256": "0" * 64}
        return [{**key, **file, "height_px": 480, "width_px": 640}]
    if name == "targets":
        names = {"target_id": f"image{number}/0", "image_index": number, "instances": []}
        return [{**names, "texts": [record.text], "is_sentence": True, "kind": "x", "segmentation": "", "ignore": ""}]
    masks = len(record.rles)
    boxes = {"bbox": [[0, 0, 1, 1]] * masks, "area": [1] * masks, "crop_box": [[0, 0, 640, 480]] * masks}
    scores = {"predicted_iou": [1.0] * masks, "stability_score": [1.0] * masks, "point_coords": [[0.0, 0.0]] * masks}
    return [{**key, "segmentation": record.rles, **boxes, **scores}]


def index_byte(folder: Path) -> tuple[Path, int]:
    """A byte of a shard's index: of the offset of the second image."""
    file = column_dir(folder, place("image_features/patches")) / "c/0/0/0"
    return file, file.stat().st_size - 4 - 16


def loader(folder: Path, profile: str, check: str = "always", threads: int | None = None) -> Iterable[Batch]:
    """``split.stream(...)`` through ``store.torch.loader``."""
    split = open_split(folder, *SPLIT, check=check)
    wanted = {name: NAMES[name] for name in names_of(profile)}
    how = {"shuffle": profile != "sequential", "threads": 0 if profile == "single" else threads}
    return _Renamed(torch_loader(split.stream(wanted, batch_size(profile), **how)))  # type: ignore[arg-type]


class _Renamed:
    """The batches with an image's only text as it is, not in lists (a list of targets, each a list of texts)."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            batch["text"] = [texts[0][0] for texts in batch["text"]]
            yield batch
