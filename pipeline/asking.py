"""Ask a trained system about stored images and new pictures, from Python: docs/asking.md."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from pipeline.asked import Asked, find_image
from pipeline.config import InputError, Settings
from pipeline.params_file import load_settings
from pipeline.runs import Run, not_trained, resolve, the_trained_one
from pipeline.shard import require_device
from pipeline.trained import open_columns, proposer_of, weights_of
from stages.datasets.words import CONTROL
from stages.names import SplitRef
from stages.train.folder import held
from stages.train.run_digest import run_digest
from stages.train.systems import SYSTEMS
from store import Split, rle
from store.errors import DamagedStoreError, FailedImageError, StoreError

if TYPE_CHECKING:
    from stages.predictions import Prediction
    from stages.train.ask import Question
    from stages.train.elisa.system import Elisa
    from stages.train.system import System

MOST_CHARACTERS = 2000
"""Longest question, in characters."""


def load_system(
    system: str | None = None,
    name: str | None = None,
    params: str | Path = "params.yaml",
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> TrainedSystem:
    """A trained system that can be asked.

    Args:
        system, name: of the run, as ``--system`` and ``--name``; neither: the only run that is trained.
        params, overrides: the params file, and what is changed of it, as ``--params`` and ``--set`` (``section.key=value``).
        device: ``auto``, ``cpu`` or ``cuda``; None: ``run.device`` of the params.

    Raises:
        InputError: there is no such run, or it was trained with other parameters.
    """
    settings = load_settings(Path(params), overrides, {} if device is None else {"--device": device})
    return TrainedSystem(settings, system, name)


@dataclass(frozen=True)
class Answer:
    """What a system answered to one question about an image.

    Args:
        image, question: as they were given.
        text: the answer in words, as the system generated it.
        segmentation: COCO RLE counts of the mask, in the frame of the EXIF-oriented image; None: no mask.
        rejected: the system said that nothing of the kind is there.
        chosen: numbers of the image's masks whose union the mask is -> COCO RLE counts of each; None: the system made a mask of
            its own.
        height_px, width_px: of the image.
        pixels: uint8 [H, W, 3] RGB of the image; None where its file is gone.
    """

    image: str
    question: str
    text: str
    segmentation: str | None
    rejected: bool
    chosen: dict[int, str] | None
    height_px: int
    width_px: int
    pixels: npt.NDArray[np.uint8] | None = field(repr=False, compare=False)

    @property
    def area_px(self) -> int:
        """Pixels of the mask."""
        return 0 if self.segmentation is None else rle.area(self.segmentation)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The mask, bool [height_px, width_px]; all False where no mask answers."""
        size = self.height_px, self.width_px
        return np.zeros(size, bool) if self.segmentation is None else rle.decode(self.segmentation, *size)

    def png(self) -> bytes:
        """A PNG file: the mask, or the masks that were chosen, over the image; at most 640 px long."""
        from stages.report.answered import answer_png

        return answer_png(self.pixels, (self.height_px, self.width_px), self.chosen or {}, self.segmentation)


