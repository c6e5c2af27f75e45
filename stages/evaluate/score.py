"""Scoring of predictions and baselines on a split, in one pass, one record at a time."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np

from stages.evaluate.baselines import ANALYTIC, BASELINES, union_iou_upper_bound
from stages.evaluate.cases import CANDIDATES, Case, Question, image_of, questions, without_questions
from stages.evaluate.measure import Row, counts_for_elisa, framed, measure, measure_as_elisa, of_elisa
from stages.evaluate.metrics import Samples, Selection
from stages.evaluate.protocols import PROTOCOLS
from stages.predictions import TEXTS, Prediction, PredictionError
from stages.progress import tracked
from store import Split, rle

MISSING = ("error", "empty")
UPPER_BOUND = "upper bound of any union"
BASELINE_NAMES = (*BASELINES, *ANALYTIC, UPPER_BOUND)
"""All baselines, in the order of tables."""

_FIELDS = tuple(field.name for field in fields(Samples))


def score(
    split: Split,
    predictions: Iterable[Prediction],
    *,
    system: str = "predictions",
    setting: str = "proposals",
    top_k: int | None = None,
    missing: str = "error",
    baselines: Iterable[str] = (),
    further: Mapping[str, Sequence[Prediction]] | None = None,
    protocol: str | None = None,
    texts: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Scores:
    """Score predictions, and baselines on the same questions.

    The first text of every target is asked (as LISA's validation does), or every text if there is a prediction for a text other
    than the first. Predictions for images without questions (the image failed or has no annotation) are counted, and so are
    predictions for texts that are not asked.

    Args:
        split: with the columns ``images`` and ``targets``; with ``instances`` for ELISA's figures too; with
            ``cases.OF_CHOICES`` to score choices or baselines. Where choices cannot be scored, their figures are left out.
        system: what to call the predictions.
        setting: the candidates, ``proposals`` or ``proposals+gt``.
        top_k: only this many of the largest masks of an image are candidates (those that were embedded); default: all.
        missing: ``error``, or ``empty``: a question without prediction counts as rejected.
        baselines: some of ``BASELINE_NAMES``.
        further: name -> other predictions for the same questions.
        protocol: None, or a name of ``PROTOCOLS``: only the protocol's own figures are computed.
        texts: ``first`` or ``every`` text of each target is asked; None: depends on the predictions, as said above.
        seed: of the random baselines.
        progress: show a bar where stderr is a terminal.

    Raises:
        PredictionError: predictions are for unknown questions, occur twice, are missing, do not fit their image or choose
            something that is not a candidate.
        ValueError: an unknown name of an option, or a name that is taken.
    """
    names = list(baselines)
    for option, found, choices in (
        ("missing", [missing], MISSING),
        ("setting", [setting], tuple(CANDIDATES)),
        ("baselines", names, BASELINE_NAMES),
        ("protocol", [] if protocol is None else [protocol], tuple(PROTOCOLS)),
        ("texts", [] if texts is None else [texts], TEXTS),
    ):
        if unknown := set(found) - set(choices):
            raise ValueError(f"{option}: found {unknown.pop()!r}, expected {', '.join(choices)}")
    others = dict(further or {})
    if taken := {system} & {*names, *others} or set(others) & set(names):
        raise ValueError(
            f"system: found {taken.pop()!r}, which is the name of a baseline or of another system; expected another"
        )
    skipped: dict[str, str] = {}
    answers = {system: list(predictions), **others}
    every_text = texts == "every"
    if texts is None:
        every_text = any(prediction.text_index for given in answers.values() for prediction in given)
    of_all = sum(len(given) for given in answers.values())
    if texts == "first":
        answers = {name: [one for one in given if not one.text_index] for name, given in answers.items()}
    aside = of_all - sum(len(given) for given in answers.values())
    asked = [key for question in questions(split, skipped) for key in _keys(question, every_text)]
    silent, unasked = without_questions(split), dict[str, int]()
    by_key = {name: _by_key(given, asked, silent, unasked) for name, given in answers.items()}
    lacking = [key for found in by_key.values() for key in asked if key not in found]
    if lacking and missing == "error":
        first = ", ".join(f"{target} (text {text})" for target, text in lacking[:5])
        every = "; every text of a target is asked" if texts == "every" and all(text for _, text in lacking) else ""
        raise PredictionError(
            f"{len(lacking)} of {len(asked)} predictions are missing, first {first}{every}; predict them, or score them as empty "
            "ones: missing='empty', on the command line --missing empty"
        )
    view = replace(CANDIDATES[setting], top_k=top_k)
    rule = _rule(split, protocol)
    systems: dict[str, Callable[[Case], Row]] = {
        name: partial(_answered, found, rule) for name, found in by_key.items()
    }
    systems |= {name: _baseline(name, seed, protocol, rule) for name in names}
    rows = {name: array("d") for name in systems}
    cases = _cases(split, every_text, view)
    kinds: dict[str, int] = {}
    refs, drawn_nowhere = _Refs(), set()
    for case in tracked(cases, "evaluate", len(asked), "text") if progress else cases:
        question = case.question
        area_px = rle.area(question.target["segmentation"])
        about = {
            "image_index": question.image_index,
            "exists": question.exists,
            "is_sentence": bool(question.target["is_sentence"]),
            "area_px": area_px,
            "instances": len(question.target["instances"]),
            "kind": kinds.setdefault(str(question.target["kind"]), len(kinds)),
            "ref": refs.number(question),
        }
        if not (question.absent or area_px):
            drawn_nowhere.add(question.target_id)
        for name, figures in systems.items():
            row = {**about, **figures(case)}
            rows[name].extend(row.get(field, float("nan")) for field in _FIELDS)
    samples = {name: _samples(found) for name, found in rows.items()}
    return Scores(samples, tuple(asked), len(lacking), skipped, unasked, tuple(kinds), aside, frozenset(drawn_nowhere))


def _rule(split: Split, protocol: str | None) -> Callable[[Case, Prediction], Row]:
    """The function that scores a prediction."""
    if protocol is None:
        return measure
    figures = PROTOCOLS[protocol].score

    def by_protocol(case: Case, prediction: Prediction) -> Row:
        with framed(case.question):
            return figures(case.question, prediction, split.dataset)

    return by_protocol


def _keys(question: Question, every_text: bool) -> Iterator[tuple[str, int]]:
    return ((question.target_id, text) for text in range(question.texts if every_text else 1))


def _cases(split: Split, every_text: bool, view: Any) -> Iterator[Case]:
    for question in questions(split):
        for _, text_index in _keys(question, every_text):
            yield Case(split, question, text_index, view)


def _by_key(
    given: Sequence[Prediction], asked: list[tuple[str, int]], silent: Mapping[str, str], unasked: dict[str, int]
) -> dict[tuple[str, int], Prediction]:
    """Predictions by question; those for images that are ``silent`` are counted in ``unasked``, by image_id."""
    by_key: dict[tuple[str, int], Prediction] = {}
    known = set(asked)
    for prediction in given:
        key = (prediction.target_id, prediction.text_index)
        if key in by_key:
            raise PredictionError(f"found two predictions for target {key[0]!r}, text {key[1]}; expected one")
        image_id = None if key in known else image_of(prediction.target_id, silent)
        if image_id is None:
            by_key[key] = prediction
        else:
            unasked[image_id] = unasked.get(image_id, 0) + 1
    if unknown := sorted(set(by_key) - known):
        raise PredictionError(
            f"{len(unknown)} predictions are for no question of the split, first target {unknown[0][0]!r}, text "
            f"{unknown[0][1]}; its {len(asked)} questions begin with {asked[:1]}"
        )
    return by_key


def _answered(by_key: Mapping[tuple[str, int], Prediction], rule: Callable[[Case, Prediction], Row], case: Case) -> Row:
    key = (case.question.target_id, case.text_index)
    prediction = by_key[key] if key in by_key else Prediction(*key, None, rejected=True)
    return {**rule(case, prediction), **(measure_as_elisa(case, prediction) if rule is measure else {})}


def _baseline(
    name: str, seed: int, protocol: str | None, rule: Callable[[Case, Prediction], Row]
) -> Callable[[Case], Row]:
    if name in BASELINES:
        return lambda case: rule(case, BASELINES[name](case, seed))
    if protocol is not None:
        return lambda case: {}  # it answers with no mask
    return _upper_bound if name == UPPER_BOUND else lambda case: _analytic(ANALYTIC[name], case)


def _analytic(expected: Callable[[int, int], Selection], case: Case) -> Row:
    if not case.question.exists:
        return {}
    count, right, truths = len(case.offered.index), int(case.offered.positive.sum()), int(case.offered.truth.sum())
    row: Row = expected(right, count - right)._asdict()
    return {**row, **(of_elisa(expected(truths, count - truths)) if counts_for_elisa(case) else {})}


def _upper_bound(case: Case) -> Row:
    # There is nothing to find, so the empty prediction is right.
    return {"iou": union_iou_upper_bound(*case.regions) if case.regions[1].any() else 1.0}


def _samples(rows: array[float]) -> Samples:
    columns = np.array(rows, np.float64).reshape(-1, len(_FIELDS)).T
    kinds = {"image_index": np.int64, "exists": np.bool_, "is_sentence": np.bool_}
    named: dict[str, Any] = {
        name: column.astype(kinds.get(name, np.float64)) for name, column in zip(_FIELDS, columns, strict=True)
    }
    if not (named["rejected"] == 1).any():  # the system has no word for rejecting, or it is not known here
        named["rejected"][:] = np.nan
    return Samples(**named)


@dataclass(frozen=True)
class Scores:
    """The samples of each system, in the split's order.

    asked: target_id and text_index of each sample. missing: number of questions without a prediction, scored as empty. skipped:
    image_id -> why the image has no questions. unasked: image_id -> number of predictions for an image without questions, which
    are not scored. kinds: names, numbered by ``Samples.kind``. aside: number of predictions for texts that are not asked.
    drawn_nowhere: target_id of targets without a pixel that are not absent.
    """

    systems: Mapping[str, Samples]
    asked: tuple[tuple[str, int], ...]
    missing: int
    skipped: Mapping[str, str]
    unasked: Mapping[str, int]
    kinds: tuple[str, ...] = ()
    aside: int = 0
    drawn_nowhere: frozenset[str] = frozenset()


@dataclass
class _Refs:
    """Numbers existing targets.

    Absent targets get the number of the existing one before them: they are false sentences of its ref.
    """

    count: int = -1
    target_id: str = ""
    image_id: str = ""

    def number(self, question: Question) -> int:
        """Number of a question; call it for the questions in the order of the split."""
        if question.target_id != self.target_id:
            if question.image_id != self.image_id or not question.absent:
                self.count += 1
            self.target_id, self.image_id = question.target_id, question.image_id
        return self.count
