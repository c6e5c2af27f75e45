"""A holder with two splits and a borrower of both, written through the real writer. The holder is a :func:`factory.full_store`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from factory import Known, full_store, vectors, write_array, write_table, write_vectors

from store import Split, open_split, rle
from store.format.column import ArrayLayout, ColumnMeta, Commit, fingerprint
from store.format.layout import column_dir, find_columns, place_of
from store.format.links import Link, links_extra
from store.format.schema import IMAGES, OK
from store.format.shard import read_commit
from store.overlap import against_instances, against_targets
from store.write.writer import ShardData, begin_column, finish_column, write_shard

LINKS: tuple[Link | None, ...] = (
    ("val", 9),
    ("train", 3),
    ("val", 0),
    None,
    ("val", 4),
    ("train", 0),
    ("val", 7),
    ("val", 1),
    ("train", 2),
    ("val", 2),
)
"""Of each image of the borrower; of the holder's 11 and 9 images the shards 0 to 2 of ``val`` and 0 of ``train``."""
NO_SUCH = "d has no image 'lost'"
X, MEAN = "mask_embeddings/sam/x", "means/m/sam/x"
CENTERED, CENTERED_GT = "centered/m/mask_embeddings/sam/x", "centered/m/instance_embeddings/sam/x"
OWN = [
    "images",
    CENTERED_GT,
    "instance_embeddings/x",
    "instances",
    "match/sam/instances",
    "match/sam/targets",
    "targets",
]
HELD = [CENTERED, X, "masks/sam"]


@dataclass
class Lent:
    """What was written: the holder's splits, and what the borrower has of its own."""

    store: Path
    holder: dict[str, Known]
    links: Sequence[Link | None]
    instances: list[list[np.ndarray]]
    targets: list[list[dict[str, Any]]]
    instance_embeddings: list[np.ndarray]

    def masks(self, image: int) -> list[np.ndarray]:
        split, index = self.links[image]  # type: ignore[misc]
        return self.holder[split].masks[index]

    def embeddings(self, image: int) -> np.ndarray:
        split, index = self.links[image]  # type: ignore[misc]
        return self.holder[split].embeddings[index]

    @property
    def linked(self) -> list[int]:
        return [image for image, link in enumerate(self.links) if link is not None]


def lent_store(store: Path) -> Lent:
    """``d/val`` and ``d/train`` with everything, a mean, vectors minus the mean, and ``words/test`` with images of both."""
    holder = {"val": full_store(store, 11), "train": full_store(store, 9, "train", seed=1)}
    above = {f"/d/{X}/train#{shard}": found.content for shard, found in enumerate(commits(store, f"d/{X}/train"))}
    layout = ArrayLayout((8,), 8, "float64")
    mean = ColumnMeta(MEAN, {"mean": "m"}, fingerprint({"mean": "m"}), 1, 1, layout)
    write_array(column_dir(store, MEAN), mean, [8], MEAN, upstream=above)
    for split, known in holder.items():
        center(store, f"d/{CENTERED}/{split}", [rows + 1 for rows in known.embeddings], X)
    lent = lend(store, holder)
    center(store, f"words/{CENTERED_GT}/test", [rows + 1 for rows in lent.instance_embeddings], "instance_embeddings/x")
    finish(store)
    return lent


def center(store: Path, place: str, rows: list[np.ndarray], of: str) -> None:
    dataset, split = place.split("/")[0], place.split("/")[-1]
    above = commits(store, place_of(dataset, of, split))
    write_vectors(store, place, rows, {of: above, f"/{MEAN}": commits(store, MEAN) * len(above)})


def commits(store: Path, place: str) -> list[Commit]:
    found = (read_commit(column_dir(store, place), shard) for shard in range(99))
    return [commit for commit in found if commit is not None]


def finish(store: Path) -> None:
    for dataset, split in (("d", "val"), ("d", "train"), ("words", "test")):
        for column in find_columns(store, dataset, split):
            finish_column(column_dir(store, place_of(dataset, column, split)), place_of(dataset, column, split))


