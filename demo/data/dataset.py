"""Writes the demo data set in ReasonSeg's published format (dvlab-research/LISA, `reason_seg/ReasonSeg`)."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from demo.data.files import (
    FILES,
    MARKER,
    digests,
    replace_demo,
)
from demo.data.polygons import polygons
from demo.data.questions import Question, questions
from demo.data.scenes import Scene, scene

JPEG_QUALITY = 92
SEEDS_A_SPLIT = 100_000  # scenes of split number s of data set number n start at (3 n + s) times this
_WISHES = (  # assigned in turn to the images of a split: is the question long, and how many objects answer it
    (True, "one"), (False, "one"), (True, "several"), (True, "one"), (False, "several"),
    (True, "one"), (False, "one"), (True, "absent"), (True, "one"), (False, "one"),
    (True, "several"), (False, "one"), (True, "one"), (False, "absent"), (True, "one"), (False, "several"),
)  # fmt: skip
FURTHER = 15
"""Largest number of further questions about a train image, as 160 questions are too few to learn from. Val and test have none."""
REWORDED = "reworded"
"""Folder of the test questions in other words, a data set that has no pictures of its own."""
IGNORED = 0.08  # fraction of the images with an ignored region
FLAGGED = 0.05  # fraction of the images with a `flag` shape, which readers skip


class DemoError(ValueError):
    """The demo data set cannot be written to the requested place."""


@dataclass(frozen=True)
class DemoSizes:
    """How many images each split gets."""

    train: int = 160
    val: int = 40
    test: int = 40


def scene_seeds(split: str, count: int, seed: int) -> range:
    """Seeds of the scenes of a split; no two splits, and no two data set seeds, share a scene. `seed` is 0 to 999."""
    if not 0 <= seed < 1000:
        raise DemoError(f"demo seed {seed} is out of range: expected 0 to 999")
    first = (3 * seed + ("train", "val", "test").index(split)) * SEEDS_A_SPLIT
    return range(first, first + count)


def make_demo(root: Path, sizes: DemoSizes | None = None, seed: int = 0) -> list[str]:
    """Write {train,val,test}/NNNN.jpg + .json, explanatory/train.json and reworded/test/NNNN.json under `root`, all or nothing.

    ``reworded`` holds the annotations of the test images with each question in other words, for a data set that borrows them.
    The same seed gives the same annotations and pictures. In an older demo at `root`, only files that are unchanged since they
    were written are replaced or removed: what a person added or changed stays, and its paths are returned. Any other folder
    there that is not empty raises DemoError and is left as it is.
    """
    sizes = sizes or DemoSizes()
    if root.exists() and not (root / MARKER).is_file() and (not root.is_dir() or any(root.iterdir())):
        raise DemoError(
            f"{root} exists and is no demo data set (it has no {MARKER}): expected a new or empty folder; "
            "name another folder or move this one away"
        )
    part = root.with_name(root.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    explanatory: list[dict[str, str]] = []
    with tqdm(total=sum(vars(sizes).values()), desc="demo data set", unit="image", disable=None) as bar:
        for split, count in vars(sizes).items():
            (part / split).mkdir(parents=True)
            reworded = part / REWORDED / split if split == "test" else None
            if reworded:
                reworded.mkdir(parents=True)
            for number, scene_seed in enumerate(scene_seeds(split, count, seed)):
                explained = _write_image(part / split, number, scene_seed, split == "train", reworded)
                explanatory += [explained] if explained else []
                bar.update()
    (part / "explanatory").mkdir()
    _write_json(part / "explanatory" / "train.json", explanatory)
    _write_json(part / MARKER, {"generator": "stages.demo", "seed": seed, "images": vars(sizes), FILES: digests(part)})
    return replace_demo(part, root)


def make_scenes(root: Path, split: str, seeds: range) -> None:
    """Write only the split ``split``, with these scenes and one text per question as in val and test, all or nothing."""
    folder = root / split
    if folder.exists():
        raise DemoError(f"{folder} exists already: expected a new folder; name another one or remove it")
    part = root / f"{split}.part"
    if part.exists():
        shutil.rmtree(part)
    part.mkdir(parents=True)
    for number, seed in enumerate(tqdm(seeds, desc=split, unit="image", disable=None)):
        _write_image(part, number, seed, train=False)
    part.rename(folder)


def choose(every: list[Question], number: int, rng: np.random.Generator) -> Question:
    """The first question of image `number`: with the form and the number of answers in _WISHES, if there is such a question."""
    is_sentence, many = _WISHES[number % len(_WISHES)]
    wanted = {"absent": (0, 0), "one": (1, 1), "several": (2, 99)}[many]
    fit = [question for question in every if wanted[0] <= len(question.objects) <= wanted[1]]
    fit = [question for question in fit if question.is_sentence == is_sentence] or fit
    return fit[int(rng.integers(len(fit)))] if fit else every[0]


def _write_image(
    folder: Path, number: int, scene_seed: int, train: bool, reworded: Path | None = None
) -> dict[str, str] | None:
    """Write one picture and its annotation; returns its explanatory entry if it has one.

    `reworded` is a folder for the same annotation with its question in other words.
    """
    drawn, rng = scene(scene_seed), np.random.default_rng((scene_seed, 2))
    every = questions(drawn, rng)
    question = choose(every, number, rng)
    name = f"{number:04d}.jpg"
    _, encoded = cv2.imencode(".jpg", drawn.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    (folder / name).write_bytes(encoded.tobytes())
    annotation = _annotation(drawn, question, name, train, rng)
    _write_json(folder / f"{number:04d}.json", annotation)
    if reworded:
        of_words = np.random.default_rng(
            (scene_seed, 3)
        )  # a separate generator, so that the choices above and below do not change
        _write_json(
            reworded / f"{number:04d}.json", annotation | {"text": [str(of_words.choice(question.other_texts))]}
        )
    explained = train and question.is_sentence and rng.random() < 0.6
    if train:
        others = [every[index] for index in rng.permutation(len(every)).tolist() if every[index] is not question]
        for number_of_file, each in enumerate(_further(question, others), 1):
            _write_json(folder / f"{number:04d}.{number_of_file}.json", _annotation(drawn, each, name, train, rng))
    if not explained:
        return None
    return {"image": name, "json": f"{number:04d}.json", "query": annotation["text"][0], "outputs": question.answer}


def _further(first: Question, others: list[Question]) -> list[Question]:
    """The further questions about a train image.

    First a short and a long one about absent things, unless the first question is already one of them, and then others in their
    order. So an eighth of the questions is about absent things, as in val and test.
    """
    absent = [
        next(each for each in others if not each.objects and each.is_sentence == is_sentence)
        for is_sentence in (False, True)
        if first.objects or first.is_sentence != is_sentence
    ]
    return [*absent, *(each for each in others if each.objects)][:FURTHER]


def _annotation(drawn: Scene, question: Question, name: str, train: bool, rng: np.random.Generator) -> dict[str, Any]:
    """The content of a question's JSON file."""
    count = int(rng.integers(1, 6)) if train else 1
    texts = [question.texts[i] for i in rng.permutation(len(question.texts))[:count]]
    shapes = [
        _shape("target", points, name, group)
        for group, index in enumerate(question.objects)
        for points in polygons(drawn.objects[index].visible)
    ]
    others = [i for i in range(len(drawn.objects)) if i not in question.objects]
    if others and question.objects and rng.random() < IGNORED:
        ignored = drawn.objects[int(rng.choice(others))]
        shapes += [_shape("ignore", points, name, None) for points in polygons(ignored.visible)]
    if rng.random() < FLAGGED:
        shapes.append(_shape("flag", [[1.0, 1.0], [9.0, 1.0], [9.0, 9.0]], name, None))
    return {"shapes": shapes, "text": texts, "is_sentence": question.is_sentence}


def _shape(label: str, points: list[list[float]], image_name: str, group: int | None) -> dict[str, Any]:
    groups = [] if group is None else [group]
    return {
        "label": label,
        "labels": [label],
        "shape_type": "polygon",
        "image_name": image_name,
        "points": points,
        "group_id": group,
        "group_ids": groups,
        "flags": {},
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
