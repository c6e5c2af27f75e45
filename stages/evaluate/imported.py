"""Predictions of any other system: COCO RLE in JSON, or PNG masks, keyed by target or by image."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.evaluate.cases import Question, questions
from stages.evaluate.predictions import Prediction, PredictionError
from store import Split, rle
from store.errors import RleError

_KEYS = ("target_id", "image_id", "text_index", "segmentation", "rejected", "answer")
_MODES = ("1", "L", "P", "I", "I;16", "RGB")


def import_predictions(path: Path, split: Split) -> list[Prediction]:
    """Read anyone's predictions for a split.

    Args:
        path: a ``.json`` file with a list, or a ``.jsonl`` file with one object a line: ``target_id`` or (where the image
            has one target) ``image_id``, ``segmentation`` (COCO RLE ``{"size": [h, w], "counts": str or list}``, or null
            for the empty mask), and optionally ``text_index`` (0), ``rejected`` (default: the mask is empty) and
            ``answer``. Or a folder of PNGs ``<target_id>.png`` or ``<image_id>.png``, a slash in the id being a
            subfolder: whatever is not 0 is the mask, an empty one is a rejection.
        split: with the columns ``images`` and ``targets``; masks have the size of its EXIF-oriented images.

    Raises:
        PredictionError: a file or an entry is malformed, of an unknown target, of another size, or there twice.
    """
    keys = _Keys(list(questions(split)), f"{split.base.parent.name}/{split.base.name}")
    if path.is_dir():
        found = _from_folder(path, keys)
    elif path.suffix in (".json", ".jsonl"):
        found = _from_json(path, keys)
    else:
        raise PredictionError(f"{path}: expected a folder of PNGs, a .json or a .jsonl file")
    seen: dict[tuple[str, int], str] = {}
    predictions = []
    for where, prediction in found:
        key = (prediction.target_id, prediction.text_index)
        if key in seen:
            raise PredictionError(
                f"{where}: target {key[0]!r}, text {key[1]} is there already, at {seen[key]}; expected it once"
            )
        seen[key] = where
        predictions.append(prediction)
    return predictions


def _from_json(path: Path, keys: _Keys) -> Iterator[tuple[str, Prediction]]:
    for where, entry in _entries(path):
        if not isinstance(entry, dict):
            raise PredictionError(f"{where}: found {type(entry).__name__}, expected an object")
        if unknown := sorted(set(entry) - set(_KEYS)):
            raise PredictionError(f"{where}: unknown key {unknown[0]!r}, expected {', '.join(_KEYS)}")
        if "segmentation" not in entry:
            raise PredictionError(f"{where}: no key 'segmentation'; expected COCO RLE, or null for the empty mask")
        question = keys.of_entry(where, entry)
        counts = _counts(where, entry["segmentation"], question)
        rejected = _typed(where, entry, "rejected", bool, counts is None or rle.area(counts) == 0)
        text_index = _typed(where, entry, "text_index", int, 0)
        answer = _typed(where, entry, "answer", str, "")
        try:
            yield where, Prediction(question.target_id, text_index, counts, rejected, None, answer)
        except PredictionError as error:
            raise PredictionError(f"{where}: {error}") from error


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each entry stands, for messages, and the entry."""
    try:
        with path.open(encoding="utf-8") as file:
            if path.suffix == ".jsonl":
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield f"{path}:{number}", json.loads(line)
                return
            entries = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PredictionError(f"{path}: not JSON in UTF-8: {error}") from error
    if not isinstance(entries, list):
        raise PredictionError(f"{path}: found {type(entries).__name__}, expected a list of objects")
    for number, entry in enumerate(entries):
        yield f"{path}[{number}]", entry


