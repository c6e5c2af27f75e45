"""What there is to answer: the questions of a split, and the candidates each may be answered with."""

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
from store.format.schema import ABSENT, OK, REMOVED
from store.overlap import among_instances

POSITIVE_IOU = 0.5
"""A candidate is positive when its IoU with one of the target's instances is at least this."""

CANDIDATES: Mapping[str, Candidates] = MappingProxyType(
    {"proposals": Candidates(), "proposals+gt": Candidates(drop_near_gt=0.95, with_gt=True)}
)
"""ELISA's two settings, by the names of ``predictions.SETTINGS``."""
OF_CHOICES = ("masks", "instances", "match/instances")
"""The columns that choices among candidates are scored with."""


def questions(split: Split, skipped: dict[str, str] | None = None) -> Iterator[Question]:
    """The targets of a split in its order. Needs the columns ``images`` and ``targets``.

    Images without targets because they failed, or because they have no annotation, are left out; ``skipped`` gets their
    image_id and the reason.
    """
    for record in split:
        if record.status == REMOVED:
            continue
        try:
            targets = table_rows(split, "targets", record.image_index)
        except FailedImageError as error:
            if skipped is not None:
                skipped[record.image_id] = str(error)
            continue
        for number, target in enumerate(targets):
            yield Question(record.image_id, record.image_index, record.height_px, record.width_px, number, target)


def without_annotation(split: Split) -> set[str]:
    """image_id of each image that has no annotation. Needs the columns ``images`` and ``targets``."""
    commits = [commit for commit in split.column("targets").commits if commit is not None]
    status = [each for commit in commits for each in commit.status]
    return {image_id for image_id, each in zip(split.image_ids, status, strict=True) if each == ABSENT}


def without_questions(split: Split) -> dict[str, str]:
    """The images of a split that have no question: image_id -> why. They failed, were removed or have no annotation.

    Needs the columns ``images`` and ``targets``.
    """
    found: dict[str, str] = {}
    asked = {question.image_id for question in questions(split, found)}
    return {image_id: found.get(image_id, "it has no target") for image_id in split.image_ids if image_id not in asked}


def image_of(name: str, among: Mapping[str, Any]) -> str | None:
    """Which of the images ``among`` a target_id ``IMAGE/NUMBER``, or an image_id itself, names; None: none of them."""
    parent = name.rpartition("/")[0]
    return next((image_id for image_id in (name, parent) if image_id in among), None)


def table_rows(split: Split, column: str, image_index: int) -> list[dict[str, Any]]:
    """The rows of an image in a table: one, or in tables of targets one a target.

    Raises:
        FailedImageError: it has none, as it failed (tables of targets; elsewhere see the row's ``status``).
    """
    source = split.column(column)
    shard, rows = source.rows(image_index)
    return source.table(shard).slice(rows.start, len(rows)).to_pylist()  # type: ignore[no-any-return]


def _is_positive(iou: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Of each row of IoUs with the target's instances [n, G], which may be none."""
    positive: NDArray[np.bool_] = np.any(iou >= POSITIVE_IOU, axis=1)
    return positive


@dataclass(frozen=True)
class Question:
    """A target of an image. ``number``: of the target in its image; ``target``: its row of the table ``targets``."""

    image_id: str
    image_index: int
    height_px: int
    width_px: int
    number: int
    target: Mapping[str, Any]

    @property
    def target_id(self) -> str:
        """Name of the target."""
        return str(self.target["target_id"])

    @property
    def texts(self) -> int:
        """Number of its texts; one that has none is asked once."""
        return max(1, len(self.target["texts"]))

    @property
    def exists(self) -> bool:
        """Something is to be found: it has an instance."""
        return bool(self.target["instances"])


@dataclass(frozen=True)
class Offered:
    """The candidates of a question.

    index: int64 [n], numbers of masks, -1 - j of instance j. segmentation: COCO RLE counts of each. positive: bool [n],
    its IoU with one of the target's instances is at least ``POSITIVE_IOU``. truth: bool [n], it is one of these instances.
    """

    index: NDArray[np.int64]
    segmentation: tuple[str, ...]
    positive: NDArray[np.bool_]
    truth: NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """One text of a question in a split. ``view``: which candidates it is answered with."""

    split: Split
    question: Question
    text_index: int
    view: Candidates

    @cached_property
    def offered(self) -> Offered:
        """Its candidates: none where the image's masks failed.

        Needs the columns ``OF_CHOICES``.
        """
        rows = [table_rows(self.split, name, self.question.image_index)[0] for name in OF_CHOICES]
        if any(row["status"] != OK for row in rows):
            return Offered(np.empty(0, np.int64), (), np.empty(0, bool), np.empty(0, bool))
        masks, instances, match = rows
        of_masks, of_instances = masks["segmentation"], instances["segmentation"]
        asked = list(self.question.target["instances"])
        iou = np.array(match["iou"], np.float32).reshape(len(of_masks), len(of_instances))
        among, _ = among_instances(of_instances) if self.view.with_gt else (iou[:0], None)
        chosen = self.view.choose(len(of_masks), list(iou), len(of_instances))
        near = chosen.take(_is_positive(iou[:, asked]), _is_positive(among[:, asked]))
        truth = np.isin(chosen.index, [-1 - j for j in asked])
        return Offered(chosen.index, tuple(chosen.take(of_masks, of_instances)), near, truth)

    @cached_property
    def instances(self) -> tuple[str, ...]:
        """COCO RLE counts of the target's instances. Needs the column ``instances``."""
        (row,) = table_rows(self.split, "instances", self.question.image_index)
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
