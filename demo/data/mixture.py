"""Writes generated scenes in the official formats of the sets that LISA and LLM-Seg mix, over shared pictures.

The tree is LISA's: ``coco/train2017``, ``refer_seg`` (the same pictures, named as in 2014), label maps, a file in COCO's form,
LLaVA-Instruct-150k and ReasonSeg. The files follow the formats' own descriptions; nothing here reads them.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from demo.data.dataset import JPEG_QUALITY, DemoError
from demo.data.files import FILES, MARKER, digests, replace_demo
from demo.data.polygons import polygons
from demo.data.questions import Question, questions
from demo.data.scenes import CLASSES, Scene, scene

FIRST_SEED = 700_000_000
VOID = 255
TRAIN_2014 = "refer_seg/images/mscoco/images/train2014"


@dataclass(frozen=True)
class MixtureSizes:
    """Numbers of pictures: ``reasoned`` for ReasonSeg's train split, ``mixed`` for the other sets, ``asked`` to evaluate on."""

    mixed: int = 160
    reasoned: int = 24
    asked: int = 50


@dataclass(frozen=True)
class Drawn:
    """A picture: its COCO number, what is drawn, and every question about it."""

    number: int
    scene: Scene
    questions: tuple[Question, ...]

    @property
    def name(self) -> str:
        """Name of its file in COCO's release of 2017."""
        return f"{self.number:012d}.jpg"

    @property
    def name_2014(self) -> str:
        """Name of its file in COCO's release of 2014."""
        return f"COCO_train2014_{self.number:012d}.jpg"


