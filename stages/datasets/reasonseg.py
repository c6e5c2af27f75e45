"""ReasonSeg as published: ``<split>/NAME.jpg`` next to ``NAME.json``, answers in ``explanatory/<split>.json``.

Further questions about the picture may stand in ``NAME.1.json``, ``NAME.2.json``, ... of the same form. Published data has no
such files, and readers that look for ``NAME.json`` ignore them.

A JSON file has ``shapes`` (``label`` and ``points`` of a polygon), ``text`` (wordings of one question) and
``is_sentence``. Other keys that labelme writes are read if they affect the meaning of these: ``shape_type``,
``imageHeight`` and ``imageWidth``. An image without JSON has no annotation, which is no failure.

FP-Aug (see-say-segment/sesame) adds ``false_premise_QA``: questions about what the picture does not show, each
``[question, is_sentence, answer]``. Each of them is an absent target, listed after the file's own.

Ground truth is painted exactly as dvlab-research/LISA does in ``utils/data_processing.py``: shapes labelled
``flag`` are skipped, points are cut to integers, polygons are painted (outline and inside) from the largest to
the smallest, a label that contains ``ignore`` as ignored, any other as target, later shapes over earlier ones.

Every target shape is one instance, in painting order: all of its pixels that are target in the finished painting. So
overlapping shapes stay complete (ELISA's masks), and the union of the instances is the target as painted (LISA's). A shape
without target pixels (outside the image, or all ignored) is not an instance. A region that an earlier question about the image
has too is the same instance.
"""

from __future__ import annotations

import os
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.datasets.base import Annotation, DatasetError, Expected, Instance, Source, Target
from stages.datasets.instances import numbers
from stages.datasets.jsonfile import field, read_json, text
from stages.datasets.params import ReasonSegOptions
from stages.datasets.shapes import IGNORE, TARGET, Shape, raster, read_shapes
from stages.datasets.sizes import UPRIGHT, drawn_on
from stages.datasets.stems import by_stem
from stages.images import LOST_LINK, SUFFIXES, ImageFailure, inside, read_picture
from stages.names import type_name
from stages.nearby import meant_split, no_folder
from store import rle
from store.read.pixels import oriented

Mask = NDArray[np.bool_]
DEFAULTS = ReasonSegOptions()


def list_sources(root: Path, split: str, options: ReasonSegOptions = DEFAULTS) -> list[Source]:
    """List a source for each stem: an image, a JSON file, or both together; sorted by stem.

    Files of further questions belong to their image. An image without JSON is listed without annotations. A JSON file without
    an image is listed too, and fails when it is read. Hidden files and other suffixes are ignored. Raises DatasetError if the
    split has no folder or no such file, if two files have the same stem, or if the answers are unreadable.
    """
    answers = _answers_file(split)
    try:
        folder, answers_file = inside(root, split), inside(root, answers)
    except ImageFailure as error:
        raise DatasetError(f"{error}; expected a folder in {root}") from error
    if not root.is_dir():
        raise DatasetError(
            f"no folder {split!r} in {root}, which is {no_folder(root)}; "
            "set root or splits of the data set in section data of the params"
        )
    if not folder.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir())
        link = f" ({split} is {LOST_LINK})" if folder.is_symlink() else ""
        raise DatasetError(
            f"no folder {split!r} in {root}{link} (folders there: {', '.join(there) or 'none'})"
            f"{meant_split(root, split, there)}; expected "
            f"{split}/*.jpg, each with a .json of the same name: set root or splits of the data set in section data of the params"
        )
    with os.scandir(folder) as files:
        names = sorted(file.name for file in files)
    images = by_stem(folder.name, names, SUFFIXES)
    jsons = by_stem(folder.name, names, (".json",))
    if not images and not jsons:
        kinds = Counter("folders" if path.is_dir() else path.suffix or "no suffix" for path in folder.iterdir())
        found = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items())) or "nothing at all"
        raise DatasetError(
            f"folder {split!r} in {root} has no images (found: {found}); expected files named "
            f"{', '.join(f'*{suffix}' for suffix in SUFFIXES)}, each with a .json next to it, or the .json alone "
            "where another data set holds the pictures"
        )
    shared = (answers,) if answers_file.exists() else ()
    if shared:
        _answers_of(root, answers, options.encoding)
    further = _further(images, jsons)
    alone = jsons.keys() - {stem for stems in further.values() for stem in stems}
    return [
        Source(
            image_id=stem,
            path=f"{split}/{images.get(stem, stem + SUFFIXES[0])}",
            annotations=(*(f"{split}/{jsons[each]}" for each in (stem, *further.get(stem, ()))), *shared)
            if stem in jsons
            else (),
        )
        for stem in sorted(images.keys() | alone)
    ]


