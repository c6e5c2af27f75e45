"""A data set of FiftyOne (voxel51/fiftyone) in its JSON form: ``samples.json``, ``metadata.json`` and the pictures in ``data``.

``fiftyone.Dataset.from_dir(dataset_dir=..., dataset_type=fiftyone.types.FiftyOneDataset)`` reads it. As FiftyOne expects, a
mask covers only its box, and boxes are fractions of the picture's width and height. The package itself is not needed to write
them.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.export.content import Asked, Item
from stages.export.form import Entries, Unit, named, put_picture
from stages.export.names import file_name
from stages.export.png import array
from store import rle

PROPOSAL = "proposal"
"""Label of a proposal, which has no category."""


def unit(asked: Asked, items: Sequence[Item], number: int) -> Unit:
    """The pictures of a run of images, and their samples."""
    made = Unit()
    for item, name in named(made, items, lambda item: f"data/{file_name(item.image_id)}{item.suffix}"):
        put_picture(made, asked, item, name)
        made.entries.append(_sample(asked, item, name))
    return made


def finish(asked: Asked, entries: Entries) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``metadata.json`` and ``samples.json``."""
    about = {"name": f"{asked.dataset}-{asked.split}", "media_type": "image", "info": {"split": asked.name}}
    yield "metadata.json", [json.dumps(about).encode()]
    yield "samples.json", _samples(entries)


def _samples(entries: Entries) -> Iterator[bytes]:
    yield b'{"samples": '
    yield from array(entries())
    yield b"}\n"


def _sample(asked: Asked, item: Item, name: str) -> dict[str, Any]:
    def detections(what: str, found: Iterable[dict[str, Any]]) -> dict[str, Any]:
        named = ({"_id": _id(asked, item, f"{what}/{k}"), **each} for k, each in enumerate(found))
        return {"_cls": "Detections", "detections": list(named)}

    sample: dict[str, Any] = {"filepath": name, "tags": [asked.split], "metadata": None}
    sample |= {"image_id": item.image_id, "image_index": item.image_index}
    for what in ("masks", "instances"):
        regions = getattr(item, what)
        if regions is not None:
            found = []
            for k, region in enumerate(regions):
                scores = {key: region[key] for key in ("stability_score",) if key in region}
                confidence = {"confidence": region["predicted_iou"]} if "predicted_iou" in region else {}
                label = region.get("label", PROPOSAL)
                vectors = _vectors(item, what, k)
                found.append(_detection(item, label, region.segmentation, **confidence, **scores, **vectors))
            sample[what] = detections(what, found)
    if item.targets is not None:
        sample["targets"] = detections("targets", (_target(item, target) for target in item.targets))
    if item.predictions is not None:
        given = (answer.prediction for answer in item.predictions)
        told = ("target_id", "text_index", "rejected", "answer")
        answers = (
            _detection(item, each.target_id, each.segmentation, **{key: getattr(each, key) for key in told})
            for each in given
        )
        sample["predictions"] = detections("predictions", answers)
    return sample


def _target(item: Item, target: Mapping[str, Any]) -> dict[str, Any]:
    label = target["texts"][0] if target["texts"] else target["target_id"]
    said = {
        name: target[name] for name in ("target_id", "texts", "is_sentence", "kind", "answer", "absent", "instances")
    }
    return _detection(item, label, target["segmentation"], **said)


def _detection(item: Item, label: str, counts: str | None, **more: Any) -> dict[str, Any]:
    """A labelled mask in its box, XYWH as fractions of width and height; an empty mask has an empty box."""
    x, y, width, height = rle.bbox(counts or item.nothing, item.height_px)
    box = [x / item.width_px, y / item.height_px, width / item.width_px, height / item.height_px]
    mask = item.decoded(counts)[y : y + height, x : x + width]
    found: dict[str, Any] = {"_cls": "Detection", "attributes": {}, "tags": [], "label": label, "bounding_box": box}
    found |= {"mask": _binary(mask)} if mask.size else {}
    return {**found, **more}


def _vectors(item: Item, what: str, number: int) -> dict[str, Any]:
    """The vector of a region from each encoder that has one."""
    own = {encoder: found for (of, encoder), found in item.vectors.items() if of == what and number < len(found)}
    return {f"embedding_{encoder}": found[number].astype(np.float32).tolist() for encoder, found in own.items()}


def _binary(values: NDArray[Any]) -> dict[str, Any]:
    """An array as FiftyOne stores it: numpy's file format, compressed, in MongoDB's extended JSON."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values), allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(buffer.getvalue())).decode("ascii"), "subType": "00"}}


def _id(asked: Asked, item: Item, name: str) -> dict[str, str]:
    """An ObjectId that is the same each time."""
    return {"$oid": hashlib.sha256(f"{asked.name}/{item.image_index}/{name}".encode()).hexdigest()[:24]}
