"""Files in COCO's form, written as the published ones are; knows nothing of the reader."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 40, 50


def square(x: float, y: float, side: float = 10) -> list[list[float]]:
    """Segmentation of one polygon."""
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def run_list(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Uncompressed run lengths, as COCO has them for crowds: by columns, zeros first."""
    counts, value = [0], False
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def run_string(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Compressed run lengths, as VLPart writes PASCAL-Part."""
    found = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode("utf-8")}


def image(number: Any, name: str | None = "", height: int = HEIGHT, width: int = WIDTH, **more: Any) -> dict[str, Any]:
    """A line of ``images``; without a name the file is named by its number as COCO's are, and None leaves it out."""
    line = {"id": number, "height": height, "width": width}
    if name is not None:
        line["file_name"] = name or f"{number:012d}.jpg"
    return {**line, **more}


def annotation(number: Any, of_image: Any, category: Any, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": of_image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": 0,
        **more,
    }


def category(number: Any, name: str, supercategory: str = "thing") -> dict[str, Any]:
    return {"id": number, "name": name, "supercategory": supercategory}


def lvis_image(number: int, folder: str = "train2017", **more: Any) -> dict[str, Any]:
    """LVIS v1 has no file_name, but coco_url."""
    url = f"http://images.cocodataset.org/{folder}/{number:012d}.jpg"
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    return image(number, None, coco_url=url, license=3, **{**lists, **more})


def write(
    root: Path,
    images: Sequence[Any],
    annotations: Sequence[Any] | None,
    categories: Sequence[Any],
    file: str = "train.json",
    keys: Sequence[str] = ("info", "images", "annotations", "categories"),
    **how: Any,
) -> Path:
    """Write the file, its keys in this order; annotations None: without the key."""
    parts = {"info": {"year": 2020}, "images": images, "annotations": annotations, "categories": categories}
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {key: parts[key] for key in keys if parts[key] is not None}
    path.write_text(json.dumps(whole, **how), encoding="utf-8")
    return path


def write_picture(path: Path, height: int = HEIGHT, width: int = WIDTH, orientation: int | None = None) -> Path:
    """A picture of this size before EXIF turns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.full((height, width, 3), 90, np.uint8))
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    picture.save(path, exif=exif)
    return path
