"""From opening a store of 100 000 images to the first batch: what a run pays before it learns anything.

The store is made by the project's writer with every column that ELISA reads and all they are computed from, as opening checks
all upstream columns. Vectors are short, as the time to open does not depend on their length.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import Settings
from stages.train.params import TrainParams
from stages.train.run import batches, columns, system_class
from store import open_split, rle
from store.format.column import ArrayLayout, ColumnMeta, fingerprint
from store.format.layout import column_dir, place_of
from store.format.names import without_proposer
from store.format.schema import OK, TABLES
from store.write.writer import ShardData, begin_column, write_shard
from tests.benchmarks import machine

NAME, MASKS, HEIGHT, WIDTH = "short", 3, 48, 64
DATASET, SPLIT = "bench", "train"
PROPOSER = "bands"
_MEAN = f"means/bench/{PROPOSER}/{NAME}"
_VECTORS = {"mask": f"mask_embeddings/{PROPOSER}/{NAME}", "instance": f"instance_embeddings/{NAME}"}
_CENTERED = {kind: f"centered/bench/{kind}_embeddings/{PROPOSER}/{NAME}" for kind in _VECTORS}
ARRAYS = {
    f"image_features/{NAME}": ArrayLayout((4, 8), 4, "float16"),
    **{name: ArrayLayout((16, 16), 16, "float16") for name in (*_VECTORS.values(), *_CENTERED.values())},
}
UPSTREAM: dict[str, tuple[str, ...]] = {
    "images": (),
    "instances": ("images",),
    "targets": ("images",),
    f"masks/{PROPOSER}": ("images",),
    f"match/{PROPOSER}/instances": (f"masks/{PROPOSER}", "instances"),
    f"image_features/{NAME}": ("images",),
    _VECTORS["mask"]: ("images", f"masks/{PROPOSER}"),
    _VECTORS["instance"]: ("images", "instances"),
    **{name: (_VECTORS[kind], f"/{_MEAN}") for kind, name in _CENTERED.items()},
}
"""Column -> the columns it is computed from, in the order in which they are made."""


def params_of(settings: Settings) -> TrainParams:
    """Section train with the columns of this store."""
    elisa = settings.train.elisa.model_copy(update={"mask_encoder": NAME})
    return settings.train.model_copy(
        update={"image_encoder": NAME, "mean": "bench", "proposer": PROPOSER, "elisa": elisa}
    )


def make(folder: str, images: int, shard_images: int) -> dict[str, Any]:
    """Write the store."""
    os.fsync = lambda descriptor: None  # the store is temporary, and syncing it would take minutes
    store, start = Path(folder), time.perf_counter()
    layout = ArrayLayout((16,), 16, "float64")
    mean = begin_column(column_dir(store, _MEAN), _meta(_MEAN, 1, 1, layout))
    rows = ShardData([np.zeros(16)], [16], [OK])
    above = {f"/{_MEAN}": write_shard(column_dir(store, _MEAN), mean, _MEAN, 0, rows, {}, None, {}).content}
    metas = {name: _begin(store, name, images, shard_images) for name in UPSTREAM}
    fields = _fields()
    for shard in range(metas["images"].shards):
        numbers = metas["images"].shard_range(shard)
        for name, needed in UPSTREAM.items():
            upstream = {one: above[one] for one in needed}
            if name == "images":
                upstream = {f"file:{number}.jpg": "as it was" for number in numbers}
            place = place_of(DATASET, name, SPLIT)
            data = ShardData(*_rows(name, numbers, fields), [OK] * len(numbers))
            commit = write_shard(
                column_dir(store, place),
                metas[name],
                place,
                shard,
                data,
                upstream,
                TABLES.get(without_proposer(name)),
                {},
            )
            above[name] = commit.content
    files = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    return {"seconds": time.perf_counter() - start, "files": len(files), "bytes": sum(files)}


def _meta(name: str, images: int, shard_images: int, layout: ArrayLayout | None) -> ColumnMeta:
    identity = {"stage": "benchmark", "column": name}
    sources = tuple((f"image{k}", f"{k}.jpg") for k in range(images)) if name == "images" else None
    return ColumnMeta(name, identity, fingerprint(identity), images, shard_images, layout, None, sources)


def _begin(store: Path, name: str, images: int, shard_images: int) -> ColumnMeta:
    return begin_column(
        column_dir(store, place_of(DATASET, name, SPLIT)), _meta(name, images, shard_images, ARRAYS.get(name))
    )


def _fields() -> dict[str, Any]:
    """The fields that all images share: the masks are three bands, and the first band is the only instance."""
    bands = []
    for number in range(MASKS):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[number * 16 : number * 16 + 16] = True
        bands.append(rle.encode(mask))
    boxes = [[0, 16 * number, WIDTH, 16] for number in range(MASKS)]
    scores = {"predicted_iou": [1.0] * MASKS, "stability_score": [1.0] * MASKS, "point_coords": [[0.0, 0.0]] * MASKS}
    regions = {"segmentation": bands, "bbox": boxes, "area": [16 * WIDTH] * MASKS}
    one = {key: value[:1] for key, value in regions.items()}
    overlap = [[1.0], [0.0], [0.0]]
    return {
        "images": {"height_px": HEIGHT, "width_px": WIDTH, "sha256": "0" * 64},
        "instances": {**one, "label": ["target"]},
        "targets": {"instances": [0], "texts": ["which band is the first?"], "is_sentence": True, "kind": "bench",
                    "answer": "It is on top.", "segmentation": bands[0], "ignore": rle.encode(np.zeros((HEIGHT, WIDTH), bool))},
        f"masks/{PROPOSER}": {**regions, **scores, "crop_box": [[0, 0, WIDTH, HEIGHT]] * MASKS},
        f"match/{PROPOSER}/instances": {"iou": overlap, "iop": overlap},
    }  # fmt: skip


def _rows(name: str, numbers: range, fields: Mapping[str, Any]) -> tuple[list[Any], list[int]]:
    """Rows and counts of a shard."""
    if layout := ARRAYS.get(name):
        count = {"image": layout.row_shape[0], "instance": 1}.get(
            name.removeprefix("centered/bench/").split("_")[0], MASKS
        )
        vectors = np.random.default_rng(numbers.start).standard_normal((count, layout.row_shape[1])).astype(np.float16)
        return [vectors] * len(numbers), [count] * len(numbers)
    ids: dict[str, Callable[[int], dict[str, Any]]] = {
        "images": lambda k: {"image_id": f"image{k}", "path": f"{k}.jpg", "status": OK, "error": None},
        "targets": lambda k: {"target_id": f"image{k}/0"},
    }
    own = ids.get(name, lambda k: {"status": OK, "error": None})
    return [{"image_index": k, **own(k), **fields[name]} for k in numbers], [1] * len(numbers)


def first(settings: Settings, folder: str) -> dict[str, Any]:
    """Seconds to open the store and to the first shuffled batch, in a process that has imported everything and read nothing."""
    params, kind = params_of(settings), system_class("elisa")
    start = time.perf_counter()
    split = open_split(folder, DATASET, SPLIT, columns=sorted(columns(params, "elisa")))
    opened = time.perf_counter()
    stream = iter(batches(params, kind, {"train": split}))  # type: ignore[arg-type]
    batch = next(stream)
    ready = time.perf_counter()
    if batch["features"].shape[0] != params.batch_size:
        raise ValueError(f"found a batch of {batch['features'].shape[0]}, expected {params.batch_size}")
    return {"open_s": opened - start, "batch_s": ready - opened, "whole_s": ready - start}


def prepare_cache(folder: Path, cold: bool) -> None:
    """Put the store into the page cache, or out of it."""
    (machine.evict if cold else machine.warm)(folder)
