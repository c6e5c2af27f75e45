"""The figures of one prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from stages.evaluate.cases import OF_CHOICES, Case, Question
from stages.evaluate.metrics import Selection, selection
from stages.evaluate.released_elisa import elisa_areas
from stages.evaluate.shared_pixels import SharedPixels, shared_pixels
from stages.predictions import Prediction, PredictionError
from store import Split, rle
from store.errors import RleError
from store.stream.candidates import instance_of

Row = dict[str, float]
"""Fields of ``metrics.Samples``; those that are not there are NaN."""


def measure(case: Case, prediction: Prediction) -> Row:
    """The figures of one prediction, without those of ELISA's released segmentation (:func:`measure_as_elisa`).

    Raises:
        PredictionError: its mask is malformed or not of the image's size, it chose something that is not a candidate, or it is
            rejected and has a mask.
    """
    question, target = case.question, case.question.target
    guess = prediction.segmentation
    if guess is None:
        guess = rle.union([], question.height_px, question.width_px)
    with framed(question):
        compared = shared_pixels(target["segmentation"], guess, target["ignore"], question.height_px, question.width_px)
    prediction.require_one_answer()
    row = {"empty": float(prediction.is_empty), **_figures(compared)}
    if prediction.rejected is not None:
        row["rejected"] = float(prediction.rejected)
    if prediction.chosen is None or not has_choices(case.split):
        return row
    offered = case.offered
    if unknown := set(prediction.chosen) - set(offered.index.tolist()):
        raise PredictionError(
            f"{question.target_id}: chose {unknown.pop()}, which is not among the {len(offered.index)} candidates of "
            f"{question.image_id!r} (number of a mask, -1 - j for instance j)"
        )
    if question.exists:
        row |= selection(prediction.chosen, offered.index, offered.positive)._asdict()
        if counts_for_elisa(case):
            row |= of_elisa(selection(prediction.chosen, offered.index, offered.truth))
    return row


def measure_as_elisa(case: Case, prediction: Prediction) -> Row:
    """ELISA's released segmentation figures.

    The masks of an answer are its choices if their union is the answer, else the answer itself.
    """
    question = case.question
    if not case.split.has("instances") or (prediction.chosen and not has_choices(case.split)):
        return {}
    size = question.height_px, question.width_px
    guesses = [] if prediction.segmentation is None else [prediction.segmentation]
    if prediction.chosen:
        counts = case.offered.by_number
        chosen = [counts[number] for number in prediction.chosen]
        guesses = chosen if rle.union(chosen, *size) == rle.union(guesses, *size) else guesses
    return elisa_areas(case.instances, guesses, *size)._asdict()


def has_choices(split: Split) -> bool:
    """Whether choices among candidates can be scored."""
    return all(split.has(name) for name in OF_CHOICES)


def counts_for_elisa(case: Case) -> bool:
    """Whether a target counts in ELISA's P, R and F1: instances are candidates, the target has one, and there are proposals."""
    return (
        case.view.with_gt
        and bool(case.offered.truth.any())
        and any(instance_of(number) is None for number in case.offered.by_number)
    )


def of_elisa(found: Selection) -> Row:
    """The figures of a choice under ELISA's names."""
    return {f"elisa_{name}": figure for name, figure in found._asdict().items()}


@contextmanager
def framed(question: Question) -> Iterator[None]:
    """Make the error about a mask that does not fit name the question and the expected frame."""
    try:
        yield
    except RleError as error:
        raise PredictionError(
            f"{question.target_id}: segmentation: {error}; expected the frame of {question.image_id!r}, "
            f"{question.height_px} x {question.width_px} px"
        ) from error


def _figures(compared: SharedPixels) -> Row:
    figures = {name: float(figure) for name, figure in asdict(compared).items() if name != "hull_px"}
    return {**figures, "iou": compared.iou, "giou_hull": compared.giou_hull}
