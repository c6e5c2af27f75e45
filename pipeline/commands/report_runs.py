"""Which runs and answers a report shows: those of the current parameters and the current store. Others are named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.commands.evaluate_input import load_predictions
from pipeline.config import Settings
from pipeline.external import External
from pipeline.run_folders import changed_columns, commands, entries, outdated, outdated_answers, some
from pipeline.runs import Run, short
from stages.names import SplitRef
from stages.predictions import Meta, Prediction, PredictionError
from stages.report.page import Missing, Section, Table
from stages.train.folder import CURVES, Held
from stages.train.run_digest import differences, identity
from store import Split


@dataclass(frozen=True)
class Found:
    """A run that is there. free: the params do not name it, so its folder alone says what it is."""

    run: Run
    held: Held
    free: bool

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.name


def current_runs(settings: Settings, split: SplitRef, missing: list[Missing]) -> list[Found]:
    """The runs on the data set that belong to the parameters and the store; others are added to ``missing``."""
    found = []
    for entry in entries(settings):
        run, state = entry.run, entry.held
        if run is None:
            missing.append(Missing(entry.name, "left out: nothing in its folder says which run it is"))
            continue
        if entry.moved:
            missing.append(
                Missing(
                    entry.name, "left out: it was moved aside by a training; give its folder another name to show it"
                )
            )
            continue
        why = _not_current(settings, run, state, split, entry.free)
        if why:
            missing.append(Missing(entry.name, why))
        if state is not None and (not why or why.startswith("unfinished")):
            found.append(Found(run, state, entry.free))
    return found


def _not_current(settings: Settings, run: Run, state: Held | None, split: SplitRef, free: bool) -> str:
    """Why a run is not shown; empty where it is."""
    train, evaluate = commands(settings, run, state, split, free)
    if state is None:
        there = any((run.folder / name).exists() for name in ("predictions", CURVES))
        left_out = "; answers and curves of an unknown run in its folder are left out" if there else ""
        return f"not trained; run: {train} && {evaluate}{left_out}"
    again = f"{train} --replace && {evaluate}"
    if not state.about:
        return f"left out: its folder does not say which run it is; run: {again}"
    if reasons := outdated(settings, run, state, free):
        return f"left out: run {short(state.digest)} is not the current one ({some(reasons)}); run: {again}"
    if not state.finished:
        return f"unfinished: {state}; run: {train} && {evaluate}"
    return ""


def current_answers(
    settings: Settings, found: Found, opened: Split, split: SplitRef
) -> tuple[Meta, list[Prediction]] | Missing:
    """The answers of a run to a split, or why they cannot be shown."""
    run = found.run
    path = run.answers(split)
    command = f"run: {commands(settings, run, found.held, split, found.free)[1]}"
    if not path.is_file():
        return Missing(found.name, f"has not answered this split; {command}")
    try:
        meta, predictions = load_predictions(path, opened, split)
        reasons = outdated_answers(settings, run, found.held, found.free, meta)
    except (PredictionError, ValueError) as error:
        return Missing(found.name, f"its answers do not fit the store: {error}; {command}")
    if reasons:
        return Missing(found.name, f"its answers are left out ({some(reasons)}); {command}")
    return meta, predictions


def external_answers(
    settings: Settings, one: External, opened: Split, split: SplitRef
) -> tuple[Meta, list[Prediction]] | Missing:
    """The kept predictions of others for a split, or why they cannot be shown."""
    path = one.answers(split)
    if not path.is_file():
        return Missing(one.name, f"its predictions are of {', '.join(one.splits)}, not of {split}")
    try:
        meta, predictions = load_predictions(path, opened, split)
        changed = changed_columns(settings, json.loads(meta.columns))
    except (PredictionError, ValueError) as error:
        return Missing(one.name, f"its predictions do not fit the store: {error}")
    if changed:
        return Missing(one.name, f"its predictions are left out ({', '.join(changed)} changed since)")
    # What they chose from is theirs: their masks are drawn and scored.
    return meta, [replace(prediction, chosen=None) for prediction in predictions]


def current_curves(found: Sequence[Found], missing: list[Missing]) -> dict[str, Path]:
    """Name of a run -> its folder, where that has curves of this run."""
    folders = {}
    for one in found:
        note = one.run.folder / CURVES / "run.json"
        try:
            digest = json.loads(note.read_text(encoding="utf-8")).get("digest") if note.is_file() else None
        except (ValueError, AttributeError):
            digest = None
        if digest == one.held.digest:
            folders[one.name] = one.run.folder
        elif (one.run.folder / CURVES).is_dir():
            what = f"training curves of {one.name}"
            missing.append(
                Missing(what, f"left out: of run {short(digest or '') or 'unknown'}, not {short(one.held.digest)}")
            )
    return folders


def runs_section(settings: Settings, found: Sequence[Found]) -> Iterator[Section]:
    """Which runs the page shows, so that pages can be told apart."""
    if not found:
        return
    rows = []
    for one in found:
        steps = [entry["step"] for entry in one.held.about.get("history", ()) if "step" in entry]
        updates = str(max(steps)) if steps else "unfinished"
        asked = identity(settings.train, one.run.system, {})
        differ = differences(asked, {**one.held.about, "version": asked["version"]}, data=False)
        rows.append(
            [
                one.name,
                one.run.system,
                short(one.held.digest),
                updates,
                some([str(d) for d in differ]) or "as section train",
            ]
        )
    text = [
        "A run is one training; its digest is that of its parameters, language model and data (run.json in its folder)."
    ]
    yield Section("runs", "Runs", text, Table(["run", "system", "digest", "updates", "parameters"], rows))
