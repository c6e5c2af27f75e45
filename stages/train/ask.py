"""Asks a trained system any question about one image, in the way that ``evaluate`` asks the questions of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stages.center import center
from stages.predictions import Prediction
from stages.train.controls import blanked
from stages.train.params import TrainParams
from stages.train.questions import control_tokens
from stages.train.run import system_class
from stages.train.system import ALWAYS, System
from store.format.schema import TABLES
from store.split import Split
from store.torch import to_tensors

if TYPE_CHECKING:
    from stages.train.elisa.system import Elisa

OF_QUESTION = "targets."
"""Prefix of the batch's fields that come from a table of questions; here the question itself provides them."""
CENTERED = "centered/"
ASKED = "asked"
"""Kind of a question that no data set asks."""


@dataclass(frozen=True)
class Question:
    """A question. is_sentence, kind: as in the table ``targets``; a noun phrase is put into the system's template for phrases."""

    text: str
    is_sentence: bool = True
    kind: str = ASKED


def columns_of_image(params: TrainParams, system: str) -> set[str]:
    """The columns that an answer is made from, which all belong to the image; ``targets`` is not among them."""
    names = _of_image(system_class(system).columns(params, training=False)).values()
    return {name.rpartition(".")[0] if name.rpartition(".")[0] in TABLES else name for name in names}


def uncentered(column: str) -> str:
    """``mask_embeddings/NAME`` of ``centered/<mean>/mask_embeddings/NAME``; any other name as it is."""
    return column.split("/", 2)[2] if column.startswith(CENTERED) else column


def ask(
    system: System,
    split: Split,
    image_index: int,
    questions: Sequence[Question],
    mean: npt.NDArray[np.float64] | None = None,
) -> Iterator[Prediction]:
    """The generated answer to each question about an image, in order; ``target_id`` of each is empty.

    Each is asked by itself, so that no answer depends on the other questions.

    Args:
        split: open with :func:`columns_of_image`; if ``mean`` is given, with embeddings that are not centred instead.
        mean: float64 [D], subtracted from these as stage ``center`` does.

    Raises:
        FailedImageError: the image failed in a column that is read.
        ValueError: a question holds a control token of the language model, or a centred vector is not finite.
    """
    control = control_tokens(system.tokenizer)
    for question in questions:
        if found := control.search(question.text):
            raise ValueError(
                f"the question {question.text!r} holds {found.group()!r}, a control token of the language model"
            )
    of_image = _batch(system, split, image_index, mean)
    for question in questions:
        of_question = {
            "id": [""],
            "texts": [[question.text]],
            "is_sentence": [question.is_sentence],
            "kind": [question.kind],
        }
        (answer,) = system.predict(blanked({**of_image, **of_question}, system.params.without))
        yield answer


def words(
    system: Elisa, split: Split, image_index: int, count: int, mean: npt.NDArray[np.float64] | None = None
) -> dict[int, list[tuple[str, float]]]:
    """The words of the language model that are nearest to each of an image's candidate masks.

    Args:
        split, mean: as in :func:`ask`. count: words per mask.

    Returns:
        Number of the mask -> words with their cosines, nearest first.

    Raises:
        FailedImageError: the image failed in a column that is read.
    """
    return system.nearest_words(_batch(system, split, image_index, mean), count)


def _batch(system: System, split: Split, image_index: int, mean: npt.NDArray[np.float64] | None) -> dict[str, Any]:
    """The batch of one image from which a question is answered, without the question."""
    names = _of_image(system.columns(system.params, training=False))
    wanted = names if mean is None else {key: uncentered(name) for key, name in names.items()}
    batch = split.batch([image_index], wanted, candidates=system.candidates(system.params, training=False))
    for key, name in names.items():
        if mean is not None and name.startswith(CENTERED):
            batch[key] = _centered(batch[key], mean)
    return to_tensors(batch)


def _of_image(columns: dict[str, str]) -> dict[str, str]:
    return {key: name for key, name in {**ALWAYS, **columns}.items() if not name.startswith(OF_QUESTION)}


def _centered(vectors: npt.NDArray[np.float16], mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
    """Vectors [1, K, D] minus the mean, rounded once; rows of padding are zero and stay so."""
    with np.errstate(over="ignore"):
        found = center(vectors[0], mean).astype(vectors.dtype)[None]
    if not np.isfinite(found).all():
        raise ValueError(f"a vector minus the train mean is not finite in {vectors.dtype}")
    return found
