"""The systems that a page shows: runs that answered a split, others' predictions, and what oracles would reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline.commands.report_runs import Found, current_answers, external_answers
from pipeline.config import Settings
from pipeline.external import external_runs
from pipeline.run_folders import commands
from stages.evaluate.metrics import Samples
from stages.evaluate.score import Scores, score
from stages.names import SplitRef
from stages.predictions import Meta, Prediction, PredictionError
from stages.report.choose import Key
from stages.report.page import Missing
from stages.report.shown import Answers
from stages.train.systems import SYSTEMS
from store import Split

ORACLE = "oracle best mask"
NAMES = {"masks": "proposals", "match/instances": "match with the instances"}


def _scorable(opened: Split) -> bool:
    return all(opened.has(name) for name in NAMES)


def answering_systems(
    settings: Settings, split: SplitRef, runs: Sequence[Found], opened: Split, missing: list[Missing]
) -> dict[str, Answers]:
    """The runs that answered this split, and others' predictions that are kept, scored as ``evaluate`` scores them."""
    systems = {}
    for run in runs:
        if not run.held.finished:
            continue
        found = current_answers(settings, run, opened, split)
        proposer = run.run.params.proposer
        own = opened.of_proposer(proposer) if proposer in opened.proposers else opened
        if isinstance(found, Missing):
            missing.append(found)
        elif not _scorable(own) or (SYSTEMS[run.run.system].chooses and own.proposer != proposer):
            missing.append(
                Missing(run.name, f"its answers cannot be scored without {proposer}'s proposals and their match")
            )
        else:
            try:
                systems[run.name] = _scored(settings, *found, own)
            except PredictionError as error:
                _, command = commands(settings, run.run, run.held, split, run.free)
                missing.append(Missing(run.name, f"its answers do not fit the store: {error}; run: {command}"))
                continue
            missing.extend(_lacking(run.name, systems[run.name]))
    for one in external_runs(settings):
        if str(split) not in one.splits:
            continue
        found = external_answers(settings, one, opened, split)
        if isinstance(found, Missing):
            missing.append(found)
            continue
        try:
            systems[one.name] = _scored(settings, *found, opened)
        except PredictionError as error:
            missing.append(Missing(one.name, f"its predictions do not fit the store: {error}"))
            continue
        missing.extend(_lacking(one.name, systems[one.name]))
    return systems


def _lacking(name: str, answers: Answers) -> Iterator[Missing]:
    """What is said of a system that has not answered every question."""
    if answers.missing:
        yield Missing(name, f"no answers to {answers.missing} questions, which count as refused")


def _scored(settings: Settings, meta: Meta, predictions: Sequence[Prediction], opened: Split) -> Answers:
    scores = score(
        opened,
        predictions,
        system="answers",
        setting=meta.setting,
        top_k=settings.embed.max_masks,
        missing="empty",
        progress=True,
    )
    samples = scores.systems["answers"]
    by_key = {(prediction.target_id, prediction.text_index): prediction for prediction in predictions}
    return Answers(meta, by_key, _by_key(scores, samples), samples, scores.missing, opened)


def oracles_of(settings: Settings, opened: Split) -> dict[str, Scores]:
    """What the best single mask of each proposer would reach; the one that the split was opened with comes first."""
    how: dict[str, Any] = {"top_k": settings.embed.max_masks, "missing": "empty", "progress": True}
    names = sorted(opened.proposers, key=lambda name: name != opened.proposer)
    splits = {name: opened.of_proposer(name) for name in names}
    return {
        name: score(split, (), system="no answers", baselines=[ORACLE], **how)
        for name, split in splits.items()
        if _scorable(split)
    }


def _by_key(scores: Scores, samples: Samples) -> dict[Key, float]:
    """IoU of every question. Those with something to be found come first, and so are preferred among equal ones."""
    order = np.argsort(~samples.exists, kind="stable")
    return {scores.asked[place]: float(samples.iou[place]) for place in order}