def write_links(
    store: Path,
    links: Sequence[Link | None],
    place: str = "words/images/test",
    shard_images: int = 4,
    extra: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Commit]:
    """The borrower's images; ``extra``: shard -> what its record says instead of the links."""
    parts = {split: open_split(store, "d", split, "", ["images"]) for split in {link[0] for link in links if link}}
    rows, upstream = [], []
    for image, link in enumerate(links):
        row: dict[str, Any] = {"image_index": image, "image_id": "lost", "path": "", "height_px": 0, "width_px": 0}
        row |= {"sha256": "", "status": "failed", "error": NO_SUCH, "holder_split": None, "holder_index": None}
        if link is not None:
            split, index = link
            row |= parts[split][index].rows("images")[0]
            row |= {"image_index": image, "image_id": f"{split}-{index}", "holder_split": split, "holder_index": index}
            commit, _ = parts[split].column("images").commit(index)
            upstream.append((image, f"/d/images/{split}#{commit.shard}", commit.content))
        rows.append(row)
    sources = tuple((row["image_id"], row["path"]) for row in rows)
    identity = {"stage": "index", "of": "words"}
    folder = column_dir(store, place)
    meta = ColumnMeta("images", identity, fingerprint(identity), len(rows), shard_images, None, None, sources, "d")
    meta, made = begin_column(folder, meta), []
    for shard in range(meta.shards):
        span = meta.shard_range(shard)
        own = rows[span.start : span.stop]
        status = [row["status"] for row in own]
        errors = {position: NO_SUCH for position, each in enumerate(status) if each != OK}
        more = links_extra(links[span.start : span.stop]) if shard not in (extra or {}) else (extra or {})[shard]
        data = ShardData(own, [int(each == OK) for each in status], status, errors, 0, more)
        above = {name: content for image, name, content in upstream if image in span}
        made.append(write_shard(folder, meta, place, shard, data, above, IMAGES, {}))
    return made


def lend(store: Path, holder: dict[str, Known], links: Sequence[Link | None] = LINKS, seed: int = 7) -> Lent:
    """``words/test``: images of the holder, and annotations, their vectors and matches of its own."""
    rng = np.random.default_rng(seed)
    images = write_links(store, links)
    instances = [
        [] if link is None else [rng.random((4, 6)) < 0.5 for _ in range(rng.integers(1, 4))] for link in links
    ]
    for image, link in enumerate(links):
        if link is not None and image % 2 and (masks := holder[link[0]].masks[link[1]]):
            instances[image][0] = masks[0]  # a proposal that is an instance
    targets: list[list[dict[str, Any]]] = []
    for image, own in enumerate(instances):
        targets.append([])
        for number in range(len(own)):
            texts = {
                "texts": [f"in other words {image}-{number}?"],
                "is_sentence": True,
                "kind": "words",
                "answer": None,
            }
            pixels = {"segmentation": rle.encode(own[number]), "ignore": rle.encode(np.zeros((4, 6), bool))}
            names = {"target_id": f"words{image}/{number}", "image_index": image, "instances": [number]}
            targets[-1].append({**names, **texts, **pixels})
    failed = {image: f"image: {NO_SUCH}" for image, link in enumerate(links) if link is None}

    def row(image: int, **fields: Any) -> list[dict[str, Any]]:
        status = {"status": "failed", "error": failed[image]} if image in failed else {"status": OK, "error": None}
        return [{"image_index": image, **status, **fields}]

    regions, of_targets, of_instances, upstream = [], [], [], []
    for image, own in enumerate(instances):
        segmentation = [rle.encode(mask) for mask in own]
        boxes, areas = [list(rle.bbox(each, 4)) for each in segmentation], [int(mask.sum()) for mask in own]
        regions.append(row(image, segmentation=segmentation, bbox=boxes, area=areas, label=["word"] * len(own)))
        link = links[image]
        masks = [] if link is None else [rle.encode(mask) for mask in holder[link[0]].masks[link[1]]]
        iou, iop = against_instances(masks, segmentation)
        of_instances.append(row(image, iou=iou.tolist(), iop=iop.tolist()))
        of_targets.append([])
        for target in targets[image]:
            found = against_targets(masks, target["segmentation"], target["ignore"])
            lists = dict(zip(("iou", "iop", "iou_valid", "iop_valid"), [each.tolist() for each in found], strict=True))
            of_targets[-1].append({"target_id": target["target_id"], "image_index": image, **lists})
        if link is not None:
            place, number = f"d/masks/sam/{link[0]}", link[1] // 4
            upstream.append((image // 4, f"/{place}#{number}", commits(store, place)[number]))
    above = {"images": images}
    made = {
        "instances": write_table(store, "words/instances/test", regions, above, failed=failed),
        "targets": write_table(store, "words/targets/test", targets, above, failed=failed),
    }
    write_table(store, "words/match/sam/targets/test", of_targets, {"targets": made["targets"]}, 4, failed, upstream)
    write_table(
        store, "words/match/sam/instances/test", of_instances, {"instances": made["instances"]}, 4, failed, upstream
    )
    embedded = vectors([len(own) for own in instances], seed=seed)
    write_vectors(store, "words/instance_embeddings/x/test", embedded, {"instances": made["instances"]})
    finish(store)
    return Lent(store, holder, links, instances, targets, embedded)


def copy_of(store: Path, to: Path, *ignored: str) -> Path:
    return Path(shutil.copytree(store, to, ignore=shutil.ignore_patterns(*ignored)))


def opened(store: Path, **how: Any) -> Split:
    """The borrower."""
    return open_split(store, "words", "test", **how)
