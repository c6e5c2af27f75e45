"""Small pictures in COCO's place, and five data sets in official formats that borrow them, for ``make bench-scale`` to index.

As many pictures, questions and annotations of each as are published, in proportion to the pictures. Each region is a polygon of 40
points, so that its annotation has about as many bytes as in LVIS. In the file in COCO's form the images are in random order, as
in COCO's own.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE_PX = 20
CATEGORIES = 1203
STUFF = 182
BORROWERS = ("refcoco", "grefcoco", "stuff", "lvis", "llava")
PICTURES_OF = {"refcoco": 0.17, "grefcoco": 0.17, "stuff": 1.0, "lvis": 0.85, "llava": 0.69}
"""The part of the pictures that a borrower asks about: of 118 287, as published (README files of the data sets)."""


def write(root: Path, pictures: int) -> dict[str, Any]:
    """Write everything below ``root``; gives section ``data`` of the params."""
    numbers = list(range(1, pictures + 1))
    folders = [root / "coco/train2017", root / "stuff/annotations/train"]
    for folder in folders:
        folder.mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(partial(_write_picture, *folders), numbers))
    (root / "stuff/names.txt").write_text("".join(f"stuff {number}\n" for number in range(STUFF)))
    asked = {name: _some(numbers, name) for name in BORROWERS}
    _write_refs(root / "refcoco", asked["refcoco"], several=False)
    _write_refs(root / "grefcoco", asked["grefcoco"], several=True)
    shuffled = list(asked["lvis"])
    random.Random(0).shuffle(shuffled)
    _write_instances(root / "lvis/train.json", shuffled, 12.7, CATEGORIES)
    _write_conversations(root / "llava/llava_instruct_150k.json", asked["llava"])
    own: dict[str, dict[str, Any]] = {
        "refcoco": {"format": "refer"},
        "grefcoco": {"format": "grefer"},
        "stuff": {"format": "semantic", "labels": "own", "ids": "coco"},
        "lvis": {"format": "coco", "ids": "coco"},
        "llava": {"format": "vqa", "ids": "coco"},
    }
    common = {name: {"images": "coco", "root": str(root / name), "splits": ["train"]} for name in BORROWERS}
    coco = {"format": "images", "ids": "coco", "images": "coco", "root": str(root / "coco"), "splits": ["all"]}
    return {"coco": coco, **{name: {**own[name], **common[name]} for name in BORROWERS}}


def _some(numbers: Sequence[int], name: str) -> list[int]:
    """The pictures that a borrower asks about, rising, at least one."""
    count = max(1, round(PICTURES_OF[name] * len(numbers)))
    return sorted(random.Random(name).sample(numbers, count))


def _write_picture(pictures: Path, maps: Path, number: int) -> None:
    """``<number>.jpg`` of seeded noise, about 1 kB, and a label map of five values and void."""
    rng = np.random.default_rng(number)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
    (pictures / f"{number:012d}.jpg").write_bytes(buffer.getvalue())
    values = np.repeat(rng.choice(STUFF, SIDE_PX // 4).astype(np.uint8), 4)
    labels = np.repeat(values[:, None], SIDE_PX, axis=1)
    labels[:2] = 255
    Image.fromarray(labels).save(maps / f"{number:012d}.png")


def _polygon(rng: random.Random) -> list[float]:
    x, y, radius = rng.uniform(5, 15), rng.uniform(5, 15), rng.uniform(2, 5)
    angles = [2 * math.pi * step / 40 for step in range(40)]
    return [round(v, 2) for angle in angles for v in (x + radius * math.cos(angle), y + radius * math.sin(angle))]


def _annotations(images: Sequence[int], per_image: float, categories: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(1)
    number = 0
    for image in images:
        for _ in range(int(per_image + rng.random())):
            number += 1
            yield {
                "id": number,
                "image_id": image,
                "category_id": rng.randint(1, categories),
                "segmentation": [_polygon(rng)],
                "area": 50.5,
                "bbox": [5.0, 5.0, 9.0, 9.0],
                "iscrowd": 0,
            }


def _write_instances(path: Path, images: Sequence[int], per_image: float, categories: int) -> list[list[int]]:
    """A file in COCO's form, an annotation at a time; gives the ids of the annotations of each image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[int, list[int]] = {image: [] for image in images}
    listed = [
        {
            "id": image,
            "file_name": f"COCO_train2014_{image:012d}.jpg",
            "coco_url": f"http://images.cocodataset.org/train2017/{image:012d}.jpg",
            "height": SIDE_PX,
            "width": SIDE_PX,
            "neg_category_ids": [1, 2, 3],
            "not_exhaustive_category_ids": [4],
        }
        for image in images
    ]
    named = [{"id": each, "name": f"thing {each}", "supercategory": "thing"} for each in range(1, categories + 1)]
    with path.open("w") as file:
        file.write(f'{{"images": {json.dumps(listed)}, "categories": {json.dumps(named)}, "annotations": [')
        for annotation in _annotations(images, per_image, categories):
            file.write((", " if annotation["id"] > 1 else "") + json.dumps(annotation))
            found[annotation["image_id"]].append(annotation["id"])
        file.write("]}\n")
    return [found[image] for image in images]


def _write_refs(folder: Path, images: Sequence[int], several: bool) -> None:
    """``refs(unc).p`` (2.5 refs per image), or ``grefs(unc).json`` (12 of one sentence), and ``instances.json``."""
    ids = _write_instances(folder / "instances.json", images, 10, 80)
    refs: list[dict[str, Any]] = []
    for image, own in zip(images, ids, strict=True):
        for turn in range(12 if several else 2 + image % 2):
            number = len(refs)
            sentences = [
                {
                    "sent_id": 3 * number + n,
                    "sent": f"thing {n} at the left",
                    "raw": f"Thing {n} at the left",
                    "tokens": ["thing"],
                }
                for n in range(1 if several else 3)
            ]
            some = [[-1], own[:1], own[turn % 5 : turn % 5 + 2]][turn % 3]
            ref = {"ref_id": number, "image_id": image, "split": "train", "sentences": sentences, "category_id": 1}
            ref |= {"ann_id": some if several else own[turn], "file_name": f"COCO_train2014_{image:012d}_{number}.jpg"}
            refs.append({**ref, "sent_ids": [each["sent_id"] for each in sentences]})
    if several:
        (folder / "grefs(unc).json").write_text(json.dumps(refs))
    else:
        (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def _write_conversations(path: Path, images: Sequence[int]) -> None:
    """Two records per image of four turns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    said = "What is to be seen at the left of the picture, and what may it be there for? " * 2
    turns = [{"from": ("human", "gpt")[turn % 2], "value": ("<image>\n" * (turn == 0)) + said} for turn in range(4)]
    records = [
        {"id": f"{image:012d}", "image": f"{image:012d}.jpg", "conversations": turns}
        for image in images
        for _ in range(2)
    ]
    path.write_text(json.dumps(records))
