"""Predictions of any other system: COCO RLE in JSON, or PNG masks, keyed by target or by image."""

from __future__ import annotations

import codecs
import json
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.boxes import filled_box
from stages.evaluate.cases import Question, image_of, questions, without_questions
from stages.evaluate.pngs import Painted, read_png, require_known_colours
from stages.evaluate.protocols import PROTOCOLS
from stages.names import type_name
from stages.predictions import Prediction, PredictionError
from store import Split, rle
from store.errors import RleError

_KEYS = ("target_id", "image_id", "text_index", "segmentation", "bbox", "rejected", "answer")
_SIGNATURES = (
    # UTF-32 first: its signature begins with that of UTF-16.
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
    (codecs.BOM_UTF8, "utf-8-sig"),
)

Found = tuple[str, Prediction]
"""Where a prediction stands, for messages, and the prediction."""


def read_external(
    path: Path,
    split: Split,
    *,
    threshold: int | None = None,
    protocol: str | None = None,
    unasked: dict[str, int] | None = None,
) -> list[Prediction]:
    """Read anyone's predictions for a split.

    Args:
        path: a ``.json`` file with a list, or a ``.jsonl`` file with one object per line, in UTF-8 or with the signature (BOM) of
            UTF-16 or UTF-32: ``target_id`` or (where the image has one target) ``image_id``, ``segmentation`` (COCO RLE
            ``{"size": [h, w], "counts": str or list}``, or null for the empty mask) or else ``bbox`` (XYWH in px, which counts as
            the filled box), and optionally ``text_index`` (0), ``rejected`` (default: not known) and ``answer``. Or a folder of
            PNGs ``<target_id>.png`` or ``<image_id>.png``, with a subfolder for each slash in the id
            (:func:`stages.evaluate.pngs.read_png`).
        split: with the columns ``images`` and ``targets``; masks have the size of its EXIF-oriented images.
        threshold: grey values of PNGs of at least this are the mask; None: PNGs have two values, and what is not 0 is the mask.
        protocol: a name of ``PROTOCOLS``; some accept answers that are rejected and have a mask.
        unasked: gets the images without questions (failed, or without annotation) and the number of predictions for each; these
            predictions are left out.

    Raises:
        PredictionError: a file or an entry is malformed, has an unknown target or another size, or occurs twice; or there is no
            prediction at all.
    """
    keys = _Keys(list(questions(split)), without_questions(split), split.name)
    kind = path.suffix.lower()
    if threshold is not None and not path.is_dir():
        raise PredictionError(f"{path}: --threshold is for a folder of PNGs, found a file")
    if path.is_dir():
        found = _from_folder(path, keys, threshold)
    elif kind in (".json", ".jsonl"):
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
        if protocol is None or not PROTOCOLS[protocol].rejected_with_mask:
            try:
                prediction.require_one_answer()
            except PredictionError as error:
                raise PredictionError(f"{where}: {error}") from error
        predictions.append(prediction)
    if not predictions and not keys.unasked:
        raise PredictionError(f"{path}: found no prediction in it")
    if unasked is not None:
        unasked.update(keys.unasked)
    return predictions


def _from_json(path: Path, keys: _Keys) -> Iterator[Found]:
    for where, entry in _entries(path):
        if not isinstance(entry, dict):
            raise PredictionError(f"{where}: found {type_name(entry)}, expected an object")
        if unknown := sorted(set(entry) - set(_KEYS)):
            raise PredictionError(f"{where}: unknown key {unknown[0]!r}, expected {', '.join(_KEYS)}")
        if ("segmentation" in entry) == ("bbox" in entry):
            found = "the keys 'segmentation' and 'bbox'" if "bbox" in entry else "no key 'segmentation'"
            raise PredictionError(f"{where}: {found}; expected COCO RLE, or null for the empty mask; or else a bbox")
        question = keys.of_entry(where, entry)
        if question is None:
            continue
        is_box = "bbox" in entry
        read = filled_box if is_box else _counts
        counts = read(where, entry["bbox" if is_box else "segmentation"], question)
        rejected = _typed(where, entry, "rejected", bool, None)
        text_index = _typed(where, entry, "text_index", int, 0)
        answer = _typed(where, entry, "answer", str, "").encode("utf-8", "replace").decode()  # half a surrogate pair
        try:
            yield where, Prediction(question.target_id, text_index, counts, rejected, None, answer, is_box)
        except PredictionError as error:
            raise PredictionError(f"{where}: {error}") from error


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each entry stands, for messages, and the entry."""
    text = _text(path)
    if path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            line = line.strip().removeprefix("\ufeff")  # the BOM of a file that was appended to another
            if line:
                yield f"{path}:{number}", _parsed(f"{path}:{number}", line)
        return
    if not text.strip():
        raise PredictionError(f"{path}: found an empty file, expected a list of objects")
    entries = _parsed(str(path), text)
    if not isinstance(entries, list):
        raise PredictionError(f"{path}: found {type_name(entries)}, expected a list of objects")
    for number, entry in enumerate(entries):
        yield f"{path}[{number}]", entry


def _text(path: Path) -> str:
    """A file's text, decoded as UTF-8 or as its signature (BOM) says."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PredictionError(f"{path}: cannot be read: {error.strerror or error}") from error
    encoding = next((name for signature, name in _SIGNATURES if content.startswith(signature)), "utf-8")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise PredictionError(
            f"{path}: not JSON in UTF-8, or in the encoding that its first bytes name: {error}"
        ) from error


