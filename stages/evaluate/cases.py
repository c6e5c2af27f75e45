"""The questions of a split, and the candidates that each may be answered with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.partition import partition
from store import Candidates, Split
from store.errors import FailedImageError
from store.format.schema import OK, REMOVED
from store.stream.candidates import number_of_instance

POSITIVE_IOU = 0.5
"""A candidate is positive when its IoU with one of the target's instances is at least this."""

CANDIDATES: Mapping[str, Candidates] = MappingProxyType(
    {"proposals": Candidates(), "proposals+gt": Candidates(drop_near_gt=0.95, with_gt=True)}
)
"""ELISA's two settings, by the names of ``predictions.SETTINGS``."""
OF_CHOICES = ("masks", "instances", "match/instances")
"""The columns needed to score choices among candidates."""


def questions(split: Split, skipped: dict[str, str] | None = None) -> Iterator[Question]:
    """The targets of a split in its order. Needs the columns ``images`` and ``targets``.

    Images without targets because they failed, or because they have no annotation, are left out; ``skipped`` gets their
    image_id and the reason. Conversations are left out too, as they are not answered by a mask.
    """
    for record in split:
        if record.status == REMOVED:
            continue
        try:
            targets = record.rows("targets")
        except FailedImageError as error:
            if skipped is not None:
                skipped[record.image_id] = str(error)
            continue
        for number, target in enumerate(targets):
            if target["turns"]:
                continue
            yield Question(record.image_id, record.image_index, record.height_px, record.width_px, number, target)


def without_annotation(split: Split) -> set[str]:
    """image_id of each image that has no annotation. Needs the columns ``images`` and ``targets``."""
    return {split.image_ids[image] for image in split.column("targets").status(len(split)).absent}


def without_questions(split: Split) -> dict[str, str]:
    """The images of a split that have no question: image_id -> why. They failed, were removed or have no annotation.

    Needs the columns ``images`` and ``targets``.
    """
    found: dict[str, str] = {}
    asked = {question.image_id for question in questions(split, found)}
    return {image_id: found.get(image_id, "it has no target") for image_id in split.image_ids if image_id not in asked}


def image_of(name: str, among: Mapping[str, Any]) -> str | None:
    """The image in ``among`` that a target_id ``IMAGE/NUMBER``, or an image_id, names; None: no such image."""
    parent = name.rpartition("/")[0]
    return next((image_id for image_id in (name, parent) if image_id in among), None)


@dataclass(frozen=True)
class Question:
    """A target of an image. ``number``: number of the target in its image; ``target``: its row of the table ``targets``."""

    image_id: str
    image_index: int
    height_px: int
    width_px: int
    number: int
    target: Mapping[str, Any]

    @property
    def target_id(self) -> str:
        """``IMAGE/NUMBER``, the name of the target."""
        return str(self.target["target_id"])

    @property
    def texts(self) -> int:
        """Number of its texts; a target without texts is asked once."""
        return max(1, len(self.target["texts"]))

    @property
    def exists(self) -> bool:
        """Whether there is something to be found: it has an instance."""
        return bool(self.target["instances"])

    @property
    def absent(self) -> bool:
        """Whether the annotation says that there is nothing to be found. A small object drawn on no pixel is not absent.

        If the store does not say it: the target has no instance.
        """
        said = self.target.get("absent")
        return not self.exists if said is None else bool(said)


@dataclass(frozen=True)
class Offered:
    """The candidates of a question.

    index: int64 [n], numbers of masks, or of instances as :func:`store.stream.candidates.number_of_instance` gives them.
    segmentation: COCO RLE counts of each. positive: bool [n], the candidate's IoU with one of the target's instances is at
    least ``POSITIVE_IOU``. truth: bool [n], the candidate is one of these instances.
    """

    index: NDArray[np.int64]
    segmentation: tuple[str, ...]
    positive: NDArray[np.bool_]
    truth: NDArray[np.bool_]

    @property
    def by_number(self) -> dict[int, str]:
        """Number of a candidate -> COCO RLE counts."""
        return dict(zip(self.index.tolist(), self.segmentation, strict=True))


@dataclass(frozen=True)
class Case:
    """One text of a question in a split. ``view``: which candidates it is answered with."""

    split: Split
    question: Question
    text_index: int
    view: Candidates

    @cached_property
    def offered(self) -> Offered:
        """Its candidates; no candidates where the image's masks failed.

        Needs the columns ``OF_CHOICES``.
        """
        wanted = {"segmentation": "masks.segmentation", "iou": "match/instances.iou"}
        try:
            found = self.split.batch([self.question.image_index], wanted, candidates=self.view)
        except FailedImageError:
            return Offered(np.empty(0, np.int64), (), np.empty(0, bool), np.empty(0, bool))
        asked = np.array(self.question.target["instances"], np.int64)
        positive = [bool(np.any(iou[asked] >= POSITIVE_IOU)) for iou in found["iou"][0]]
        (index,) = found["candidates"]
        truth = np.isin(index, number_of_instance(asked))
        return Offered(index, tuple(found["segmentation"][0]), np.array(positive, bool), truth)

    @cached_property
    def instances(self) -> tuple[str, ...]:
        """COCO RLE counts of the target's instances. Needs the column ``instances``."""
        (row,) = self.split[self.question.image_index].rows("instances")
        return tuple(row["segmentation"][j] for j in self.question.target["instances"]) if row["status"] == OK else ()

    @cached_property
    def regions(self) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """The image without its ignored pixels, cut along target and candidates.

        Returns:
            Pixels of each region, int64 [R]; whether it lies in the target, bool [R]; and in which candidates, bool [R, n].
        """
        question = self.question
        masks = [question.target["ignore"], question.target["segmentation"], *self.offered.segmentation]
        pixels, members = partition(masks, question.height_px, question.width_px)
        counts = ~members[:, 0]
        return pixels[counts], members[counts, 1], members[counts, 2:]
