"""Which runs and answers a report shows: those of the current parameters and the current store. What it leaves out it names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.evaluate_input import load_predictions
from pipeline.config import Settings
from pipeline.runs import Run, as_it_was, resolve, runs_folder, short
from stages.names import SplitRef
from stages.predictions import Meta, Prediction, PredictionError
from stages.report.page import Missing, Section, Table
from stages.train.folder import CURVES, Held, held, was_moved
from stages.train.run_digest import answering, column_digest, differences, identity, system_of
from stages.train.systems import SYSTEMS
from store import Split
from store.errors import DamagedStoreError, IncompleteColumnError, StoreError
from store.read.holder import open_place


@dataclass(frozen=True)
class Found:
    """A run that is there. free: its name stands nowhere in the params, so it is what its folder says."""

    run: Run
    held: Held
    free: bool

    @property
    def name(self) -> str:
        """Of the run."""
        return self.run.name


def current_runs(settings: Settings, split: SplitRef, missing: list[Missing]) -> list[Found]:
    """The runs on the data set that belong to the parameters and the store; others are added to ``missing``."""
    folder = runs_folder(settings)
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    without_mean = {name for name, line in SYSTEMS.items() if line.centered and settings.train.mean is None}
    declared = [name for name in SYSTEMS if name in settings.runs or name not in without_mean]
    declared += [name for name in settings.runs if name not in SYSTEMS]
    runs = {name: resolve(settings, name if name in SYSTEMS else None, name) for name in declared}
    known = {run.name: run for run in runs.values()}
    found = []
    for name in [*known, *(name for name in there if name not in known)]:
        state = held(folder / name)
        if name not in known and (state is None or not state.about):
            if (folder / name / "predictions").exists() or (folder / name / CURVES).exists():
                missing.append(Missing(name, "left out: nothing in its folder says which run it is"))
            continue
        if was_moved(folder / name):
            missing.append(
                Missing(name, "left out: it was moved aside by a training; give its folder another name to show it")
            )
            continue
        run = known.get(name)
        if run is None:
            assert state is not None
            run = Run(name, name, system_of(state.about), settings.train, folder / name, False)
        why = _not_current(settings, run, state, split, name not in known)
        if why:
            missing.append(Missing(name, why))
        if state is not None and (not why or why.startswith("unfinished")):
            found.append(Found(run, state, name not in known))
    return found


def commands(settings: Settings, run: Run, state: Held | None, split: SplitRef, free: bool) -> tuple[str, str]:
    """What to type to train a run and to ask it; of a free name with the parameters that its folder records."""
    options: list[str] = []
    if free and state is not None:
        differ = differences(state.about, identity(run.params, run.system, {}), data=False)
        options = as_it_was(run, [one for one in differ if one.parameter is not None]) or []
    return (
        settings.command(*options, "train", *run.words),
        settings.command(*options, "evaluate", *run.words, *settings.words(split)),
    )


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
    differ = [] if free else differences(state.about, identity(run.params, run.system, {}), data=False)
    changed = changed_columns(settings, state.about.get("columns", {}))
    if differ or changed:
        reasons = [str(one) for one in differ] + [f"data in {name} changed" for name in changed]
        return f"left out: run {short(state.digest)} is not the current one ({_some(reasons)}); run: {again}"
    if not state.finished:
        return f"unfinished: {state}; run: {train} && {evaluate}"
    return ""


def current_answers(
    settings: Settings, found: Found, opened: Split, split: SplitRef
) -> tuple[Meta, list[Prediction]] | Missing:
    """The answers of a run to a split, or why there are none to show."""
    run = found.run
    path = run.answers(split)
    command = f"run: {commands(settings, run, found.held, split, found.free)[1]}"
    if not path.is_file():
        return Missing(found.name, f"has not answered this split; {command}")
    try:
        meta, predictions = load_predictions(path, opened, split)
        answered, columns = json.loads(meta.answering), json.loads(meta.columns)
    except (PredictionError, ValueError) as error:
        return Missing(found.name, f"its answers do not fit the store: {error}; {command}")
    reasons = []
    if meta.run != found.held.digest:
        reasons.append(f"answers of run {short(meta.run) or 'unknown'}, the model is {short(found.held.digest)}")
    if not found.free:
        now = answering(run.params, run.system)
        reasons += [
            f"train.{name}: {answered.get(name)} -> {now[name]}" for name in now if answered.get(name) != now[name]
        ]
    reasons += [f"{name} changed since" for name in changed_columns(settings, columns)]
    if reasons:
        return Missing(found.name, f"its answers are left out ({_some(reasons)}); {command}")
    return meta, predictions


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
    """Which runs the page shows, so that it can be told from another page."""
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
                _some([str(d) for d in differ]) or "as section train",
            ]
        )
    text = [
        "A run is one training; its digest is that of its parameters, language model and data (run.json in its folder)."
    ]
    yield Section("runs", "Runs", text, Table(["run", "system", "digest", "updates", "parameters"], rows))


def changed_columns(settings: Settings, recorded: Mapping[str, str]) -> list[str]:
    """Those of the recorded columns that hold something else now. One that is not in this store cannot be compared."""
    changed = []
    for place, digest in recorded.items():
        try:
            found = column_digest(open_place(settings.store_path, place))
        except (IncompleteColumnError, DamagedStoreError):  # unfinished or stale: it is being computed again
            found = ""
        except StoreError:  # there is no such column, or its holder is not there
            continue
        if found != digest:
            changed.append(place)
    return changed


def _some(reasons: Sequence[str]) -> str:
    more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return "; ".join(reasons[:4]) + more