class TrainedSystem:
    """A trained run that answers questions. Its model is loaded at the first one, and kept.

    Raises:
        InputError: there is no such run, or it was trained with other parameters.
    """

    def __init__(self, settings: Settings, system: str | None = None, name: str | None = None) -> None:
        given = system is not None or name is not None
        self.settings = settings
        self.run: Run = resolve(settings, system, name) if given else the_trained_one(settings)
        found = held(self.run.folder)
        refused = not_trained(settings, self.run, found, ("ask", *self.run.words))
        if refused is not None:
            raise refused
        assert found is not None
        self.digest = run_digest(found.about)
        self.proposer = proposer_of(self.run)
        self._system: System | None = None

    def ask(self, image: str | Path, questions: str | Sequence[str], phrase: bool = False) -> list[Answer]:
        """Answers to questions about an image, each asked by itself.

        Args:
            image: a stored one as ``DATASET/SPLIT/IMAGE_ID``, or the path of a picture, whose masks and embeddings are computed
                once and kept in ``run.cache_dir``.
            questions: one, or several. What the store asks about a stored image is asked as ``evaluate`` does.
            phrase: the questions are noun phrases ("the red mug"), not sentences; LLM-Seg and LISA ask for them in another way.

        Raises:
            InputError: a question or the image cannot be used.
            StoreError: a column of a stored image is not computed, or the image failed in it.
            WeightsError: a checkpoint that a new picture needs is not here.
        """
        asked = [questions] if isinstance(questions, str) else list(questions)
        return list(self.answers(str(image), [checked(each) for each in asked], phrase))

    def answers(self, image: str, questions: Sequence[str], phrase: bool = False) -> Iterator[Answer]:
        """As :meth:`ask`, one answer after the other, of questions that are :func:`checked`."""
        from stages.train.ask import ask

        asked = self._find(image)
        record = asked.split[asked.image_index]
        try:
            system = self._restored(asked)
            ready = [_as_stored(asked, question, phrase) for question in questions]
            for question, found in zip(
                questions, ask(system, asked.split, asked.image_index, ready, asked.mean), strict=True
            ):
                yield self._answer(asked, question, found, record.height_px, record.width_px)
        except FailedImageError as error:
            raise InputError(f"--image: {image} cannot be asked about: {error}") from error
        except ValueError as error:  # a control token of this language model, or not the model it was trained with
            raise InputError(f"ask {self.run.name}: {error}") from error

    def words(self, image: str | Path, count: int = 12) -> dict[int, list[tuple[str, float]]]:
        """The words of the language model that are nearest to each mask, by ELISA's adapter.

        Args:
            image: as in :meth:`ask`. count: words per mask.

        Returns:
            Number of each mask that the system is offered -> words, nearest first, each with the cosine of the two embeddings.

        Raises:
            InputError: the run is of another system, or the image cannot be used. Other errors as in :meth:`ask`.
        """
        from stages.train.ask import words

        if not SYSTEMS[self.run.system].words:
            able = ", ".join(name for name, line in SYSTEMS.items() if line.words)
            raise InputError(
                f"words {self.run.name}: found a run of {self.run.system}, which has no adapter from masks to words; expected a "
                f"run of {able}"
            )
        asked = self._find(str(image))
        try:
            return words(cast("Elisa", self._restored(asked)), asked.split, asked.image_index, count, asked.mean)
        except FailedImageError as error:
            raise InputError(f"--image: {image} has no words: {error}") from error

    def _find(self, image: str) -> Asked:
        from stages.train.ask import columns_of_image

        return find_image(self.settings, self.run, image, columns_of_image(self.run.params, self.run.system))

    def _restored(self, asked: Asked) -> System:
        """The system with its trained weights. Loaded after a first picture's columns were computed: they need memory, too."""
        if self._system is None:
            from stages.train.run import restore

            run, settings = self.run, self.settings
            sizes = self._any_split(SplitRef(asked.split.dataset, asked.split.split))
            device, weights = require_device(settings), weights_of(settings)
            self._system = restore(run.params, run.system, sizes, run.folder, device, weights)
        return self._system

    def _any_split(self, first: SplitRef) -> Split:
        """A split with all columns of a training, which gives the sizes of the system: the image's, one it was trained on, or any.

        The store of a single picture, and a data set without annotations, lack some of these columns.
        """
        settings, errors = self.settings, list[StoreError]()
        for split in dict.fromkeys([first, *map(SplitRef.of, self.run.params.splits), *settings.splits]):
            if split in settings.splits:
                try:
                    return open_columns(settings, self.run, split)
                except DamagedStoreError:
                    raise
                except StoreError as error:
                    errors.append(error)
        raise errors[0]

    def _answer(self, asked: Asked, question: str, found: Prediction, height_px: int, width_px: int) -> Answer:
        chosen = None
        if found.chosen is not None:
            (row,) = asked.split[asked.image_index].rows("masks")
            chosen = {number: row["segmentation"][number] for number in found.chosen}
        segmentation = None if found.is_empty else found.segmentation
        size = height_px, width_px
        return Answer(
            asked.name, question, found.answer, segmentation, bool(found.rejected), chosen, *size, asked.pixels
        )


def checked(question: str) -> str:
    """The question without space around it.

    Raises:
        InputError: it is empty, too long, of several lines, or has a control character or token.
    """
    text = question.strip()
    said = f"question {question[:80]!r}"
    if not text:
        raise InputError(f"{said}: found no word in it, expected a question in one line")
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{said}...: found {len(text)} characters, expected at most {MOST_CHARACTERS}")
    if wrong := next((letter for letter in text if unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp")), ""):
        raise InputError(f"{said}: found the control character {wrong!r}, expected text in one line")
    if token := CONTROL.search(text):
        raise InputError(
            f"{said}: found {token.group()!r}, which steers a language model instead of being read; leave it out"
        )
    return text


def _as_stored(asked: Asked, text: str, phrase: bool) -> Question:
    """The question; if the store asks it about the image, with the kind and the form (sentence or phrase) that it has there."""
    from stages.train.ask import Question

    for target in asked.targets:
        for stored in target["texts"]:
            if stored.strip() == text:
                return Question(stored, bool(target["is_sentence"]) and not phrase, target["kind"])
    return Question(text, not phrase)
