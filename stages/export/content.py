"""The parts of an image that are exported: picture, masks, instances, questions, answers and vectors, as the store holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.photographs import GoneError, PictureFile
from stages.predictions import Prediction
from store import Split, rle
from store.errors import FailedImageError
from store.format.names import with_proposer
from store.format.schema import OK
from store.read.record import Record
from store.read.region import Region

WHATS = ("masks", "instances", "targets", "predictions")
"""What can be exported of an image: proposals, annotated instances, questions with their answers, a run's answers."""
PICTURES = ("copy", "link", "none")
"""What becomes of the picture: copied byte for byte, a symbolic link to it, or left where it is."""


@dataclass(frozen=True)
class Asked:
    """What is exported, and how.

    Args:
        dataset, split: of the store.
        whats: of :data:`WHATS`.
        images: how many the split has.
        pictures: one of :data:`PICTURES`.
        proposer: whose masks.
        run: whose predictions.
        encoders: whose vectors of masks and instances come along.
        polygons: whether labelme's shapes are polygons instead of masks.
        terms: what is known of the licence of the pictures, in lines.
    """

    dataset: str
    split: str
    whats: tuple[str, ...]
    images: int
    pictures: str
    proposer: str | None = None
    run: str | None = None
    encoders: tuple[str, ...] = ()
    polygons: bool = False
    terms: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """``<dataset>/<split>``."""
        return f"{self.dataset}/{self.split}"


@dataclass(frozen=True)
class Answer:
    """What a run answered to a target. number: of the target in its image."""

    number: int
    prediction: Prediction


@dataclass(frozen=True)
class Item:
    """One image. A field that was not asked for, or does not exist, is None.

    path: path of its file below the folder of its data set, POSIX. vectors: ``masks`` or ``instances`` and the encoder ->
    float16 [K, D], row k belongs to region k; of very many masks only the largest have a vector.
    """

    image_index: int
    image_id: str
    path: str
    height_px: int
    width_px: int
    masks: Sequence[Region] | None = None
    instances: Sequence[Region] | None = None
    targets: Sequence[Mapping[str, Any]] | None = None
    predictions: Sequence[Answer] | None = None
    vectors: Mapping[tuple[str, str], NDArray[Any]] = field(default_factory=dict)
    picture: PictureFile | None = None

    @property
    def suffix(self) -> str:
        """Suffix of the picture's file, in lower case, with its dot."""
        return PurePosixPath(self.path).suffix.lower()

    def coco(self, counts: str | None) -> dict[str, Any]:
        """COCO RLE ``{"size": [h, w], "counts": ...}``; None is the empty mask."""
        return {"size": [self.height_px, self.width_px], "counts": counts or self.nothing}

    @property
    def nothing(self) -> str:
        """COCO RLE counts of the empty mask."""
        return rle.union([], self.height_px, self.width_px)

    def decoded(self, counts: str | None) -> NDArray[np.bool_]:
        """A mask, bool [H, W]; None is the empty one."""
        return rle.decode(counts or self.nothing, self.height_px, self.width_px)


@dataclass(frozen=True)
class Note:
    """A part of an image that is not exported. what: one of :data:`WHATS`, ``picture``, or ``image`` for all of it."""

    image_id: str
    what: str
    reason: str