def expected(split: str, options: ReasonSegOptions = DEFAULTS, holds: bool = True) -> tuple[Expected, ...]:
    """The folder of a split, and the file of its answers in words."""
    what = "pictures, each with its JSON file" if holds else "JSON files"
    return Expected(what, (split,)), Expected("answers in words", (_answers_file(split),), needed=False)


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: ReasonSegOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image, one per question, and its instances, the largest shape of each question first.

    Raises ImageFailure, naming file and place, where JSON is missing or broken, a key is missing or of
    another type, a shape cannot be painted (:mod:`stages.datasets.shapes`), or the JSON was made for an image of
    another size (:mod:`stages.datasets.sizes`). Polygons of one or two points are painted as the point or line that OpenCV
    makes of them; one without points is a failure.
    """
    if not source.annotations:
        raise ImageFailure(f"no annotation: expected {PurePosixPath(source.path).with_suffix('.json')}")
    folder = PurePosixPath(source.path).parent
    names = [name for name in source.annotations if PurePosixPath(name).parent == folder]
    shared = [name for name in source.annotations if name not in names]
    answers, notes = _answers_of(root, shared[0], options.encoding) if shared else ({}, [])
    answer = answers.get(PurePosixPath(source.path).name)
    notes = notes if answer is not None else []
    instances: list[Instance] = []
    targets: list[Target] = []

    def orientation() -> int:
        return read_picture(picture or inside(root, source.path), height_px * width_px).orientation

    for name in names:
        try:
            document, found = read_json(root, name, options.encoding)
            shapes = read_shapes(_shapes_of(document))
            texts = _texts(field(document, "text", list))
            is_sentence = field(document, "is_sentence", bool)
            turn = drawn_on(document, shapes, height_px, width_px, orientation)
            false_premises = _false_premises(document)
        except ImageFailure as error:
            raise ImageFailure(f"{name}: {error}") from error
        painted, order = _paint(shapes, height_px, width_px, turn)
        is_target = painted == TARGET
        segmentation = rle.encode(is_target)
        target = Target(
            target_id=f"{source.image_id}/{len(targets)}",
            instances=numbers(_regions(order, is_target, segmentation, turn), instances),
            texts=texts,
            is_sentence=is_sentence,
            kind="reasonseg",
            answer=None if targets else answer,
            segmentation=segmentation,
            ignore=rle.encode(painted == IGNORE),
        )
        targets.append(target)
        for question, long, correction in false_premises:
            targets.append(
                Target(
                    target_id=f"{source.image_id}/{len(targets)}",
                    instances=(),
                    texts=(question,),
                    is_sentence=long,
                    kind="false_premise",
                    answer=correction,
                    segmentation=rle.union([], height_px, width_px),
                    ignore=rle.union([], height_px, width_px),
                    absent=True,
                )
            )
        notes = [*notes, *_notes(found, shapes, turn)]
    return Annotation(tuple(instances), tuple(targets), tuple(notes))


def _shapes_of(document: Any) -> list[Any]:
    try:
        shapes: list[Any] = field(document, "shapes", list)
    except ImageFailure as error:
        if isinstance(document, dict) and {"images", "annotations"} <= document.keys():
            raise ImageFailure(f"{error}; this is COCO's form, which format: coco reads") from error
        raise
    return shapes


def _notes(encoding: str, shapes: Sequence[Shape], turn: int) -> list[str]:
    """One note for each difference from a published ReasonSeg file in UTF-8."""
    notes = [f"{shape.kind} painted by its shape_type" for shape in shapes if shape.kind != "polygon"]
    notes += [f"JSON read as {encoding}"] * (encoding != "utf-8")
    return notes + [f"shapes drawn before EXIF orientation {turn}, turned with the image"] * (turn != UPRIGHT)


def _regions(order: Sequence[Shape], is_target: Mask, segmentation: str, turn: int) -> list[Instance]:
    """The visible parts of the target shapes. segmentation: COCO RLE of ``is_target``, used as it is if there is one shape."""
    height_px, width_px = is_target.shape
    shapes = [shape for shape in order if shape.value == TARGET]
    if len(shapes) == 1:
        return [Instance(segmentation, shapes[0].label)] if is_target.any() else []
    found = []
    for shape in shapes:
        region = _upright(shape, height_px, width_px, turn) & is_target
        if region.any():
            found.append(Instance(rle.encode(region), shape.label))
    return found


def _further(images: Mapping[str, str], jsons: Mapping[str, str]) -> dict[str, list[str]]:
    """Stems of images that have an annotation -> stems ``NAME.1``, ``NAME.2``, ... of further ones, by number."""
    found: dict[str, list[tuple[int, str]]] = {}
    for stem in jsons.keys() - images.keys():
        name, _, number = stem.rpartition(".")
        if name in images and name in jsons and number.isascii() and number.isdigit():
            found.setdefault(name, []).append((int(number), stem))
    return {name: [stem for _, stem in sorted(numbered)] for name, numbered in found.items()}


def _false_premises(document: Any) -> list[tuple[str, bool, str]]:
    """Question, whether it is a sentence, and answer, for each question about something absent; a file may have none."""
    found = document.get("false_premise_QA")
    if found is None:
        return []
    questions = []
    for number, entry in enumerate(field(document, "false_premise_QA", list)):
        what = f"false_premise_QA {number}"
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[1], bool):
            raise ImageFailure(f"{what} is {reprlib.repr(entry)}, expected [question, is_sentence, answer]")
        questions.append((text(entry[0], f"question of {what}"), entry[1], text(entry[2], f"answer of {what}")))
    return questions


def _texts(values: list[Any]) -> tuple[str, ...]:
    if not values:
        raise ImageFailure("'text' is empty, expected at least one question")
    return tuple(text(value, f"text {i}") for i, value in enumerate(values))


def _upright(shape: Shape, height_px: int, width_px: int, turn: int) -> Mask:
    """The pixels of a shape in the upright image, bool [H, W]. turn: the EXIF orientation that must still be applied."""
    if turn == UPRIGHT:
        return raster(shape, height_px, width_px)
    return oriented(raster(shape, width_px, height_px), turn)


def _paint(shapes: Sequence[Shape], height_px: int, width_px: int, turn: int) -> tuple[NDArray[np.uint8], list[Shape]]:
    """Paint all shapes, uint8 [H, W] of 0, TARGET and IGNORE, and return them in painting order.

    Among equal areas the later shape in the file comes first, as with ``np.argsort(areas)[::-1]`` in LISA's code where its sort
    is stable.
    """
    if len(shapes) == 1:  # as in most files
        mask = _upright(shapes[0], height_px, width_px, turn)
        return mask.astype(np.uint8) * np.uint8(shapes[0].value), list(shapes)
    areas = [np.count_nonzero(_upright(shape, height_px, width_px, turn)) for shape in shapes]
    order = [shapes[i] for i in np.argsort(areas, kind="stable")[::-1]]
    canvas = np.zeros((height_px, width_px), np.uint8)
    for shape in order:
        canvas[_upright(shape, height_px, width_px, turn)] = shape.value
    return canvas, order


def _answers_file(split: str) -> str:
    return f"explanatory/{split}.json"


def _answers_of(root: Path, relative: str, encoding: str | None) -> tuple[Mapping[str, str], list[str]]:
    """Answers by image file name, and notes; DatasetError if the file is broken, as that is not the fault of a single image."""
    info = inside(root, relative).stat()
    return _read_answers(root, relative, encoding, info.st_mtime_ns, info.st_size)


@lru_cache(maxsize=8)
def _read_answers(
    root: Path, relative: str, encoding: str | None, _mtime_ns: int, _size: int
) -> tuple[Mapping[str, str], list[str]]:
    """Read the answers; time and size are arguments so that the cache reads an edited file again."""
    try:
        items, found = read_json(root, relative, encoding)
        if not isinstance(items, list):
            raise ImageFailure(f"found {type_name(items)}, expected a list")
        answers = {field(item, "image", str): text(field(item, "outputs", str), "'outputs'") for item in items}
    except ImageFailure as error:
        raise DatasetError(
            f"{root / relative}: {error}; expected a list of objects with 'image' and 'outputs': "
            "repair the file, or remove it to index without answers"
        ) from error
    return answers, [f"answer read as {found}"] * (found != "utf-8")
