"""Whether stored answers are those that their run would give now, and which runs can be asked here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pipeline.asking import TrainedSystem
from pipeline.browse.answers import Answers
from pipeline.config import InputError, Settings
from pipeline.external import external_runs
from pipeline.run_folders import Entry, changed_columns, commands, entries, outdated, outdated_answers
from pipeline.runs import short
from stages.names import SplitRef
from stages.predictions import PredictionError
from stages.train.systems import SYSTEMS

TRAINED, EXTERNAL, UNKNOWN = "trained", "external", "unknown"


def standing(settings: Settings, split: SplitRef, answers: Iterable[Answers]) -> dict[str, dict[str, Any]]:
    """Name of stored answers -> ``kind`` (whose they are), ``about`` (what they are of), ``outdated`` (the reasons; none: they are
    current) and ``command``, which makes them again."""
    runs = {entry.name: entry for entry in entries(settings)}
    return {each.name: _standing(settings, split, each, runs.get(each.run)) for each in answers}


def askable(settings: Settings) -> list[dict[str, Any]]:
    """The trained runs, and which of them can be asked.

    Returns:
        For each run, its ``name`` and ``system``, the ``proposer`` whose masks it chooses among (None: it makes its own), whether
        it has ``words`` for masks, and ``why`` it cannot be asked (empty: it can).
    """
    found = []
    for entry in entries(settings):
        if entry.run is None or entry.held is None or not entry.held.finished or entry.moved:
            continue
        name, system, why = entry.run.asked, entry.run.system, ""
        try:
            proposer = TrainedSystem(settings, None, name).proposer
        except InputError as error:
            proposer, why = None, str(error)
        words = SYSTEMS[system].words
        found.append({"name": name, "system": system, "proposer": proposer, "words": words, "why": why})
    return found


def _standing(settings: Settings, split: SplitRef, answers: Answers, entry: Entry | None) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": UNKNOWN, "about": "", "outdated": [], "command": ""}
    try:
        if answers.external:
            kept = next(each for each in external_runs(settings) if each.name == answers.run).splits.get(str(split))
            about = f"{kept['file']}, sha256 {short(kept['sha256'])}" if kept else ""
            changed = changed_columns(settings, json.loads(answers.meta().columns))
            return {
                **found,
                "kind": EXTERNAL,
                "about": about,
                "outdated": [f"{name} changed since" for name in changed],
            }
        if entry is None or entry.run is None or entry.held is None or not entry.held.about:
            return {**found, "outdated": ["nothing in the folder of the run says which training made them"]}
        return {**found, "kind": TRAINED, **_of_run(settings, split, answers, entry)}
    except (PredictionError, ValueError) as error:
        return {**found, "outdated": [f"cannot tell whether the answers are outdated: {error}"]}


def _of_run(settings: Settings, split: SplitRef, answers: Answers, entry: Entry) -> dict[str, Any]:
    run, held = entry.run, entry.held
    assert run is not None
    assert held is not None
    train, evaluate = commands(settings, run, held, split, entry.free)
    of_run = outdated(settings, run, held, entry.free)
    if entry.moved:
        of_run.append("a later training moved the run aside")
    reasons = [*of_run, *outdated_answers(settings, run, held, entry.free, answers.meta())]
    command = f"{train} --replace && {evaluate}" if of_run else evaluate
    about = f"{run.system}, run {short(held.digest)}"
    return {"about": about, "outdated": reasons, "command": command if reasons and not entry.moved else ""}