@dataclass(frozen=True)
class Contents:
    """Reads the images of an open split.

    Args:
        opened: with the columns of :func:`columns_of`.
        asked: what is exported.
        needs: further columns that the format reads: ``instances`` of the targets that it writes.
        predictions: target_id -> a run's answers to it.
        photo: row of ``images`` -> its file; raises GoneError. None: no picture is wanted.
    """

    opened: Split
    asked: Asked
    needs: tuple[str, ...] = ()
    predictions: Mapping[str, Sequence[Prediction]] = field(default_factory=dict)
    photo: Callable[[Mapping[str, Any]], PictureFile] | None = None

    def read(self, image_index: int) -> tuple[Item | None, list[Note]]:
        """An image, and which parts of it are left out; None for the image if nothing of it can be read.

        An image whose picture is wanted but cannot be read is left out as a whole: a file without it would not work.
        """
        record = self.opened[image_index]
        if record.status != OK:
            return None, [Note(record.image_id, "image", record.error or record.status)]
        found: dict[str, Any] = {}
        notes = []
        for what in dict.fromkeys((*self.asked.whats, *self.needs)):
            try:
                found[what] = self._of(record, what)
            except FailedImageError as error:
                notes.append(Note(record.image_id, what, _reason(error)))
        if found.keys().isdisjoint(self.asked.whats):
            return None, notes
        try:
            vectors = dict(self._vectors(record, found))
        except FailedImageError as error:
            vectors = {}
            notes.append(Note(record.image_id, "vectors", _reason(error)))
        try:
            picture = None if self.photo is None else self.photo(record.rows("images")[0])
        except GoneError as error:
            return None, [Note(record.image_id, "picture", str(error))]
        size = record.height_px, record.width_px
        return Item(image_index, record.image_id, record.path, *size, **found, vectors=vectors, picture=picture), notes

    def _of(self, record: Record, what: str) -> list[Any]:
        if what == "masks":
            return record.masks
        if what == "instances":
            return record.instances
        targets = record.rows("targets")
        if what == "targets":
            return targets
        answers = [self.predictions.get(target["target_id"], ()) for target in targets]
        return [Answer(number, prediction) for number, found in enumerate(answers) for prediction in found]

    def _vectors(self, record: Record, found: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], NDArray[Any]]]:
        for what, column, encoder in vector_columns(self.asked):
            if what in found:
                yield (what, encoder), np.asarray(record[column])


def columns_of(asked: Asked, needs: Sequence[str] = ()) -> list[str]:
    """The columns of the store that an export reads."""
    tables = [*asked.whats, *needs]
    found = ["images"]
    found += [with_proposer("masks", asked.proposer)] if "masks" in tables and asked.proposer else []
    found += ["instances"] if "instances" in tables else []
    found += ["targets"] if {"targets", "predictions"} & set(tables) else []
    return [*found, *(column for _, column, _ in vector_columns(asked))]


def vector_columns(asked: Asked) -> list[tuple[str, str, str]]:
    """``masks`` or ``instances``, the column of their vectors, and the encoder."""
    found = []
    for encoder in asked.encoders:
        if "masks" in asked.whats and asked.proposer:
            found.append(("masks", with_proposer(f"mask_embeddings/{encoder}", asked.proposer), encoder))
        if "instances" in asked.whats:
            found.append(("instances", f"instance_embeddings/{encoder}", encoder))
    return found


def as_json(item: Item) -> dict[str, Any]:
    """An image as a JSON value, without picture and vectors, with masks as COCO RLE."""
    found: dict[str, Any] = {
        name: getattr(item, name) for name in ("image_index", "image_id", "path", "height_px", "width_px")
    }
    for what in ("masks", "instances"):
        regions = getattr(item, what)
        if regions is not None:
            found[what] = [{**region, "segmentation": region.coco()} for region in regions]
    if item.targets is not None:
        found["targets"] = [target_json(item, target) for target in item.targets]
    if item.predictions is not None:
        found["predictions"] = [prediction_json(item, answer.prediction) for answer in item.predictions]
    return found


def target_json(item: Item, target: Mapping[str, Any]) -> dict[str, Any]:
    """A question as a JSON value, with masks as COCO RLE."""
    said = {key: value for key, value in target.items() if key not in ("image_index", "segmentation", "ignore")}
    return {**said, "segmentation": item.coco(target["segmentation"]), "ignore": item.coco(target["ignore"])}


def prediction_json(item: Item, answer: Prediction) -> dict[str, Any]:
    """A run's answer as ``evaluate --predictions`` reads it; the empty mask is null."""
    return {
        "target_id": answer.target_id,
        "text_index": answer.text_index,
        "segmentation": None if answer.is_empty else item.coco(answer.segmentation),
        "rejected": answer.rejected,
        "answer": answer.answer,
    }


def _reason(error: FailedImageError) -> str:
    """What a column says about a failed image, without the image's name and number."""
    return str(error).split(": ", 2)[-1]