def _parsed(where: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        more = "; one object per line is a .jsonl file" if error.msg == "Extra data" else ""
        raise PredictionError(f"{where}: not JSON in UTF-8: {error}{more}") from error
    except RecursionError as error:
        raise PredictionError(f"{where}: JSON that is nested too deeply") from error
    except ValueError as error:  # a repeated key, or a number with thousands of digits
        raise PredictionError(f"{where}: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found


def _counts(where: str, segmentation: Any, question: Question) -> str | None:
    """COCO RLE, compressed or not, as compressed counts; its size is checked against the image's first."""
    if segmentation is None:
        return None
    if not isinstance(segmentation, dict) or set(segmentation) != {"size", "counts"}:
        raise PredictionError(f"{where}: segmentation: expected COCO RLE with the keys size and counts, or null")
    size, counts = segmentation["size"], segmentation["counts"]
    expected = [question.height_px, question.width_px]
    if size != expected:
        turned = "; it is turned: [width, height], or the frame before the image's EXIF orientation"
        raise PredictionError(
            f"{where}: size is {size}, expected [height, width] = {expected} of {question.image_id!r}"
            + (turned if size == expected[::-1] else "")
        )
    try:
        if isinstance(counts, list) and all(type(run) is int for run in counts):
            counts = rle.from_runs(np.array(counts, np.int64))
        if not isinstance(counts, str):
            raise PredictionError(f"{where}: counts: found {type_name(counts)}, expected a string or a list of int")
        covered = int(rle.to_runs(counts).sum())
    except (RleError, OverflowError) as error:
        raise PredictionError(f"{where}: {error}") from error
    if covered != question.height_px * question.width_px:
        raise PredictionError(f"{where}: counts cover {covered} pixels, expected {expected[0]} x {expected[1]}")
    return counts


def _typed(where: str, entry: dict[str, Any], name: str, kind: type, default: Any) -> Any:
    value = entry.get(name, default)
    if name in entry and type(value) is not kind:
        raise PredictionError(f"{where}: {name}: found {value!r}, expected {kind.__name__}")
    return value


def _from_folder(folder: Path, keys: _Keys, threshold: int | None) -> Iterator[Found]:
    pictures: list[tuple[str, Painted]] = []
    found: list[Found] = []
    for path in files_of(folder):
        if path.suffix.lower() != ".png":
            kind = path.suffix or "no suffix"
            raise PredictionError(f"{path}: found {kind}, expected PNGs alone in this folder")
        question = keys.of_name(str(path), path.relative_to(folder).as_posix()[: -len(".png")])
        if question is None:
            continue
        painted = read_png(path, question, threshold)
        counts = None if painted.colour is None else rle.encode(painted.mask)
        pictures.append((str(path), Painted(painted.mask[:0], painted.grey, painted.colour, painted.alone)))
        found.append((str(path), Prediction(question.target_id, 0, counts, None)))
    require_known_colours(pictures)
    yield from found


def files_of(folder: Path) -> list[Path]:
    """The files below a folder, sorted, without hidden ones; raises PredictionError if a folder cannot be listed."""

    def refuse(error: OSError) -> None:
        raise PredictionError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    found: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if not name.startswith(".")]
    return sorted(found)


@dataclass
class _Keys:
    """The targets of a split by target_id and by image_id.

    silent: image_id -> why it has no questions. unasked: the number of predictions for each such image.
    """

    questions: list[Question]
    silent: dict[str, str]
    place: str

    def __post_init__(self) -> None:
        self.by_target = {question.target_id: question for question in self.questions}
        self.by_image: dict[str, list[Question]] = defaultdict(list)
        for question in self.questions:
            self.by_image[question.image_id].append(question)
        self.composed = {unicodedata.normalize("NFC", name): name for name in (*self.by_target, *self.by_image)}
        self.unasked: dict[str, int] = {}

    def of_entry(self, where: str, entry: dict[str, Any]) -> Question | None:
        """The question that an entry answers; None, and counted, for an image without questions."""
        given = [name for name in ("target_id", "image_id") if name in entry]
        if len(given) != 1:
            raise PredictionError(f"{where}: found {' and '.join(given) or 'neither'}, expected target_id or image_id")
        name = given[0]
        key = _typed(where, entry, name, str, "")
        lookup: Callable[[str, str], Question] = self._target if name == "target_id" else self._image
        known = key in self.by_target if name == "target_id" else key in self.by_image
        return None if not known and self._is_unasked(key) else lookup(where, key)

    def of_name(self, where: str, name: str) -> Question | None:
        """Like :meth:`of_entry`, from a file's name. File systems may decompose letters such as é."""
        if name not in self.by_target and name not in self.by_image:
            name = self.composed.get(unicodedata.normalize("NFC", name), name)
            if name not in self.by_target and name not in self.by_image and self._is_unasked(name):
                return None
        return self._target(where, name) if name in self.by_target else self._image(where, name)

    def _is_unasked(self, key: str) -> bool:
        image_id = image_of(key, self.silent)
        if image_id is not None:
            self.unasked[image_id] = self.unasked.get(image_id, 0) + 1
        return image_id is not None

    def _target(self, where: str, key: str) -> Question:
        if key not in self.by_target:
            raise PredictionError(f"{where}: no target {key!r} in {self.place}; {self._examples()}")
        return self.by_target[key]

    def _image(self, where: str, key: str) -> Question:
        found = self.by_image.get(key, [])
        if not found:
            raise PredictionError(f"{where}: {key!r} is not an image with targets in {self.place}; {self._examples()}")
        if len(found) > 1:
            names = ", ".join(question.target_id for question in found)
            raise PredictionError(f"{where}: image {key!r} has {len(found)} targets, expected one of {names}")
        return found[0]

    def _examples(self) -> str:
        names = ", ".join(question.target_id for question in self.questions[:3])
        return f"its {len(self.questions)} targets are {names}, ..."