def make_mixture(root: Path, sizes: MixtureSizes | None = None) -> list[str]:
    """Write the whole tree under ``root``, all or nothing; what a person changed stays (:func:`demo.data.dataset.make_demo`).

    Pictures of the evaluation (split val of refcoco, grefcoco and ReasonSeg) are only in train2014, as RefCOCO's pictures are
    not in val2017.
    """
    sizes = sizes or MixtureSizes()
    if root.exists() and not (root / MARKER).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise DemoError(f"{root} exists and is no demo data set (it has no {MARKER}): expected a new or empty folder")
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    total = sizes.mixed + sizes.reasoned + sizes.asked
    drawn = [draw(number) for number in tqdm(range(1, total + 1), desc="demo mixture", unit="image", disable=None)]
    mixed, reasoned, asked = (
        drawn[: sizes.mixed], drawn[sizes.mixed : sizes.mixed + sizes.reasoned], drawn[sizes.mixed + sizes.reasoned :]
    )  # fmt: skip
    _write_pictures(part, mixed, asked)
    _write_label_maps(part / "stuff", mixed)
    _write_coco_form(part / "vlpart/paco/annotations/paco_lvis_v1_train.json", mixed)
    _write_refcoco(part / "refer_seg/refcoco", mixed, asked)
    _write_grefcoco(part / "refer_seg/grefcoco", mixed, asked)
    _write_conversations(part / "llava_dataset/llava_instruct_150k.json", mixed)
    write_reasonseg(part / "reason_seg/ReasonSeg", reasoned, asked)
    marker = {"generator": "demo.data.mixture", "images": vars(sizes), FILES: digests(part)}
    (part / MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
    return replace_demo(part, root)


def draw(number: int) -> Drawn:
    """The picture of a number, and all questions about it."""
    drawn = scene(FIRST_SEED + number)
    return Drawn(number, drawn, tuple(questions(drawn, np.random.default_rng((FIRST_SEED, number)))))


def jpeg_of(drawn: Drawn) -> bytes:
    """The picture as a JPEG file."""
    _, encoded = cv2.imencode(".jpg", drawn.scene.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return bytes(encoded.tobytes())


def _write_pictures(root: Path, mixed: Sequence[Drawn], asked: Sequence[Drawn]) -> None:
    """Write pictures of the mixture to the folders of 2017 and 2014; those to evaluate on only to that of 2014."""
    for folder in (root / "coco/train2017", root / TRAIN_2014):
        folder.mkdir(parents=True)
    for pictures, in_2017 in ((mixed, True), (asked, False)):
        for each in pictures:
            data = jpeg_of(each)
            (root / TRAIN_2014 / each.name_2014).write_bytes(data)
            if in_2017:
                (root / "coco/train2017" / each.name).write_bytes(data)


def _write_label_maps(folder: Path, mixed: Iterable[Drawn]) -> None:
    """A PNG per picture, whose values are numbers of classes, 255 where nothing is drawn; and the classes' names."""
    (folder / "annotations/train").mkdir(parents=True)
    (folder / "names.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    for each in mixed:
        values = np.full(each.scene.image.shape[:2], VOID, np.uint8)
        for thing in each.scene.objects:
            values[thing.visible] = CLASSES.index(thing.label)
        cv2.imwrite(str(folder / "annotations/train" / f"{each.number:012d}.png"), values)


def _write_coco_form(path: Path, mixed: Sequence[Drawn]) -> None:
    """Objects in the form of PACO-LVIS: ids from 1, no crowds, empty federated lists."""
    found, _ = instances_of(mixed)
    for image, each in zip(found["images"], mixed, strict=True):
        image |= {
            "file_name": f"train2017/{each.name}",
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        }
    for annotation in found["annotations"]:
        annotation["obj_ann_id"] = annotation["id"]
    for category in found["categories"]:
        category["supercategory"] = "OBJECT"
    write_json(path, found)


def _annotation(number: int, image: int, visible: Any) -> dict[str, Any]:
    ys, xs = np.nonzero(visible)
    box = [float(xs.min()), float(ys.min()), float(np.ptp(xs) + 1), float(np.ptp(ys) + 1)]
    flat = [[float(value) for point in polygon for value in point] for polygon in polygons(visible)]
    flat = [polygon for polygon in flat if len(polygon) >= 6]
    return {
        "id": number, "image_id": image, "segmentation": flat, "bbox": box, "area": float(visible.sum()), "iscrowd": 0
    }  # fmt: skip


def instances_of(pictures: Iterable[Drawn]) -> tuple[dict[str, Any], dict[tuple[int, int], int]]:
    """An ``instances.json``, and (number of the picture, of the object) -> id of its annotation."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    ids: dict[tuple[int, int], int] = {}
    for each in pictures:
        height, width = each.scene.image.shape[:2]
        images.append({"id": each.number, "file_name": each.name_2014, "height": height, "width": width})
        for index, thing in enumerate(each.scene.objects):
            ids[each.number, index] = len(annotations) + 1
            own = _annotation(len(annotations) + 1, each.number, thing.visible)
            annotations.append({**own, "category_id": CLASSES.index(thing.label) + 1})
    categories = [
        {"id": number, "name": name, "supercategory": "thing"} for number, name in enumerate(CLASSES, start=1)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}, ids


def _sentences(question: Question, first: int) -> list[dict[str, Any]]:
    return [
        {"sent_id": first + number, "sent": text.lower(), "raw": text, "tokens": text.lower().split()}
        for number, text in enumerate(question.texts)
    ]


def _write_refcoco(folder: Path, mixed: Sequence[Drawn], asked: Sequence[Drawn]) -> None:
    """``refs(unc).p`` and ``instances.json``: short questions about one object, four per picture of val."""
    instances, ids = instances_of([*mixed, *asked])
    write_json(folder / "instances.json", instances)
    refs: list[dict[str, Any]] = []
    sentences = 0
    for split, pictures, most in (("train", mixed, 99), ("val", asked, 4)):
        for each in pictures:
            short = [one for one in each.questions if not one.is_sentence and len(one.objects) == 1]
            for question in short[:most]:
                said = _sentences(question, sentences)[: 1 if split == "val" else None]
                sentences += len(said)
                annotation = ids[each.number, question.objects[0]]
                refs.append(
                    {
                        "ref_id": len(refs),
                        "ann_id": annotation,
                        "image_id": each.number,
                        "split": split,
                        "category_id": instances["annotations"][annotation - 1]["category_id"],
                        "sentences": said,
                        "sent_ids": [one["sent_id"] for one in said],
                        "file_name": each.name_2014.replace(".jpg", f"_{annotation}.jpg"),
                    }
                )
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))


def _write_grefcoco(folder: Path, mixed: Sequence[Drawn], asked: Sequence[Drawn]) -> None:
    """``grefs(unc).json`` and ``instances.json``: short questions about one object, several, or none (``[-1]``)."""
    instances, ids = instances_of([*mixed, *asked])
    write_json(folder / "instances.json", instances)
    refs: list[dict[str, Any]] = []
    sentences = 0
    for split, pictures, most in (("train", mixed, 99), ("val", asked, 6)):
        for each in pictures:
            short = [one for one in each.questions if not one.is_sentence]
            rng = np.random.default_rng((FIRST_SEED, each.number, 1))
            for place in rng.permutation(len(short))[:most].tolist():
                said = _sentences(short[place], sentences)[: 1 if split == "val" else None]
                sentences += len(said)
                found = [ids[each.number, index] for index in short[place].objects]
                refs.append(
                    {
                        "ref_id": len(refs),
                        "ann_id": found or [-1],
                        "image_id": each.number,
                        "split": split,
                        "category_id": [instances["annotations"][one - 1]["category_id"] for one in found] or [-1],
                        "sentences": said,
                        "sent_ids": [one["sent_id"] for one in said],
                        "no_target": not found,
                        "file_name": each.name_2014,
                    }
                )
    write_json(folder / "grefs(unc).json", refs)


def _write_conversations(path: Path, mixed: Iterable[Drawn]) -> None:
    """Two turns about each picture, the first with ``<image>``."""
    records = []
    for each in mixed:
        two = [one for one in each.questions if one.objects][:2]
        turns = []
        for number, question in enumerate(two):
            asked = question.texts[0] if number else f"<image>\n{question.texts[0]}"
            turns += [{"from": "human", "value": asked}, {"from": "gpt", "value": question.answer}]
        records.append({"id": f"{each.number:012d}", "image": each.name, "conversations": turns})
    write_json(path, records)


def write_reasonseg(root: Path, reasoned: Sequence[Drawn], asked: Sequence[Drawn]) -> None:
    """Write ReasonSeg's form with only long questions: all for a train picture, four for a val picture, each in its own file."""
    for split, pictures, most in (("train", reasoned, 16), ("val", asked, 4)):
        (root / split).mkdir(parents=True)
        for each in pictures:
            (root / split / each.name).write_bytes(jpeg_of(each))
            long = [one for one in each.questions if one.is_sentence and one.objects]
            rng = np.random.default_rng((FIRST_SEED, each.number, 2))
            for number, place in enumerate(rng.permutation(len(long))[:most].tolist()):
                question = long[place]
                shapes = [
                    {"label": "target", "shape_type": "polygon", "points": points, "flags": {}}
                    for index in question.objects
                    for points in polygons(each.scene.objects[index].visible)
                ]
                texts = list(question.texts if split == "train" else question.texts[:1])
                name = each.name.replace(".jpg", f".{number}.json" if number else ".json")
                write_json(root / split / name, {"shapes": shapes, "text": texts, "is_sentence": True})


def write_json(path: Path, content: object) -> None:
    """Write a JSON file, and create its folder if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")
