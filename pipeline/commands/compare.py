"""Compares runs and predictions on the questions that all of them have answered: differences of figures, what won and lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.commands.compare_notes import notes_on
from pipeline.commands.compare_runs import Side, shared_splits, sides, there_are
from pipeline.commands.evaluate import RESAMPLES, SEED
from pipeline.commands.evaluate_input import load_predictions, open_for_choices, proposer_of
from pipeline.config import InputError, Settings
from stages.evaluate.bootstrap import F64
from stages.evaluate.cases import Question, questions
from stages.evaluate.metrics import METRICS
from stages.evaluate.paired import Changes, Difference, by_group, changes, differences, iou_of
from stages.evaluate.protocol_figures import figures_of
from stages.evaluate.score import score
from stages.names import SplitRef
from stages.predictions import Meta, Prediction, PredictionError
from stages.report.choose import Key
from stages.report.shown import Answers
from store import Split


def compare_command(
    settings: Settings,
    words: Sequence[str],
    among: Sequence[SplitRef],
    protocol: str | None = None,
    threshold: int | None = None,
) -> list[Comparison]:
    """Compare the first of several runs with each of the others, on every split that all have answered.

    Args:
        words: names of runs, of kept predictions, or files of predictions.
        among: the splits to look at.
        protocol: as :func:`pipeline.commands.evaluate.evaluate_command`.
        threshold: grey values of PNGs from here on are the mask.

    Raises:
        InputError: a run is not trained or has answered nothing that the others have, predictions are malformed, or no question
            is shared; says what to type.
        StoreError: a split is not in the store, or unfinished.
    """
    found = sides(settings, words)
    if len(found) < 2:
        raise InputError(
            f"compare: found {len(found)} run{'' if len(found) == 1 else 's'}, expected two or more; {there_are(settings)}"
        )
    if threshold is not None and not any(one.path is not None and one.path.is_dir() for one in found):
        raise InputError(
            "compare: found --threshold, which is for a folder of PNGs, and no such folder among the runs; leave it out"
        )
    splits, partly = shared_splits(settings, found, among)
    try:
        each = [compared(settings, found, split, protocol, threshold) for split in splits]
    except PredictionError as error:
        raise InputError(f"compare: {error}") from error
    for line in partly:
        each[0].notes.append(f"Left out: {line}")
    return each


def compared(
    settings: Settings,
    found: Sequence[Side],
    split: SplitRef,
    protocol: str | None = None,
    threshold: int | None = None,
) -> Comparison:
    """Score one or several systems on the questions of a split that all have answered.

    Raises:
        PredictionError: predictions are malformed; else as :func:`compare_command`.
    """
    loaded: dict[str, tuple[Split, Meta, list[Prediction]]] = {}
    for one in found:
        path = one.answers(split)
        opened, _ = open_for_choices(settings, split, proposer_of(settings, (path,)))
        of_folder = threshold if path.is_dir() else None  # other files have no grey values
        loaded[one.name] = (opened, *load_predictions(path, opened, split, of_folder, protocol))
    first = next(iter(loaded.values()))[0]
    every = any(prediction.text_index for _, _, given in loaded.values() for prediction in given)
    asked = {question.target_id: question for question in questions(first)}
    keys = {(name, text) for name, question in asked.items() for text in range(question.texts if every else 1)}
    answered = {
        name: {(one.target_id, one.text_index) for one in given} & keys for name, (_, _, given) in loaded.items()
    }
    shared = set.intersection(*answered.values())
    if not shared:
        told = "; ".join(
            f"{name} has answered {len(own)} of its {len(keys)} questions" for name, own in answered.items()
        )
        raise InputError(f"compare: there is no question of {split} that all of them have answered: {told}")
    systems: dict[str, Answers] = {}
    order: tuple[Key, ...] = ()
    kinds: tuple[str, ...] = ()
    for name, (opened, meta, given) in loaded.items():
        own = [one for one in given if (one.target_id, one.text_index) in shared]
        scores = score(
            opened,
            own,
            system=name,
            setting=meta.setting,
            top_k=settings.embed.max_masks,
            missing="empty",
            protocol=protocol,
            texts="every" if every else "first",
            progress=True,
        )
        rows = np.array([key in shared for key in scores.asked])
        samples = scores.systems[name].where(rows)
        order, kinds = tuple(key for key in scores.asked if key in shared), scores.kinds
        iou = dict(zip(order, iou_of(samples, protocol).tolist(), strict=True))
        by_key = {(one.target_id, one.text_index): one for one in own}
        systems[name] = Answers(meta, by_key, iou, samples, 0, opened)
    counts = {name: (len(answered[name]), len(given) - len(answered[name])) for name, (_, _, given) in loaded.items()}
    notes = notes_on(
        settings, split, found, {name: one[1] for name, one in loaded.items()}, counts, len(shared), len(keys)
    )
    return Comparison(split, protocol, every, tuple(found), systems, order, kinds, asked, notes)


@dataclass(frozen=True)
class Comparison:
    """Systems on the questions of a split that all have answered, in its order.

    Args:
        every: every text of a target is asked, not only the first.
        sides: what was named, the first first.
        systems: name -> answers to these questions, and their figures.
        keys: the questions.
        kinds: names, numbered by ``Samples.kind``.
        questions: target_id -> question, of the whole split.
        notes: how the systems, and what they were asked and answered, differ.
    """

    split: SplitRef
    protocol: str | None
    every: bool
    sides: tuple[Side, ...]
    systems: Mapping[str, Answers]
    keys: tuple[Key, ...]
    kinds: tuple[str, ...]
    questions: Mapping[str, Question]
    notes: list[str]

    @property
    def first(self) -> str:
        """Name of the system that the others are compared with."""
        return next(iter(self.systems))

    @property
    def others(self) -> list[str]:
        """Names of the others."""
        return list(self.systems)[1:]

    @property
    def images(self) -> int:
        """How many images the questions are about."""
        return len(set(self.systems[self.first].samples.image_index.tolist()))

    @cached_property
    def differences(self) -> dict[str, dict[str, Difference]]:
        """Name of another system -> figure -> difference from the first."""
        figures = METRICS if self.protocol is None else figures_of(self.protocol)
        first = self.systems[self.first].samples
        return {name: differences(first, self.systems[name].samples, figures, RESAMPLES, SEED) for name in self.others}

    @cached_property
    def groups(self) -> dict[str, dict[str, dict[str, dict[str, Difference]]]]:
        """Name of another system -> what questions are grouped by -> group -> figure -> difference."""
        first, how = self.systems[self.first].samples, (self.kinds, RESAMPLES, SEED, self.protocol)
        return {name: by_group(first, self.systems[name].samples, *how) for name in self.others}

    @cached_property
    def changes(self) -> dict[str, Changes]:
        """Name of another system -> which questions it won and lost against the first."""
        iou = {name: iou_of(answers.samples, self.protocol) for name, answers in self.systems.items()}
        return {name: changes(iou[self.first], iou[name]) for name in self.others}

    @cached_property
    def spread(self) -> F64:
        """The highest IoU of a question minus its lowest, [n]; 0 for a question without IoU."""
        iou = np.stack([iou_of(answers.samples, self.protocol) for answers in self.systems.values()])
        spread: F64 = np.nan_to_num(iou.max(axis=0) - iou.min(axis=0))
        return spread

    def text(self, key: Key) -> str:
        """What is asked."""
        texts = self.questions[key[0]].target["texts"]
        return str(texts[key[1]]) if texts else ""
