"""The verb ``boxes``: a file in COCO's form in which boxes have become masks, by SAM's box prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.entries import not_indexed
from pipeline.inputs import ShardSource
from pipeline.shard import require_device
from pipeline.upstream import place_of
from stages.names import SplitRef
from stages.progress import progress
from stages.proposers.sam import sam_model
from stages.weights import locate
from store import rle
from store.format.lineage import Lineage
from store.format.schema import OK
from store.storage.files import digest, make_folder, publish, temporary_file

KIND = "box"
"""Kind of the targets whose instances are boxes."""


def boxes_command(settings: Settings, split: SplitRef, model: str, out: Path) -> str:
    """Ask SAM for the mask in each box of a split, and write them with their categories; return a line that says where.

    It goes on where it was stopped: what is done stands in ``<out>.part``.

    Args:
        model: a SAM model, e.g. sam_vit_h.
        out: the file; one that is there stays, and is an error.

    Raises:
        InputError: there is no such model, the split is not indexed or has no boxes, or ``out`` is there.
        WeightsError: the checkpoint is not there.
    """
    if out.exists():
        raise InputError(f"--out: {out} is there already; expected another file, or remove it")
    try:
        weights = sam_model(model).weights
    except ValueError as error:
        raise InputError(f"--model: {error}") from error
    records = Lineage(settings.store_path)
    meta = records.meta(place_of(settings, split, "instances"))
    if meta is None:
        raise not_indexed(settings, split)
    shards = range(meta.shards)
    contents = [
        records.content(place_of(settings, split, name), shard) for name in ("instances", "targets") for shard in shards
    ]
    path = locate(weights, ROOT / settings.run.weights_dir, settings.weights_lock)
    head = {"split": str(split), "model": model, "of": digest(contents)}
    part = out.with_name(f"{out.name}.part")
    done = _done(part, head)
    make_folder(out.parent)
    device = require_device(settings)
    with (
        part.open("a" if done is not None else "w", encoding="utf-8") as file,
        progress("boxes", meta.images, "image") as advance,
    ):
        if done is None:
            print(json.dumps(head), file=file, flush=True)
        prompts: Any = None
        for shard in shards:
            asked = {row["image_id"] for row, _ in _asked(settings, split, shard)} - (done or {}).keys()
            source = ShardSource(settings, split, shard)
            pictures = zip(_asked(settings, split, shard), source.pixels(), strict=True) if asked else ()
            for (row, boxes), pixels in pictures:
                if row["image_id"] in asked and boxes and pixels is not None:
                    if prompts is None:
                        from stages.boxes import BoxPrompts

                        prompts = BoxPrompts(model, path, device)
                    masks, scores = prompts.masks(pixels, [box for box, _ in boxes])
                    found = [
                        {"label": label, "bbox": list(box), "counts": rle.encode(mask), "predicted_iou": float(score)}
                        for (box, label), mask, score in zip(boxes, masks, scores, strict=True)
                    ]
                    entry = {name: row[name] for name in ("image_id", "path", "height_px", "width_px")} | {
                        "found": found
                    }
                    print(json.dumps(entry, ensure_ascii=False), file=file, flush=True)
                advance(1)
            if not asked:
                advance(len(source.rows("images")))
    every = _done(part, head) or {}
    count = sum(len(entry["found"]) for entry in every.values())
    if not count:
        part.unlink()
        raise InputError(f"{split} has no boxes: none of its questions is of the kind {KIND}")
    with temporary_file(out.parent, [_coco_form(every).encode()]) as (temporary, _, _):
        publish(temporary, out)
    part.unlink()
    return f"{out}: {count} masks of {len(every)} images; name it as file of a data set of the format coco to read it"


def _asked(
    settings: Settings, split: SplitRef, shard: int
) -> Iterator[tuple[dict[str, Any], list[tuple[list[float], str]]]]:
    """Row of ``images`` of each image of a shard, with its boxes (XYWH px) and their labels."""
    source = ShardSource(settings, split, shard)
    of_boxes: dict[int, set[int]] = {}
    for target in source.rows("targets"):
        if target["kind"] == KIND:
            of_boxes.setdefault(target["image_index"], set()).update(target["instances"])
    for row, instances in zip(source.rows("images"), source.rows("instances"), strict=True):
        numbers = sorted(of_boxes.get(row["image_index"], ())) if instances["status"] == OK else []
        yield row, [(instances["bbox"][number], instances["label"][number]) for number in numbers]


def _done(part: Path, head: dict[str, Any]) -> dict[str, Any] | None:
    """image_id -> what an earlier call found; None where there is nothing of the same boxes and model."""
    if not part.is_file():
        return None
    lines = part.read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # a kill may leave half a line
    if not whole or json.loads(whole[0]) != head:
        return None
    found = {}
    for line in whole[1:]:
        entry = json.loads(line)
        found[entry["image_id"]] = entry
    if lines[-1]:
        part.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")
    return found


def _coco_form(entries: dict[str, Any]) -> str:
    """The file: images in the order of the split, annotations with run lengths, categories by name."""
    labels = sorted({one["label"] for entry in entries.values() for one in entry["found"]})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, entry in enumerate(entries.values(), start=1):
        size = [entry["height_px"], entry["width_px"]]
        suffix = Path(entry["path"]).suffix
        images.append({"id": number, "file_name": entry["image_id"] + suffix, "height": size[0], "width": size[1]})
        for one in entry["found"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": labels.index(one["label"]) + 1,
                    "bbox": one["bbox"],
                    "segmentation": {"size": size, "counts": one["counts"]},
                    "area": rle.area(one["counts"]),
                    "iscrowd": 0,
                    "predicted_iou": one["predicted_iou"],
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(labels, start=1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, ensure_ascii=False)
