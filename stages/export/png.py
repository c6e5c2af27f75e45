"""Masks as PNG: one picture of mask numbers where the masks of an image do not overlap, else one file for each mask.

A picture of numbers has a palette for up to 255 masks (Pillow gives the numbers, OpenCV the colours) and 16-bit grey values
above that; 0 is the background, and k + 1 is mask k. A file for one mask has one bit per pixel. A run's answers are named as
``evaluate --predictions`` looks for them. ``index.json`` says which file is what.
"""

from __future__ import annotations

import colorsys
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.export.content import Asked, Item, Note, prediction_json
from stages.export.form import Entries, Unit, named, put_picture
from stages.export.names import below, file_name
from stages.images import ImageFailure
from store.read.region import Region

LARGEST_PALETTE = 255
LABELS, FILES = "labels", "files"
"""How the masks of an image are written: one picture of numbers, or a file for each."""

_GOLDEN = 0.618033988749895


def unit(asked: Asked, items: Sequence[Item], number: int) -> Unit:
    """The PNGs of a run of images."""
    made = Unit()
    for item, name in named(made, items, lambda item: file_name(item.image_id)):
        entry: dict[str, Any] = {
            key: getattr(item, key) for key in ("image_index", "image_id", "path", "height_px", "width_px")
        }
        if item.picture is not None:
            entry["picture"] = f"pictures/{name}{item.suffix}"
            put_picture(made, asked, item, entry["picture"])
        for what, regions in (("masks", item.masks), ("instances", item.instances)):
            if regions is not None:
                entry[what] = _put_regions(made, item, regions, f"{what}/{name}")
        if item.targets is not None:
            entry["targets"] = [
                _put_target(made, item, target, f"targets/{name}", k) for k, target in enumerate(item.targets)
            ]
        if item.predictions is not None:
            entry["predictions"] = list(_put_predictions(made, item))
        made.entries.append(entry)
    return made


def finish(asked: Asked, entries: Entries) -> Iterator[tuple[str, Iterable[bytes]]]:
    """``index.json``: a list with an object per image."""
    yield "index.json", array(entries())


def array(values: Iterable[Any]) -> Iterator[bytes]:
    """A JSON list with one value per line, written incrementally."""
    before = b"["
    for value in values:
        yield before + json.dumps(value, ensure_ascii=False).encode()
        before = b",\n"
    yield b"]\n" if before != b"[" else b"[]\n"


def _put_regions(made: Unit, item: Item, regions: Sequence[Region], name: str) -> dict[str, Any]:
    """Add the masks of an image, and say how: ``form`` and ``file``, or ``files`` in the order of the masks."""
    keys = [key for key in regions[0] if key != "segmentation"] if regions else []
    said = {key: [region[key] for region in regions] for key in keys}
    numbers = np.zeros((item.height_px, item.width_px), np.uint16)
    for k, region in enumerate(regions):
        mask = region.decode()
        if k >= np.iinfo(np.uint16).max or numbers[mask].any():
            break
        numbers[mask] = k + 1
    else:
        made.files[f"{name}.png"] = _labels(numbers, len(regions))
        return {"form": LABELS, "file": f"{name}.png", "count": len(regions), **said}
    files = [f"{name}/{k:05d}.png" for k in range(len(regions))]
    made.files |= {file: bits(region.decode()) for file, region in zip(files, regions, strict=True)}
    return {"form": FILES, "files": files, "count": len(regions), **said}


def _put_target(made: Unit, item: Item, target: Any, name: str, number: int) -> dict[str, Any]:
    found = {key: value for key, value in target.items() if key not in ("image_index", "segmentation", "ignore")}
    ignore = item.decoded(target["ignore"])
    found |= {"file": f"{name}/{number}.png", "ignore_file": f"{name}/{number}.ignore.png" if ignore.any() else None}
    made.files[found["file"]] = bits(item.decoded(target["segmentation"]))
    if found["ignore_file"]:
        made.files[found["ignore_file"]] = bits(ignore)
    return found


def _put_predictions(made: Unit, item: Item) -> Iterator[dict[str, Any]]:
    for answer in item.predictions or ():
        said = prediction_json(item, answer.prediction)
        text = f"_text{said['text_index']}" if said["text_index"] else ""
        try:
            file = f"predictions{text}/{below(said['target_id'])}.png"
        except ImageFailure as error:
            made.left_out.append(Note(item.image_id, "predictions", str(error)))
            continue
        made.files[file] = bits(item.decoded(answer.prediction.segmentation))
        yield {**{key: value for key, value in said.items() if key != "segmentation"}, "file": file}


def bits(mask: NDArray[np.bool_]) -> bytes:
    """A mask, bool [H, W], as a PNG of one bit per pixel: black and white."""
    return _png(Image.fromarray(np.ascontiguousarray(mask)))


def _labels(numbers: NDArray[np.uint16], largest: int) -> bytes:
    if largest > LARGEST_PALETTE:
        return _png(Image.fromarray(numbers))
    image = Image.fromarray(numbers.astype(np.uint8), "P")
    image.putpalette(_palette())
    return _png(image)


@lru_cache(maxsize=1)
def _palette() -> bytes:
    """Black and 255 colours; colours of successive numbers differ clearly."""
    colours = [(0.0, 0.0, 0.0), *(colorsys.hsv_to_rgb(k * _GOLDEN % 1, 0.75, 0.95) for k in range(255))]
    return bytes(round(255 * part) for colour in colours for part in colour)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
