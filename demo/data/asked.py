"""Scenes to make questions about (in COCO's form, with a description of each picture), and further scenes to evaluate on.

``coco/train``, ``coco/train.json`` and ``descriptions.jsonl``; ``asked/val`` in ReasonSeg's form, with four long questions per
picture.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from demo.data.dataset import DemoError
from demo.data.files import FILES, MARKER, digests, replace_demo
from demo.data.mixture import Drawn, draw, instances_of, jpeg_of, write_json, write_reasonseg

FIRST_NUMBER = 100_000
"""Number of the first picture; pictures of the mixture have smaller numbers."""


@dataclass(frozen=True)
class AskedSizes:
    """Numbers of pictures: those that questions are made about, and those to evaluate on."""

    described: int = 320
    asked: int = 50


def make_asked(root: Path, sizes: AskedSizes | None = None) -> list[str]:
    """Write the whole tree under ``root``, all or nothing; what a person changed stays (:func:`demo.data.dataset.make_demo`)."""
    sizes = sizes or AskedSizes()
    if root.exists() and not (root / MARKER).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise DemoError(f"{root} exists and is no demo data set (it has no {MARKER}): expected a new or empty folder")
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    numbers = range(FIRST_NUMBER, FIRST_NUMBER + sizes.described + sizes.asked)
    drawn = [draw(number) for number in tqdm(numbers, desc="demo scenes", unit="image", disable=None)]
    described, asked = drawn[: sizes.described], drawn[sizes.described :]
    found, _ = instances_of(described)
    (part / "coco/train").mkdir(parents=True)
    for image, each in zip(found["images"], described, strict=True):
        image["file_name"] = each.name
        (part / "coco/train" / each.name).write_bytes(jpeg_of(each))
    write_json(part / "coco/train.json", found)
    lines = [{"image_id": each.name.removesuffix(".jpg"), "description": describe(each)} for each in described]
    (part / "descriptions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    write_reasonseg(part / "asked", [], asked)
    marker = {"generator": "demo.data.asked", "images": vars(sizes), FILES: digests(part)}
    (part / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    return replace_demo(part, root)


def describe(drawn: Drawn) -> str:
    """A description from which the demo's asker recognises the scene."""
    return f"This is picture {drawn.number}. It shows {len(drawn.scene.objects)} things that lie on a table."


def number_in(description: str) -> int:
    """The number of the picture that is described."""
    words = description.split("picture ")[1]
    return int("".join(each for each in words.split(".")[0] if each.isdecimal()))
