"""The verb ``boxes``: a file in COCO's form in which boxes have become masks, by SAM's box prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.inputs import ShardSource
from pipeline.listed import not_indexed
from pipeline.shard import require_device
from pipeline.unlisted import require_listed
from pipeline.upstream import commits_of
from stages.names import SplitRef
from stages.progress import progress
from stages.proposers.sam import sam_model
from stages.weights import locate
from store import rle
from store.format.schema import OK
from store.storage.files import digest, make_folder
from store.storage.leftovers import replace_file

KIND = "box"
"""Kind of the targets whose instances are boxes."""


@dataclass(frozen=True)
class _Asked:
    """An image that has boxes: its position in the shard, its row of ``images``, and its boxes, XYWH px, with their labels."""

    position: int
    row: dict[str, Any]
    boxes: list[tuple[list[float], str]]


def boxes_command(settings: Settings, split: SplitRef, model: str, out: Path) -> str:
    """Ask SAM for the mask in each box of a split, and write them with their categories; return a line that says where.

    If stopped, run it again to resume: what is done is kept in ``<out>.part``.

    Args:
        model: a SAM model, e.g. sam_vit_h.
        out: the file; one that is there stays, and is an error.

    Raises:
        InputError: there is no such model, the split is not indexed, has no boxes, or has pictures that ``only`` leaves out,
            ``out`` is there, or ``<out>.part`` is from other boxes or another model.
        WeightsError: the checkpoint is not there.
    """
    if out.exists():
        raise InputError(f"--out: {out} is there already; expected another file, or remove it")
    try:
        weights = sam_model(model).weights
    except ValueError as error:
        raise InputError(f"--model: {error}") from error
    instances, targets = (commits_of(settings, split, name) for name in ("instances", "targets"))
    if instances is None or targets is None:
        raise not_indexed(settings, split)
    require_listed(settings, [split])
    asked = {shard: found for shard in range(len(instances)) if (found := _asked(settings, split, shard))}
    if not asked:
        raise InputError(f"{split} has no boxes: it has no question of the kind {KIND}")
    path = locate(weights, ROOT / settings.run.weights_dir, settings.weights_lock)
    device = require_device(settings)
    of = digest([commit.content for commit in (*instances, *targets)])
    part = out.with_name(f"{out.name}.part")
    done = _begun(part, json.dumps({"split": str(split), "model": model, "of": of}))
    left = {shard: [one for one in found if one.row["image_id"] not in done] for shard, found in asked.items()}
    with progress("boxes", sum(map(len, left.values())), "image") as advance:
        for entry in _answers(settings, split, left, model, path, device):
            with part.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry, ensure_ascii=False) + "\n")
            done[entry["image_id"]] = entry
            advance(1)
    replace_file(out, _coco_form(done).encode())
    part.unlink()
    count = sum(len(entry["found"]) for entry in done.values())
    return f"{out}: {count} masks of {len(done)} images; name it as file of a data set of the format coco to read it"


def _asked(settings: Settings, split: SplitRef, shard: int) -> list[_Asked]:
    """The images of a shard that have boxes."""
    source = ShardSource(settings, split, shard)
    of_boxes: dict[int, set[int]] = {}
    for target in source.rows("targets"):
        if target["kind"] == KIND:
            of_boxes.setdefault(target["image_index"], set()).update(target["instances"])
    found = []
    for position, (row, instances) in enumerate(zip(source.rows("images"), source.rows("instances"), strict=True)):
        numbers = sorted(of_boxes.get(row["image_index"], ())) if instances["status"] == OK else []
        if numbers:
            boxes = [(list(instances["bbox"][number]), instances["label"][number]) for number in numbers]
            found.append(_Asked(position, row, boxes))
    return found


def _answers(
    settings: Settings, split: SplitRef, asked: Mapping[int, Sequence[_Asked]], model: str, path: Path, device: str
) -> Iterator[dict[str, Any]]:
    """What SAM finds in the boxes of each image, by shard. SAM is loaded only if there is something to ask."""
    if not any(asked.values()):
        return
    from stages.boxes import BoxPrompts  # torch

    prompts = BoxPrompts(model, path, device)
    for shard, found in asked.items():
        pixels = ShardSource(settings, split, shard).pixels([one.position for one in found])
        for one, image in zip(found, pixels, strict=True):
            assert image is not None, "an image with instances is ok"
            masks, scores = prompts.masks(image, [box for box, _ in one.boxes])
            yield {
                **{name: one.row[name] for name in ("image_id", "path", "height_px", "width_px")},
                "found": [
                    {"label": label, "bbox": box, "counts": rle.encode(mask), "predicted_iou": float(score)}
                    for (box, label), mask, score in zip(one.boxes, masks, scores, strict=True)
                ],
            }


def _begun(part: Path, head: str) -> dict[str, Any]:
    """image_id -> what an earlier call found for the same boxes with the same model. Without one, the file is begun.

    Args:
        head: its first line.

    Raises:
        InputError: the file belongs to something else; it is left as it is.
    """
    make_folder(part.parent)
    *lines, rest = part.read_text(encoding="utf-8", errors="replace").split("\n") if part.exists() else [""]
    try:
        if lines[:1] != [head] and (lines or not head.startswith(rest)):
            raise ValueError
        entries = [json.loads(line) for line in lines[1:]]
        done = {entry["image_id"]: entry for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--out: {part} is there, but was begun for another split, index or model; expected another file, or remove it"
        ) from error
    if rest or not lines:  # nothing yet, or half a line, which a kill may leave
        part.write_text("".join(f"{line}\n" for line in lines or [head]), encoding="utf-8")
    return done


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
