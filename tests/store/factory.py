"""Small stores for tests, written through the real writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from store.columns import ArrayLayout, ColumnMeta, Commit, fingerprint
from store.layout import column_dir
from store.schema import IMAGES, OK
from store.writer import ShardData, begin_column, seen_commit, write_shard

LAYOUT = ArrayLayout((32, 8), 16, "float16", dimension_names=("image", "mask", "dim"))


def array_meta(images: int, shard_images: int = 4, layout: ArrayLayout = LAYOUT, **identity: Any) -> ColumnMeta:
    identity = {"stage": "embed", **identity}
    return ColumnMeta("mask_embeddings/x", identity, fingerprint(identity), images, shard_images, layout)


def vectors(counts: list[int], layout: ArrayLayout = LAYOUT, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, *layout.row_shape[1:])).astype(layout.dtype) for count in counts]


def write_array(
    folder: Path, meta: ColumnMeta, counts: list[int], place: str = "d/val/mask_embeddings/x", seed: int = 0, **how: Any
) -> list[Commit]:
    meta = begin_column(folder, meta)
    rows = vectors(counts, meta.array or LAYOUT, seed)
    commits = []
    for shard in range(meta.shards):
        span = meta.shard_range(shard)
        own = rows[span.start : span.stop]
        data = ShardData(own, [len(row) for row in own], [OK] * len(own))
        commits.append(
            write_shard(folder, meta, place, shard, data, how.get("upstream", {}), None, {}, seen_commit(folder, shard))
        )
    return commits


def write_images(
    store: Path, count: int, shard_images: int = 4, split: str = "val", failed: dict[int, str] | None = None
) -> list[Commit]:
    failed = failed or {}
    sources = tuple((f"image{i}", f"{split}/image{i}.jpg") for i in range(count))
    identity = {"stage": "index"}
    folder = column_dir(store, f"d/{split}/images")
    meta = begin_column(
        folder, ColumnMeta("images", identity, fingerprint(identity), count, shard_images, None, None, sources)
    )
    commits = []
    for shard in range(meta.shards):
        span = meta.shard_range(shard)
        status = ["failed" if i in failed else OK for i in span]
        rows = [
            {
                "image_index": i,
                "image_id": sources[i][0],
                "path": sources[i][1],
                "height_px": 4,
                "width_px": 6,
                "sha256": "0" * 64,
                "status": status[i - span.start],
                "error": failed.get(i),
            }
            for i in span
        ]
        errors = {i - span.start: failed[i] for i in span if i in failed}
        data = ShardData(rows, [1] * len(rows), status, errors)
        files = {f"file:{sources[i][1]}": failed.get(i, "as it was") for i in span}
        commits.append(
            write_shard(folder, meta, f"d/{split}/images", shard, data, files, IMAGES, {}, seen_commit(folder, shard))
        )
    return commits


def small_store(store: Path, counts: list[int]) -> Path:
    """``d/val`` with images and one array that was computed from them."""
    images = write_images(store, len(counts))
    folder = column_dir(store, "d/val/mask_embeddings/x")
    meta = begin_column(folder, array_meta(len(counts)))
    rows = vectors(counts)
    for shard, upstream in enumerate(images):
        span = meta.shard_range(shard)
        own = rows[span.start : span.stop]
        data = ShardData(own, [len(row) for row in own], [OK] * len(own))
        write_shard(folder, meta, "d/val/mask_embeddings/x", shard, data, {"images": upstream.content}, None, {})
    return store
