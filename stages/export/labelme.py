"""labelme's JSON next to each picture (wkentaro/labelme), to correct masks by hand; the format ``reasonseg`` reads it back.

A mask is a shape of the type ``mask``: ``points`` are the first and the last pixel of its box, both inside, and ``mask`` is a PNG
of the pixels in the box, 0 and 1, in base64. That is exact. A polygon has no holes, and each part of a mask becomes a polygon
of its own.

Questions have ReasonSeg's keys ``text`` and ``is_sentence``. Further questions about a picture stand in ``NAME.1.json``, and those
about what it does not show in ``false_premise_QA`` of the file before, as :mod:`stages.datasets.reasonseg` reads them.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.datasets.shapes import raster, read_shapes
from stages.export.content import Asked, Item, Note
from stages.export.form import Entries, Unit, named, put_picture
from stages.export.names import file_name

VERSION = "5.5.0"
"""The version of labelme that the files state: it has shapes of the type ``mask``, and later versions read its files."""
TARGET, IGNORED, PROPOSAL = "target", "ignore", "proposal"
"""Labels of an answer's region, of pixels that do not count, and of a proposal."""

_FURTHER = re.compile(r"\.(?=[0-9]+$)")
"""The dot in a name that ends like a file of further questions (``NAME.1``)."""

Mask = NDArray[np.bool_]


def unit(asked: Asked, items: Sequence[Item], number: int) -> Unit:
    """The pictures and JSON files of a run of images."""
    made = Unit()
    for item, stem in named(made, items, lambda item: _FURTHER.sub("%2E", file_name(item.image_id))):
        entry: dict[str, Any] = {"image_id": item.image_id, "ious": [], "renamed": 0, "overlaps": 0}
        documents = _documents(asked, item, entry)
        made.left_out += [Note(item.image_id, "targets", why) for why in map(_why_not, item.targets or ()) if why]
        if not documents:
            made.left_out.append(Note(item.image_id, "image", "no question that can be written"))
            continue
        picture = stem + item.suffix
        put_picture(made, asked, item, f"{asked.split}/{picture}")
        for name, document in zip(_names(stem, asked), documents, strict=False):
            whole = {"version": VERSION, "flags": {}, **document, "imagePath": picture, "imageData": None}
            whole |= {"imageHeight": item.height_px, "imageWidth": item.width_px}
            made.files[f"{asked.split}/{name}.json"] = (json.dumps(whole, ensure_ascii=False, indent=1) + "\n").encode()
        first = next((target["answer"] for target in item.targets or () if not _why_not(target)), None)
        made.entries.append({**entry, "image": picture, "outputs": first})
    return made


def finish(asked: Asked, entries: Entries) -> Iterator[tuple[str, Iterable[bytes]]]:
    """The file of the first questions' answers in words, as in ReasonSeg's ``explanatory``; no file if there are no answers."""
    answers = [{"image": entry["image"], "outputs": entry["outputs"]} for entry in entries() if entry["outputs"]]
    if answers:
        yield f"explanatory/{asked.split}.json", [(json.dumps(answers, ensure_ascii=False, indent=1) + "\n").encode()]


def remarks(asked: Asked, entries: Entries) -> list[str]:
    """What polygons lose, and labels that had to be changed."""
    found = []
    ious = [(iou, entry["image_id"]) for entry in entries() for iou in entry["ious"]]
    if asked.polygons and ious:
        lost = [each for each in ious if each[0] < 1]
        lowest, where = min(ious)
        mean = sum(iou for iou, _ in ious) / len(ious)
        found.append(
            f"polygons: {len(lost)} of {len(ious)} masks are not what they were; IoU with the mask: mean {mean:.4f}, lowest "
            f"{lowest:.4f} (image {where})"
        )
    if renamed := sum(entry["renamed"] for entry in entries()):
        found.append(
            f"{renamed} regions got the label {TARGET!r}: the reader would skip, or ignore, regions with their own label"
        )
    if overlaps := sum(entry["overlaps"] for entry in entries()):
        found.append(f"{overlaps} questions ignore pixels of their answer; these are ignored in the file")
    return found


def _names(stem: str, asked: Asked) -> Iterator[str]:
    """``NAME``, ``NAME.1``, ``NAME.2``, ...: the JSON files of an image."""
    yield stem
    yield from (f"{stem}.{number}" for number in count(1))


