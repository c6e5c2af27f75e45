"""ReasonSeg as published: ``<split>/NAME.jpg`` beside ``NAME.json``, answers in ``explanatory/<split>.json``.

Further questions about the picture may stand in ``NAME.1.json``, ``NAME.2.json``, ... of the same form. Published data has none,
and readers that look for ``NAME.json`` pass over them.

A JSON file has ``shapes`` (``label`` and ``points`` of a polygon), ``text`` (wordings of one question) and
``is_sentence``. Ground truth is painted exactly as dvlab-research/LISA does in ``utils/data_processing.py``:
shapes labelled ``flag`` are skipped, points are cut to integers, polygons are painted (outline and inside)
from the largest to the smallest, a label that contains ``ignore`` as ignored, any other as target, a later
one over an earlier one.

Every target polygon is one instance, in painting order: all of its pixels that the finished painting shows
as target. So overlapping polygons stay whole (ELISA's masks), and the union of the instances is the target
as painted (LISA's). A polygon none of whose pixels is target (outside the image, or all ignored) has no
region, and is no instance. A region that an earlier question about the image has, too, is its instance.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.datasets.base import Annotation, DatasetError, Instance, Source, Target
from stages.images import ImageFailure, inside, read_file
from store import rle

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_JSON_BYTES = 2**26
MAX_COORDINATE_PX = 10**6
"""OpenCV walks every row that a polygon spans, inside the image or not: seconds a polygon near 2**31."""

_TARGET, _IGNORE = 1, 255


class _Shape(NamedTuple):
    label: str
    points: NDArray[np.int32]  # [P, 2], x and y
    value: int  # painted: _TARGET or _IGNORE


def list_sources(root: Path, split: str) -> list[Source]:
    """Give an image or a JSON file a source each, together where their stems are equal, sorted by stem.

    Files of further questions go with their image. An image without JSON and a JSON file without image are
    listed too, and fail when they are read. Hidden files and other suffixes are not looked at. Raises
    DatasetError where the split has no folder or no such file, where two files claim one stem, or where the
    answers are unreadable.
    """
    answers = f"explanatory/{split}.json"
    try:
        folder, answers_file = inside(root, split), inside(root, answers)
    except ImageFailure as error:
        raise DatasetError(f"{error}; expected a folder in {root}") from error
    if not folder.is_dir():
        there = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        raise DatasetError(
            f"no folder {split!r} in {root} (folders there: {', '.join(there) or 'none'}); expected "
            f"{split}/*.jpg, each with a .json of the same name: set index.root or splits in params.yaml"
        )
    images = _by_stem(folder, IMAGE_SUFFIXES)
    jsons = _by_stem(folder, (".json",))
    if not images and not jsons:
        raise DatasetError(f"folder {split!r} in {root} is empty; expected *.jpg, each with a .json beside it")
    shared = (answers,) if answers_file.exists() else ()
    if shared:
        _answers_of(root, answers)
    further = _further(images, jsons)
    alone = jsons.keys() - {stem for stems in further.values() for stem in stems}
    return [
        Source(
            image_id=stem,
            path=f"{split}/{images.get(stem, stem + IMAGE_SUFFIXES[0])}",
            annotations=(*(f"{split}/{jsons[each]}" for each in (stem, *further.get(stem, ()))), *shared)
            if stem in jsons
            else (),
        )
        for stem in sorted(images.keys() | alone)
    ]


def annotate(root: Path, source: Source, height_px: int, width_px: int) -> Annotation:
    """Read the targets of an image, one a question, and its instances, of each question the largest polygon first.

    Raises ImageFailure, naming file and place, where JSON is missing or broken, a key is missing or of
    another type, or a coordinate is not finite or beyond MAX_COORDINATE_PX. Polygons of one or two points
    are painted as the point or line that OpenCV makes of them; one without points is a failure.
    """
    if not source.annotations:
        raise ImageFailure(f"no annotation: expected {PurePosixPath(source.path).with_suffix('.json')}")
    folder = PurePosixPath(source.path).parent
    names = [name for name in source.annotations if PurePosixPath(name).parent == folder]
    shared = [name for name in source.annotations if name not in names]
    answers = _answers_of(root, shared[0]) if shared else {}
    instances: list[Instance] = []
    targets = []
    for number, name in enumerate(names):
        try:
            document = _read_json(root, name)
            shapes = _shapes(_field(document, "shapes", list))
            texts = _texts(_field(document, "text", list))
            is_sentence = _field(document, "is_sentence", bool)
        except ImageFailure as error:
            raise ImageFailure(f"{name}: {error}") from error
        painted, order = _paint(shapes, height_px, width_px)
        is_target = painted == _TARGET
        target = Target(
            target_id=f"{source.image_id}/{number}",
            instances=_numbers(_regions(order, is_target), instances),
            texts=texts,
            is_sentence=is_sentence,
            kind="reasonseg",
            answer=None if number else answers.get(PurePosixPath(source.path).name),
            segmentation=rle.encode(is_target),
            ignore=rle.encode(painted == _IGNORE),
        )
        targets.append(target)
    return Annotation(tuple(instances), tuple(targets))


def _regions(order: Sequence[_Shape], is_target: NDArray[np.bool_]) -> list[Instance]:
    """What is to be seen of the target polygons."""
    found = []
    for shape in order:
        if shape.value == _TARGET:
            region = _raster(shape, *is_target.shape) & is_target
            if region.any():
                found.append(Instance(rle.encode(region), shape.label))
    return found


def _numbers(found: Sequence[Instance], instances: list[Instance]) -> tuple[int, ...]:
    """Numbers of a question's instances among the image's, to which those that no earlier question has are added."""
    earlier = list(instances)
    numbers = []
    for instance in found:
        if instance in earlier:
            numbers.append(earlier.index(instance))
        else:
            numbers.append(len(instances))
            instances.append(instance)
    return tuple(numbers)


def _further(images: Mapping[str, str], jsons: Mapping[str, str]) -> dict[str, list[str]]:
    """Stems of images that have an annotation -> stems ``NAME.1``, ``NAME.2``, ... of further ones, by number."""
    found: dict[str, list[tuple[int, str]]] = {}
    for stem in jsons.keys() - images.keys():
        name, _, number = stem.rpartition(".")
        if name in images and name in jsons and number.isascii() and number.isdigit():
            found.setdefault(name, []).append((int(number), stem))
    return {name: [stem for _, stem in sorted(numbered)] for name, numbered in found.items()}


def _by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, str]:
    """File names of these suffixes, in any case, by stem."""
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        if path.name != path.name.encode("utf-8", "replace").decode("utf-8"):
            raise DatasetError(f"{folder.name}/{path.name!a}: expected a file name in UTF-8, rename it")
        other = found.setdefault(path.stem, path.name)
        if other != path.name:
            raise DatasetError(
                f"{folder.name}/{other} and {folder.name}/{path.name} have the same stem, so one annotation "
                "would belong to both: rename or remove one"
            )
    return found


def _read_json(root: Path, relative: str) -> Any:
    """Parse a JSON file in UTF-8 or, as a part of ReasonSeg is, in cp1252."""
    data = read_file(inside(root, relative), MAX_JSON_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError as error:
            raise ImageFailure("text is neither UTF-8 nor cp1252") from error
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageFailure(f"not JSON: {error}") from error


def _field(record: Any, key: str, kind: type) -> Any:
    """Value of a key that must be there and of this type."""
    if not isinstance(record, dict):
        raise ImageFailure(f"found {type(record).__name__}, expected an object with {key!r}")
    if key not in record:
        raise ImageFailure(f"key {key!r} is missing (found: {', '.join(map(repr, sorted(record))) or 'none'})")
    if not isinstance(record[key], kind):
        raise ImageFailure(f"{key!r} is {type(record[key]).__name__}, expected {kind.__name__}")
    return record[key]


def _text(value: Any, what: str) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ImageFailure(f"{what} is {type(value).__name__}, expected str")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ImageFailure(f"{what} has half of a surrogate pair, which is no character")
    return value


def _texts(values: list[Any]) -> tuple[str, ...]:
    if not values:
        raise ImageFailure("'text' is empty, expected at least one question")
    return tuple(_text(value, f"text {i}") for i, value in enumerate(values))


def _shapes(records: list[Any]) -> list[_Shape]:
    """Shapes to paint, in file order."""
    shapes = []
    for i, record in enumerate(records):
        try:
            label = _text(_field(record, "label", str), "'label'")
            if label.lower() != "flag":
                value = _IGNORE if "ignore" in label.lower() else _TARGET
                shapes.append(_Shape(label, _points(_field(record, "points", list)), value))
        except ImageFailure as error:
            raise ImageFailure(f"shape {i}: {error}") from error
    return shapes


def _points(points: list[Any]) -> NDArray[np.int32]:
    """Points as int32 [P, 2], P >= 1, cut towards zero."""
    if not points:
        raise ImageFailure("'points' is empty, expected [[x, y], ...]")
    for i, point in enumerate(points):
        if (
            not isinstance(point, list)
            or len(point) != 2
            or not all(isinstance(c, int | float) and not isinstance(c, bool) for c in point)
        ):
            raise ImageFailure(f"point {i} is {reprlib.repr(point)}, expected [x, y]")
        # Also false for NaN, and an integer of any size is compared exactly.
        if not all(-MAX_COORDINATE_PX <= c <= MAX_COORDINATE_PX for c in point):
            raise ImageFailure(
                f"point {i} is {reprlib.repr(point)}, expected numbers between "
                f"-{MAX_COORDINATE_PX} and {MAX_COORDINATE_PX} px"
            )
    return np.array(points, np.float64).astype(np.int32)


def _raster(shape: _Shape, height_px: int, width_px: int) -> NDArray[np.bool_]:
    """Outline and inside of a polygon, bool [H, W]."""
    canvas = np.zeros((height_px, width_px), np.uint8)
    _draw(canvas, shape, 1)
    return canvas.view(np.bool_)


def _draw(canvas: NDArray[np.uint8], shape: _Shape, value: int) -> None:
    cv2.polylines(canvas, [shape.points], True, value, 1)
    cv2.fillPoly(canvas, [shape.points], value)


def _paint(shapes: list[_Shape], height_px: int, width_px: int) -> tuple[NDArray[np.uint8], list[_Shape]]:
    """Paint all shapes, uint8 [H, W] of 0, _TARGET and _IGNORE, and give them in painting order.

    Of equal areas the later in the file comes first, as ``np.argsort(areas)[::-1]`` has it in LISA's code
    wherever its sort is stable.
    """
    areas = [np.count_nonzero(_raster(shape, height_px, width_px)) for shape in shapes]
    order = [shapes[i] for i in np.argsort(areas, kind="stable")[::-1]]
    canvas = np.zeros((height_px, width_px), np.uint8)
    for shape in order:
        _draw(canvas, shape, shape.value)
    return canvas, order


def _answers_of(root: Path, relative: str) -> Mapping[str, str]:
    """Answers by image file name; a broken file is nobody's row but a DatasetError."""
    info = inside(root, relative).stat()
    return _read_answers(root, relative, info.st_mtime_ns, info.st_size)


@lru_cache(maxsize=8)
def _read_answers(root: Path, relative: str, _mtime_ns: int, _size: int) -> Mapping[str, str]:
    """Read the answers; time and size are there so that an edited file is read again."""
    try:
        items = _read_json(root, relative)
        if not isinstance(items, list):
            raise ImageFailure(f"found {type(items).__name__}, expected a list")
        return {_field(item, "image", str): _text(_field(item, "outputs", str), "'outputs'") for item in items}
    except ImageFailure as error:
        raise DatasetError(
            f"{root / relative}: {error}; expected a list of objects with 'image' and 'outputs': "
            "repair the file, or remove it to index without answers"
        ) from error
