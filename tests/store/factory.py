"""Small stores for tests, written through the real writer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from store import rle
from store.format.column import ArrayLayout, ColumnMeta, Commit, fingerprint
from store.format.layout import column_dir, find_columns, parts_of, place_of
from store.format.names import without_proposer
from store.format.schema import IMAGES, OK, PER_TARGET, TABLES
from store.overlap import against_instances, against_targets
from store.write.writer import ShardData, begin_column, finish_column, seen_commit, write_shard

LAYOUT = ArrayLayout((32, 8), 16, "float16", dimension_names=("image", "mask", "dim"))


def array_meta(images: int, shard_images: int = 4, layout: ArrayLayout = LAYOUT, **identity: Any) -> ColumnMeta:
    identity = {"stage": "embed", **identity}
    return ColumnMeta("mask_embeddings/sam/x", identity, fingerprint(identity), images, shard_images, layout)


def vectors(counts: list[int], layout: ArrayLayout = LAYOUT, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, *layout.row_shape[1:])).astype(layout.dtype) for count in counts]


def write_array(
    folder: Path,
    meta: ColumnMeta,
    counts: list[int],
    place: str = "d/mask_embeddings/sam/x/val",
    seed: int = 0,
    **how: Any,
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
    store: Path,
    count: int,
    shard_images: int = 4,
    split: str = "val",
    failed: dict[int, str] | None = None,
    salt: str = "",
) -> list[Commit]:
    """``d/<split>/images`` of this many files; the digest of each is that of ``salt`` and its path."""
    failed = failed or {}
    sources = tuple((f"image{i}", f"{split}/image{i}.jpg") for i in range(count))
    identity = {"stage": "index"}
    folder = column_dir(store, f"d/images/{split}")
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
                "sha256": hashlib.sha256(f"{salt}{sources[i][1]}".encode()).hexdigest(),
                "status": status[i - span.start],
                "error": failed.get(i),
            }
            for i in span
        ]
        errors = {i - span.start: failed[i] for i in span if i in failed}
        data = ShardData(rows, [1] * len(rows), status, errors)
        files = {f"file:{sources[i][1]}": failed.get(i, "as it was") for i in span}
        commits.append(
            write_shard(folder, meta, f"d/images/{split}", shard, data, files, IMAGES, {}, seen_commit(folder, shard))
        )
    return commits


def small_store(store: Path, counts: list[int]) -> Path:
    """``d/val`` with images and one array that was computed from them."""
    images = write_images(store, len(counts))
    folder = column_dir(store, "d/mask_embeddings/sam/x/val")
    meta = begin_column(folder, array_meta(len(counts)))
    rows = vectors(counts)
    for shard, upstream in enumerate(images):
        span = meta.shard_range(shard)
        own = rows[span.start : span.stop]
        data = ShardData(own, [len(row) for row in own], [OK] * len(own))
        write_shard(folder, meta, "d/mask_embeddings/sam/x/val", shard, data, {"images": upstream.content}, None, {})
    return store


def write_table(
    store: Path,
    place: str,
    rows: list[list[dict[str, Any]]],
    upstream: dict[str, list[Commit]],
    shard_images: int = 4,
    failed: dict[int, str] | None = None,
    more: Sequence[tuple[int, str, Commit]] = (),
) -> list[Commit]:
    """A table with ``rows[image]`` (one row per image, or one per target); ``more``: shard, name and commit of other upstream."""
    failed, name = failed or {}, parts_of(place)[1]
    folder, identity = column_dir(store, place), {"stage": name}
    meta = begin_column(folder, ColumnMeta(name, identity, fingerprint(identity), len(rows), shard_images))
    commits = []
    for shard in range(meta.shards):
        span = meta.shard_range(shard)
        data = ShardData(
            [row for image in span for row in rows[image]],
            [len(rows[image]) if without_proposer(name) in PER_TARGET else 1 for image in span],
            ["failed" if image in failed else OK for image in span],
            {image - span.start: failed[image] for image in span if image in failed},
        )
        above = {column: made[shard].content for column, made in upstream.items()}
        above |= {name: commit.content for of, name, commit in more if of == shard}
        commits.append(write_shard(folder, meta, place, shard, data, above, TABLES[without_proposer(name)], {}))
    return commits


def write_vectors(
    store: Path,
    place: str,
    rows: list[np.ndarray],
    upstream: dict[str, list[Commit]],
    shard_images: int = 4,
    layout: ArrayLayout = LAYOUT,
) -> list[Commit]:
    name = parts_of(place)[1]
    folder, identity = column_dir(store, place), {"stage": "embed", "column": name}
    meta = begin_column(folder, ColumnMeta(name, identity, fingerprint(identity), len(rows), shard_images, layout))
    commits = []
    for shard in range(meta.shards):
        own = [rows[image] for image in meta.shard_range(shard)]
        data = ShardData(own, [len(row) for row in own], [OK] * len(own))
        above = {column: made[shard].content for column, made in upstream.items()}
        commits.append(write_shard(folder, meta, place, shard, data, above, None, {}))
    return commits


@dataclass
class Known:
    """What was written into a :func:`full_store`, in plain Python."""

    store: Path
    images: list[Commit]
    masks: list[list[np.ndarray]]
    instances: list[list[np.ndarray]]
    targets: list[list[dict[str, Any]]]
    embeddings: list[np.ndarray]
    instance_embeddings: list[np.ndarray]


def full_store(store: Path, images: int = 11, split: str = "val", seed: int = 0, shard_images: int = 4) -> Known:
    """``d/<split>`` with every table and two arrays: masks of 4 x 6 px, 0 to 20 an image, the first often an instance."""
    rng = np.random.default_rng(seed)
    made = {"images": write_images(store, images, shard_images, split)}
    instances = [[rng.random((4, 6)) < 0.5 for _ in range(rng.integers(0, 4))] for _ in range(images)]
    masks = [[rng.random((4, 6)) < 0.4 for _ in range(rng.integers(0, 20))] for _ in range(images)]
    masks = [[*(own[:1] if k % 2 else []), *found] for k, (own, found) in enumerate(zip(instances, masks, strict=True))]
    targets = []
    for image, own in enumerate(instances):
        answers = [list(range(number)) for number in range(rng.integers(0, len(own) + 1) + 1)]
        targets.append([])
        for number, answer in enumerate(answers):
            painted = np.any([own[k] for k in answer], axis=0) if answer else np.zeros((4, 6), bool)
            ignore = (rng.random((4, 6)) < 0.1) & ~painted
            text = {"texts": [f"which {image}-{number}?", "wélche?"], "is_sentence": bool(number % 2), "kind": "test"}
            pixels = {"segmentation": rle.encode(painted), "ignore": rle.encode(ignore)}
            names = {"target_id": f"image{image}/{number}", "image_index": image, "instances": answer}
            targets[-1].append({**names, **text, **pixels, "answer": None if number % 2 else "that"})

    def regions(found: list[np.ndarray], **more: Any) -> dict[str, Any]:
        boxes = [list(rle.bbox(rle.encode(mask), 4)) for mask in found]
        areas = [int(mask.sum()) for mask in found]
        return {"segmentation": [rle.encode(mask) for mask in found], "bbox": boxes, "area": areas, **more}

    def row(image: int, **fields: Any) -> list[dict[str, Any]]:
        return [{"image_index": image, "status": OK, "error": None, **fields}]

    of_instances = [row(k, **regions(own, label=["target"] * len(own))) for k, own in enumerate(instances)]
    made["instances"] = write_table(
        store, f"d/instances/{split}", of_instances, {"images": made["images"]}, shard_images
    )
    made["targets"] = write_table(store, f"d/targets/{split}", targets, {"images": made["images"]}, shard_images)
    of_masks = []
    for k, own in enumerate(masks):
        scores = {"predicted_iou": rng.random(len(own)).tolist(), "stability_score": rng.random(len(own)).tolist()}
        frames = {"point_coords": rng.random((len(own), 2)).tolist(), "crop_box": [[0, 0, 6, 4]] * len(own)}
        of_masks.append(row(k, **regions(own, **scores, **frames)))
    made["masks/sam"] = write_table(store, f"d/masks/sam/{split}", of_masks, {"images": made["images"]}, shard_images)
    matches, pairs = [], []
    for k in range(images):
        found = of_masks[k][0]["segmentation"]
        matches.append([])
        for target in targets[k]:
            values = against_targets(found, target["segmentation"], target["ignore"])
            names = {"target_id": target["target_id"], "image_index": k}
            lists = dict(
                zip(("iou", "iop", "iou_valid", "iop_valid"), [value.tolist() for value in values], strict=True)
            )
            matches[-1].append({**names, **lists})
        iou, iop = against_instances(found, of_instances[k][0]["segmentation"])
        pairs.append(row(k, iou=iou.tolist(), iop=iop.tolist()))
    above = {"masks/sam": made["masks/sam"], "targets": made["targets"]}
    made["match/sam/targets"] = write_table(store, f"d/match/sam/targets/{split}", matches, above, shard_images)
    above = {"masks/sam": made["masks/sam"], "instances": made["instances"]}
    made["match/sam/instances"] = write_table(store, f"d/match/sam/instances/{split}", pairs, above, shard_images)
    embeddings = vectors([len(own) for own in masks], seed=seed)
    of_gt = vectors([len(own) for own in instances], seed=seed + 1)
    write_vectors(store, f"d/mask_embeddings/sam/x/{split}", embeddings, {"masks/sam": made["masks/sam"]}, shard_images)
    write_vectors(store, f"d/instance_embeddings/x/{split}", of_gt, {"instances": made["instances"]}, shard_images)
    for column in find_columns(store, "d", split):
        finish_column(column_dir(store, place_of("d", column, split)), place_of("d", column, split))
    return Known(store, made["images"], masks, instances, targets, embeddings, of_gt)