def _counts(where: str, segmentation: Any, question: Question) -> str | None:
    """COCO RLE of any spelling as compressed counts, once its size is known to be the image's."""
    if segmentation is None:
        return None
    if not isinstance(segmentation, dict) or set(segmentation) != {"size", "counts"}:
        raise PredictionError(f"{where}: segmentation: expected COCO RLE with the keys size and counts, or null")
    size, counts = segmentation["size"], segmentation["counts"]
    expected = [question.height_px, question.width_px]
    if size != expected:
        raise PredictionError(
            f"{where}: size is {size}, expected [height, width] = {expected} of {question.image_id!r}"
        )
    try:
        if isinstance(counts, list) and all(type(run) is int for run in counts):
            counts = rle.from_runs(np.array(counts, np.int64))
        if not isinstance(counts, str):
            raise PredictionError(f"{where}: counts: found {type(counts).__name__}, expected a string or a list of int")
        covered = int(rle.to_runs(counts).sum())
    except (RleError, OverflowError) as error:
        raise PredictionError(f"{where}: {error}") from error
    if covered != question.height_px * question.width_px:
        raise PredictionError(f"{where}: counts cover {covered} pixels, expected {expected[0]} x {expected[1]}")
    return counts


def _typed(where: str, entry: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = entry.get(name, default)
    if type(value) is not kind:
        raise PredictionError(f"{where}: {name}: found {value!r}, expected {kind.__name__}")
    return value


def _from_folder(folder: Path, keys: _Keys) -> Iterator[tuple[str, Prediction]]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    for path in paths:
        if path.suffix.lower() != ".png":
            raise PredictionError(f"{path}: found {path.suffix or 'no suffix'}, expected PNGs alone in this folder")
        question = keys.of_name(str(path), path.relative_to(folder).as_posix()[: -len(".png")])
        counts = rle.encode(_read_png(path, question))
        empty = rle.area(counts) == 0
        yield str(path), Prediction(question.target_id, 0, None if empty else counts, empty)


def _read_png(path: Path, question: Question) -> NDArray[np.bool_]:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            # Before anything is decoded, so that no file of another size costs memory.
            if image.size != (question.width_px, question.height_px):
                raise PredictionError(
                    f"{path}: {image.width} x {image.height} px (width x height), expected {question.width_px} x "
                    f"{question.height_px} px of {question.image_id!r}"
                )
            if image.mode not in _MODES:
                raise PredictionError(f"{path}: mode {image.mode}, expected one without alpha: {', '.join(_MODES)}")
            pixels = np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise PredictionError(f"{path}: cannot be read as PNG: {error}") from error
    mask: NDArray[np.bool_] = np.not_equal(pixels, 0).reshape(*pixels.shape[:2], -1).any(axis=2)
    return mask


@dataclass
class _Keys:
    """The targets of a split by target_id and by image_id."""

    questions: list[Question]
    place: str

    def __post_init__(self) -> None:
        self.by_target = {question.target_id: question for question in self.questions}
        self.by_image: dict[str, list[Question]] = defaultdict(list)
        for question in self.questions:
            self.by_image[question.image_id].append(question)

    def of_entry(self, where: str, entry: dict[str, Any]) -> Question:
        given = [name for name in ("target_id", "image_id") if name in entry]
        if len(given) != 1:
            raise PredictionError(f"{where}: found {' and '.join(given) or 'neither'}, expected target_id or image_id")
        name = given[0]
        key = _typed(where, entry, name, str, "")
        lookup: Callable[[str, str], Question] = self._target if name == "target_id" else self._image
        return lookup(where, key)

    def of_name(self, where: str, name: str) -> Question:
        return self._target(where, name) if name in self.by_target else self._image(where, name)

    def _target(self, where: str, key: str) -> Question:
        if key not in self.by_target:
            raise PredictionError(f"{where}: no target {key!r} in {self.place}; {self._examples()}")
        return self.by_target[key]

    def _image(self, where: str, key: str) -> Question:
        found = self.by_image.get(key, [])
        if not found:
            raise PredictionError(f"{where}: {key!r} is no image with targets in {self.place}; {self._examples()}")
        if len(found) > 1:
            names = ", ".join(question.target_id for question in found)
            raise PredictionError(f"{where}: image {key!r} has {len(found)} targets, expected one of {names}")
        return found[0]

    def _examples(self) -> str:
        names = ", ".join(question.target_id for question in self.questions[:3])
        return f"its {len(self.questions)} targets are {names}, ..."
