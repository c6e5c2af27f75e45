"""One ``.npz`` per image, without pickle: ``numpy.load(file, allow_pickle=False)``.

Masks are packed bits: ``numpy.unpackbits(z["masks.bits"], axis=1, count=height * width).reshape(-1, height, width)``. Lists of
different lengths stand one after the other, with offsets: entry i has ``[offsets[i]:offsets[i + 1]]``. Every key is in
docs/export.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.export.content import Asked, Item
from stages.export.form import Entries, Unit, named, put_picture
from stages.export.names import file_name
from stages.export.png import array
from store.read.region import Region

Arrays = dict[str, NDArray[Any]]
_FIELDS: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {
    "masks": {
        "bbox": (np.int32, (4,)),
        "area": (np.int64, ()),
        "predicted_iou": (np.float32, ()),
        "stability_score": (np.float32, ()),
        "point_coords": (np.float64, (2,)),
        "crop_box": (np.int32, (4,)),
    },
    "instances": {"bbox": (np.int32, (4,)), "area": (np.int64, ())},
}
"""Field of a mask or an instance -> type and shape of one entry."""


def unit(asked: Asked, items: Sequence[Item], number: int) -> Unit:
    """The files of a run of images."""
    made = Unit()
    for item, name in named(made, items, lambda item: file_name(item.image_id)):
        buffer = io.BytesIO()
        found: Any = arrays(item)
        np.savez_compressed(buffer, allow_pickle=False, **found)
        made.files[f"{name}.npz"] = buffer.getvalue()
        picture = f"pictures/{name}{item.suffix}" if item.picture is not None else None
        if picture is not None:
            put_picture(made, asked, item, picture)
        entry = {key: getattr(item, key) for key in ("image_index", "image_id", "path")}
        made.entries.append({**entry, "file": f"{name}.npz", "picture": picture})
    return made


def finish(asked: Asked, entries: Entries) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``index.json``: a list with an object per image."""
    yield "index.json", array(entries())


def arrays(item: Item) -> Arrays:
    """Everything of an image by its key."""
    found: Arrays = {
        "image_index": np.array(item.image_index),
        "image_id": np.array(item.image_id),
        "size_px": np.array([item.height_px, item.width_px], np.int32),
    }
    for what, regions in (("masks", item.masks), ("instances", item.instances)):
        if regions is not None:
            found |= {f"{what}.{key}": value for key, value in _regions(item, what, regions).items()}
    for (what, encoder), vectors in item.vectors.items():
        found[f"{what}.embeddings.{encoder}"] = vectors
    if item.targets is not None:
        found |= {f"targets.{key}": value for key, value in _targets(item, item.targets).items()}
    if item.predictions is not None:
        found |= {f"predictions.{key}": value for key, value in _predictions(item).items()}
    return found


def _regions(item: Item, what: str, regions: Sequence[Region]) -> Arrays:
    found: Arrays = {"bits": _bits(item, (region.segmentation for region in regions))}
    for name, (kind, shape) in _FIELDS[what].items():
        found[name] = np.array([region[name] for region in regions], kind).reshape(len(regions), *shape)
    return found if what == "masks" else {**found, "label": _texts(region["label"] for region in regions)}


def _targets(item: Item, targets: Sequence[Mapping[str, Any]]) -> Arrays:
    texts, instances = ([target[name] for target in targets] for name in ("texts", "instances"))
    return {
        "target_id": _texts(target["target_id"] for target in targets),
        "bits": _bits(item, (target["segmentation"] for target in targets)),
        "ignore": _bits(item, (target["ignore"] for target in targets)),
        "texts": _texts(text for each in texts for text in each),
        "texts.offsets": _offsets(texts),
        "instances": np.array([k for each in instances for k in each], np.int32),
        "instances.offsets": _offsets(instances),
        "is_sentence": np.array([bool(target["is_sentence"]) for target in targets], bool),
        "absent": np.array([bool(target["absent"]) for target in targets], bool),
        "incomplete": np.array([bool(target["incomplete"]) for target in targets], bool),
        "kind": _texts(target["kind"] for target in targets),
        "answer": _texts(target["answer"] or "" for target in targets),
    }


def _predictions(item: Item) -> Arrays:
    found = [answer.prediction for answer in item.predictions or ()]
    return {
        "target_id": _texts(each.target_id for each in found),
        "text_index": np.array([each.text_index for each in found], np.int32),
        "bits": _bits(item, (each.segmentation for each in found)),
        "rejected": np.array([-1 if each.rejected is None else int(each.rejected) for each in found], np.int8),
        "answer": _texts(each.answer for each in found),
    }


def _bits(item: Item, masks: Iterable[str | None]) -> NDArray[np.uint8]:
    """Masks as uint8 [K, ceil(H * W / 8)], row by row, the first pixel in the highest bit."""
    size = -(-item.height_px * item.width_px // 8)
    packed: Iterator[NDArray[np.uint8]] = (np.packbits(item.decoded(counts).ravel()) for counts in masks)
    return np.array(list(packed), np.uint8).reshape(-1, size)


def _texts(values: Iterable[str]) -> NDArray[np.str_]:
    """Texts as an array of numpy's own type, which needs no pickle."""
    found = list(values)
    return np.array(found, f"<U{max(map(len, found), default=1) or 1}")


def _offsets(lists: Sequence[Sequence[Any]]) -> NDArray[np.int64]:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)