def _documents(asked: Asked, item: Item, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The JSON files of an image, without the keys that every file has."""
    if item.targets is not None:
        return _questions(asked, item, entry)
    if item.masks is not None:
        found = [(each.decode(), PROPOSAL, _scores(each)) for each in item.masks]
        text = f"proposals of {asked.proposer}"
    else:
        found = [(each.decode(), _label(each["label"], entry), "") for each in item.instances or ()]
        text = "annotated instances"
    return [{"shapes": _shapes(asked, found, entry), "text": [text], "is_sentence": False}]


def _why_not(target: Mapping[str, Any]) -> str:
    """Why a question cannot be written; empty where it can."""
    if target["turns"]:
        return f"{target['target_id']} is a conversation, which no mask answers"
    return "" if target["texts"] else f"{target['target_id']} has no text, which the format needs"


def _questions(asked: Asked, item: Item, entry: dict[str, Any]) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    for target in item.targets or ():
        if _why_not(target):
            continue
        if target["absent"] and len(target["texts"]) == 1 and documents and not target["instances"]:
            said = [target["texts"][0], bool(target["is_sentence"]), target["answer"] or ""]
            documents[-1].setdefault("false_premise_QA", []).append(said)
            continue
        shapes = _answer(asked, item, target, entry)
        documents.append({"shapes": shapes, "text": list(target["texts"]), "is_sentence": bool(target["is_sentence"])})
    return documents


def _answer(asked: Asked, item: Item, target: Mapping[str, Any], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The shapes of an answer: its instances, its pixels outside of all instances, and the ignored pixels."""
    whole, ignore = item.decoded(target["segmentation"]), item.decoded(target["ignore"])
    if (whole & ignore).any():
        entry["overlaps"] += 1
        whole &= ~ignore
    regions = [item.instances[k] for k in target["instances"]] if item.instances is not None else []
    found = [(each.decode() & whole, _label(each["label"], entry), "") for each in regions]
    rest = whole & ~np.any([mask for mask, _, _ in found], axis=0) if found else whole
    return _shapes(asked, [*found, (rest, TARGET, ""), (ignore, IGNORED, "")], entry)


def _shapes(asked: Asked, found: Sequence[tuple[Mask, str, str]], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The shapes of masks with their labels and descriptions, without empty ones. group_id: number of the mask, from 0.

    The largest comes first, as labelme shows later ones on top. Among masks of equal area the last comes first, as the reader
    reverses their order.
    """
    shown = [(k, *each) for k, each in enumerate(found) if each[0].any()]
    shown.sort(key=lambda each: (-np.count_nonzero(each[1]), -each[0]))
    shapes = []
    for number, mask, label, description in shown:
        said = {"label": label, "group_id": number, "description": description, "flags": {}}
        shapes += _polygons(mask, said, entry) if asked.polygons else [{**said, **mask_shape(mask)}]
    return shapes


def _polygons(mask: Mask, said: dict[str, Any], entry: dict[str, Any]) -> list[dict[str, Any]]:
    """A polygon for each part of a mask; adds to ``entry`` the IoU of the mask with the polygons as the reader paints them."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    shapes = [{**said, "shape_type": "polygon", "points": outline[:, 0].tolist(), "mask": None} for outline in outlines]
    painted = np.any([raster(shape, *mask.shape) for shape in read_shapes(shapes)], axis=0)
    entry["ious"].append(float((painted & mask).sum() / (painted | mask).sum()))
    return shapes


def mask_shape(mask: Mask) -> dict[str, Any]:
    """``shape_type``, ``points`` and ``mask`` for exactly the pixels of a mask, bool [H, W], which must not be empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])
    buffer = io.BytesIO()
    Image.fromarray(mask[top : bottom + 1, left : right + 1].astype(np.uint8)).save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"shape_type": "mask", "points": [[left, top], [right, bottom]], "mask": encoded}


def _label(label: str, entry: dict[str, Any]) -> str:
    """A label as it is, unless the reader would take it for ``flag`` or for ignored pixels."""
    if label.lower() == "flag" or "ignore" in label.lower():
        entry["renamed"] += 1
        return TARGET
    return label


def _scores(fields: Mapping[str, Any]) -> str:
    return f"predicted_iou {fields['predicted_iou']:.4f}, stability_score {fields['stability_score']:.4f}"
