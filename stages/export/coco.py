"""COCO's JSON: annotations of instances and questions, and results of proposals and predictions (cocodataset/cocoapi).

Masks are run lengths (RLE), which is lossless. ``pycocotools`` reads the files: ``COCO("instances.json")`` and
``.loadRes("masks_results.json")``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from stages.export.content import Asked, Item, prediction_json, target_json
from stages.export.form import Entries, Unit, named, put_picture
from stages.export.names import below
from store import rle

PICTURES_FOLDER = "pictures"
SURE = 1.0
"""Score of a prediction, as a run gives no scores."""


def unit(asked: Asked, items: Sequence[Item], number: int) -> Unit:
    """The pictures of a run of images, and what the files of all images need of them."""
    made = Unit()
    for item, name in named(made, items, lambda item: below(f"{item.image_id}{item.suffix}")):
        put_picture(made, asked, item, f"{PICTURES_FOLDER}/{name}")
        made.entries.append(_entry(item, name))
    return made


def finish(asked: Asked, entries: Entries) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The JSON files: ``images.json``, and one for each of ``whats`` that was asked for."""
    numbers = _numbers(entries)
    questions = max((len(entry.get("targets", ())) for entry in entries()), default=0)
    questions = max([questions, *(each["number"] + 1 for entry in entries() for each in entry.get("predictions", ()))])
    by_question = [{"id": k + 1, "name": f"question {k}"} for k in range(questions)]
    yield "images.json", _document(images=_images(entries, numbers), annotations=[], categories=by_question)
    if "instances" in asked.whats:
        labels = sorted({each["label"] for entry in entries() for each in entry.get("instances", ())})
        of = {label: k + 1 for k, label in enumerate(labels)}
        categories = [{"id": number, "name": label} for label, number in of.items()]
        found = _annotations(entries, numbers, "instances", lambda each: of[each.pop("label")])
        yield (
            "instances.json",
            _document(images=_images(entries, numbers), annotations=found, categories=categories),
        )
    if "targets" in asked.whats:
        found = _annotations(entries, numbers, "targets", lambda each: each["number"] + 1)
        yield "targets.json", _document(images=_images(entries, numbers), annotations=found, categories=by_question)
        yield "targets_without_pixels.json", _array(_of(entries, numbers, "empty_targets"))
    if "masks" in asked.whats:
        results = ({"image_id": of, "category_id": 1, **each} for of, each in _each(entries, numbers, "masks"))
        yield "masks_results.json", _array(results)
    if "predictions" in asked.whats:
        predictions = (
            {"image_id": of, "category_id": each.pop("number") + 1, "score": SURE, **each}
            for of, each in _each(entries, numbers, "predictions")
        )
        yield "predictions_results.json", _array(predictions)
        yield "predictions_without_pixels.json", _array(_of(entries, numbers, "empty_predictions"))


def _entry(item: Item, name: str) -> dict[str, Any]:
    """What the JSON files say of an image."""
    size = {"height": item.height_px, "width": item.width_px}
    entry: dict[str, Any] = {
        "image": {
            "file_name": name,
            **size,
            **{key: getattr(item, key) for key in ("image_id", "image_index", "path")},
        }
    }
    if item.instances is not None:
        entry["instances"] = [
            {"segmentation": region.coco(), "bbox": region["bbox"], "area": region["area"], "label": region["label"]}
            for region in item.instances
        ]
    if item.masks is not None:
        entry["masks"] = [
            {
                "segmentation": region.coco(),
                "score": region["predicted_iou"],
                "stability_score": region["stability_score"],
                "mask": k,
            }
            for k, region in enumerate(item.masks)
        ]
    if item.targets is not None:
        found = [{"number": k, **target_json(item, target)} for k, target in enumerate(item.targets)]
        there = [rle.area(each["segmentation"]["counts"]) > 0 for each in found]
        entry["targets"] = [_boxed(each, item) for each, shown in zip(found, there, strict=True) if shown]
        entry["empty_targets"] = [each for each, shown in zip(found, there, strict=True) if not shown]
    if item.predictions is not None:
        answers = [{"number": answer.number, **prediction_json(item, answer.prediction)} for answer in item.predictions]
        entry["predictions"] = [each for each in answers if each["segmentation"] is not None]
        entry["empty_predictions"] = [each for each in answers if each["segmentation"] is None]
    return entry


def _boxed(target: dict[str, Any], item: Item) -> dict[str, Any]:
    """A question with its box and area; ``ignore`` is renamed, as COCOeval has a key of that name."""
    (x, y, width, height), area = rle.bbox_and_area(target["segmentation"]["counts"], item.height_px)
    said = {name: value for name, value in target.items() if name != "ignore"}
    return {**said, "ignored_pixels": target["ignore"], "bbox": [x, y, width, height], "area": area}


def _numbers(entries: Entries) -> dict[int, int]:
    """image_index -> id in the files: the image_id if all image_ids are numbers, as in COCO, else the image_index."""
    known = {entry["image"]["image_index"]: entry["image"]["image_id"] for entry in entries()}
    if all(name.isascii() and name.isdigit() and len(name) <= 15 for name in known.values()):
        found = {index: int(name) for index, name in known.items()}
        if len(set(found.values())) == len(found):
            return found
    return {index: index for index in known}


def _images(entries: Entries, numbers: dict[int, int]) -> Iterator[dict[str, Any]]:
    for entry in entries():
        yield {"id": numbers[entry["image"]["image_index"]], **entry["image"]}


def _each(entries: Entries, numbers: dict[int, int], what: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Image id and entry, for each thing of that kind."""
    for entry in entries():
        for each in entry.get(what, ()):
            yield numbers[entry["image"]["image_index"]], each


def _of(entries: Entries, numbers: dict[int, int], what: str) -> Iterator[dict[str, Any]]:
    return ({"image_id": of, **each} for of, each in _each(entries, numbers, what))


def _annotations(entries: Entries, numbers: dict[int, int], what: str, category: Any) -> Iterator[dict[str, Any]]:
    ids = count(1)
    for of, each in _each(entries, numbers, what):
        yield {"id": next(ids), "image_id": of, "category_id": category(each), "iscrowd": 0, **each}


def _document(**lists: Iterable[Any]) -> Iterator[bytes]:
    """A JSON object of lists, written incrementally: the lists of a large split do not fit into memory."""
    before = b"{"
    for name, values in lists.items():
        yield before + json.dumps(name).encode() + b": "
        yield from _array(values, b"")
        before = b",\n"
    yield b"}\n"


def _array(values: Iterable[Any], end: bytes = b"\n") -> Iterator[bytes]:
    before = b"["
    empty = True
    for value in values:
        yield before + json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        before, empty = b",\n", False
    yield (b"[]" if empty else b"]") + end
