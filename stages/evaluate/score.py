"""Scores predictions and baselines on a split: one pass, a record at a time."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from stages.evaluate.baselines import ANALYTIC, BASELINES, union_iou_upper_bound
from stages.evaluate.cases import CANDIDATES, Case, Question, questions
from stages.evaluate.metrics import Samples, Selection, selection
from stages.evaluate.overlap import Overlap, overlap
from stages.evaluate.predictions import Prediction, PredictionError
from stages.progress import tracked
from store import Split, rle
from store.errors import RleError

MISSING = ("error", "empty")
UPPER_BOUND = "upper bound of any union"
BASELINE_NAMES = (*BASELINES, *ANALYTIC, UPPER_BOUND)
"""All baselines, in the order of tables."""

_FIELDS = tuple(field.name for field in fields(Samples))

Row = dict[str, float]
"""Fields of ``Samples``; those that are not there are NaN."""


def score(
    split: Split,
    predictions: Iterable[Prediction],
    *,
    system: str = "predictions",
    setting: str = "proposals",
    top_k: int | None = None,
    missing: str = "error",
    baselines: Iterable[str] = (),
    beside: Mapping[str, Sequence[Prediction]] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """Score predictions, and baselines on the same questions.

    The first text of every target is asked (as LISA's validation does), or every text if there is a prediction for another
    than a first one.

    Args:
        split: with the columns ``images`` and ``targets``; to score choices or baselines also ``masks``, ``instances`` and
            ``match/instances``.
        system: what to call the predictions.
        setting: the candidates, ``proposals`` or ``proposals+gt``.
        top_k: the largest so many masks of an image are candidates (those that were embedded); default: all.
        missing: ``error``, or ``empty``: a question without prediction counts as rejected.
        baselines: some of ``BASELINE_NAMES``.
        beside: name -> further predictions for the same questions.
        seed: of the random baselines.
        progress: show a bar where stderr is a terminal.

    Raises:
        PredictionError: predictions are of unknown questions, come twice, are missing, do not fit their image or choose
            what is no candidate.
        ValueError: an unknown name of an option.
    """
    names = list(baselines)
    for option, found, choices in (
        ("missing", [missing], MISSING),
        ("setting", [setting], tuple(CANDIDATES)),
        ("baselines", names, BASELINE_NAMES),
    ):
        if unknown := set(found) - set(choices):
            raise ValueError(f"{option}: found {unknown.pop()!r}, expected {', '.join(choices)}")
    answers = {system: list(predictions), **(beside or {})}
    if taken := set(answers) & set(names):
        raise ValueError(f"system: found {taken.pop()!r}, which is the name of a baseline; expected another")
    skipped: dict[str, str] = {}
    every_text = any(prediction.text_index for given in answers.values() for prediction in given)
    asked = [key for question in questions(split, skipped) for key in _keys(question, every_text)]
    by_key = {name: _by_key(given, asked) for name, given in answers.items()}
    lacking = [key for found in by_key.values() for key in asked if key not in found]
    if lacking and missing == "error":
        first = ", ".join(f"{target} (text {text})" for target, text in lacking[:5])
        raise PredictionError(
            f"{len(lacking)} of {len(asked)} predictions are missing, first {first}; predict them, or score them as empty "
            "ones with missing='empty'"
        )
    view = replace(CANDIDATES[setting], top_k=top_k)
    systems: dict[str, Callable[[Case], Row]] = {name: partial(_answered, found) for name, found in by_key.items()}
    systems |= {name: _baseline(name, seed) for name in names}
    rows = {name: array("d") for name in systems}
    cases = _cases(split, every_text, view)
    for case in tracked(cases, "evaluate", len(asked), "text") if progress else cases:
        about = {
            "image_index": case.question.image_index,
            "exists": case.question.exists,
            "is_sentence": bool(case.question.target["is_sentence"]),
        }
        for name, figures in systems.items():
            row = {**about, **figures(case)}
            rows[name].extend(row.get(field, float("nan")) for field in _FIELDS)
    return Scores({name: _samples(found) for name, found in rows.items()}, tuple(asked), len(lacking), skipped)


def measure(case: Case, prediction: Prediction) -> Row:
    """The figures of one prediction.

    Raises:
        PredictionError: its mask is malformed or not of the image's size, or it chose what is no candidate.
    """
    question, target = case.question, case.question.target
    height_px, width_px = question.height_px, question.width_px
    guess = prediction.segmentation
    if guess is None:
        guess = rle.union([], height_px, width_px)
    try:
        compared = overlap(target["segmentation"], guess, target["ignore"], height_px, width_px)
    except RleError as error:
        raise PredictionError(
            f"{question.target_id}: segmentation: {error}; expected the frame of {question.image_id!r}, {height_px} x "
            f"{width_px} px"
        ) from error
    row = {"rejected": float(prediction.rejected), **_figures(compared)}
    if prediction.chosen is None:
        return row
    offered = case.offered
    if unknown := set(prediction.chosen) - set(offered.index.tolist()):
        raise PredictionError(
            f"{question.target_id}: chose {unknown.pop()}, which is none of the {len(offered.index)} candidates of "
            f"{question.image_id!r} (number of a mask, -1 - j for instance j)"
        )
    if question.exists:
        row |= selection(prediction.chosen, offered.index, offered.positive)._asdict()
    return row


def _figures(compared: Overlap) -> Row:
    figures = {name: float(figure) for name, figure in asdict(compared).items() if name != "hull_px"}
    return {**figures, "iou": compared.iou, "giou_hull": compared.giou_hull}


def _keys(question: Question, every_text: bool) -> Iterator[tuple[str, int]]:
    return ((question.target_id, text) for text in range(question.texts if every_text else 1))


def _cases(split: Split, every_text: bool, view: Any) -> Iterator[Case]:
    for question in questions(split):
        for _, text_index in _keys(question, every_text):
            yield Case(split, question, text_index, view)


def _by_key(given: Sequence[Prediction], asked: list[tuple[str, int]]) -> dict[tuple[str, int], Prediction]:
    by_key = {(prediction.target_id, prediction.text_index): prediction for prediction in given}
    if len(by_key) < len(given):
        seen: set[tuple[str, int]] = set()
        for prediction in given:
            key = (prediction.target_id, prediction.text_index)
            if key in seen:
                raise PredictionError(f"found two predictions for target {key[0]!r}, text {key[1]}; expected one")
            seen.add(key)
    if unknown := sorted(set(by_key) - set(asked)):
        raise PredictionError(
            f"{len(unknown)} predictions are for no question of the split, first target {unknown[0][0]!r}, text "
            f"{unknown[0][1]}; its {len(asked)} questions begin with {asked[:1]}"
        )
    return by_key


def _answered(by_key: Mapping[tuple[str, int], Prediction], case: Case) -> Row:
    key = (case.question.target_id, case.text_index)
    return measure(case, by_key[key] if key in by_key else Prediction(*key, None, rejected=True))


def _baseline(name: str, seed: int) -> Callable[[Case], Row]:
    if name in BASELINES:
        return lambda case: measure(case, BASELINES[name](case, seed))
    return _upper_bound if name == UPPER_BOUND else lambda case: _analytic(ANALYTIC[name], case)


def _analytic(expected: Callable[[int, int], Selection], case: Case) -> Row:
    positives = int(case.offered.positive.sum())
    return expected(positives, len(case.offered.index) - positives)._asdict() if case.question.exists else {}


def _upper_bound(case: Case) -> Row:
    # Nothing to be found: the empty prediction is right.
    return {"iou": union_iou_upper_bound(*case.regions) if case.regions[1].any() else 1.0}


def _samples(rows: array[float]) -> Samples:
    columns = np.array(rows, np.float64).reshape(-1, len(_FIELDS)).T
    kinds = {"image_index": np.int64, "exists": np.bool_, "is_sentence": np.bool_}
    return Samples(
        **{name: column.astype(kinds.get(name, np.float64)) for name, column in zip(_FIELDS, columns, strict=True)}
    )


@dataclass(frozen=True)
class Scores:
    """The samples of each system, in the split's order.

    asked: target_id and text_index of each sample. missing: questions without prediction, scored as empty. skipped: image_id ->
    why the image has no questions.
    """

    systems: Mapping[str, Samples]
    asked: tuple[tuple[str, int], ...]
    missing: int
    skipped: Mapping[str, str]
