"""Puts questions to trained runs, one at a time. The model that was asked last stays in memory."""

from __future__ import annotations

from typing import Any

from pipeline.asking import Answer, TrainedSystem, checked
from pipeline.browse.answers import answer_iou
from pipeline.browse.image import rows_of
from pipeline.browse.jobs import Advance, Jobs
from pipeline.browse.shelf import Shown, UnknownError
from pipeline.config import Settings
from store.outlines import outline


class Asker:
    """Answers questions about stored images. Threads may share it: while it works for one, others are refused."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs = Jobs(threads=1, queue=False)
        self._system: TrainedSystem | None = None

    def ask(self, shown: Shown, run: str, image_index: int, question: str, phrase: bool) -> dict[str, Any]:
        """A run's answer to a question about an image, with its masks as outlines.

        Args:
            question: of any kind; one that the store asks about the image is asked as it stands there. phrase: it is a noun phrase.

        Raises:
            UnknownError: the params do not name the split.
            InputError: there is no such run, or the question or the image cannot be used.
            NotYetError, BusyError: it is not answered yet; another question is being answered.
            StoreError, WeightsError: what is needed to answer is not there.
        """
        question, image = checked(question), self._image(shown, image_index)
        system = TrainedSystem(self._settings, None, run)

        def work(advance: Advance) -> Answer:
            (answer,) = self._kept(system).answers(image, [question], phrase)
            return answer

        key = (shown.number, "ask", _key(system), image_index, question, phrase)
        answer = self._jobs.result(key, f"a question to {run}", work)
        return {
            "run": run,
            "question": question,
            "answer": answer.text,
            "rejected": answer.rejected,
            "area": answer.area_px,
            "d": outline(answer.segmentation, answer.height_px) if answer.segmentation else "",
            "proposer": system.proposer,
            "chosen": None if answer.chosen is None else list(answer.chosen),
            "iou": _iou(shown, image_index, answer),
        }

    def words(self, shown: Shown, run: str, image_index: int) -> dict[str, Any]:
        """For each mask of an image that a run is offered, the nearest words of its language model, with their cosines.

        Raises:
            UnknownError, InputError, NotYetError, BusyError, StoreError, WeightsError: as :meth:`ask`.
        """
        image = self._image(shown, image_index)
        system = TrainedSystem(self._settings, None, run)
        key = (shown.number, "words", _key(system), image_index)
        found = self._jobs.result(key, f"the words of {run}", lambda advance: self._kept(system).words(image))
        return {"proposer": system.proposer, "words": found}

    def close(self) -> None:
        """Finish the work in progress; begin nothing else."""
        self._jobs.close()

    def _image(self, shown: Shown, image_index: int) -> str:
        """The image as ``ask`` names it. No part of it comes from an address."""
        if shown.ref not in self._settings.splits:
            raise UnknownError(
                f"section data of the params does not name {shown.name}, so no run can be asked about it"
            )
        (row,) = shown.opened.columns["images"].table_rows(image_index)
        return f"{shown.ref}/{row['image_id']}"

    def _kept(self, system: TrainedSystem) -> TrainedSystem:
        """The system in memory if it is of the same run, trained the same; else this one, which takes its place."""
        if self._system is None or _key(self._system) != _key(system):
            self._system = system  # the other one is freed before this one loads its model: two may not fit
        return self._system


def _key(system: TrainedSystem) -> tuple[str, str]:
    return system.run.name, system.digest


def _iou(shown: Shown, image_index: int, answer: Answer) -> float | None:
    """IoU with the target where the store asks the question; else None."""
    targets = rows_of(shown, "targets", image_index)
    for target in targets if isinstance(targets, list) else ():
        if any(text.strip() == answer.question for text in target["texts"]):
            return round(answer_iou(target["segmentation"], target["ignore"], answer.segmentation), 4)
    return None
