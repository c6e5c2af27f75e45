"""Lists the runs: what each is, how far it is, what it was trained on, and its figures on the splits that it has answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import Settings
from pipeline.external import External, external_runs
from pipeline.run_folders import Entry, changed_columns, commands, entries, outdated, outdated_answers, some, trained_on
from pipeline.runs import Run, runs_folder, short
from pipeline.summary import metrics_folder
from stages.evaluate.breakdown import MAIN
from stages.evaluate.tables import TITLES, Estimate
from stages.names import SplitRef
from stages.predictions import Meta, PredictionError, read_meta
from stages.train.folder import CHECKPOINTS, PLACE, RUN, Held, last_checkpoint, progress
from stages.train.systems import SYSTEMS

STATES = ("planned", "training", "done", "stale", "moved aside", "external", "unknown")
_TO = {"planned": "to train it", "unknown": "to train it", "training": "to go on"}
UNKNOWN = "nothing in its folder says which run it is"


def runs_command(settings: Settings) -> list[dict[str, Any]]:
    """The runs that the params name, others in the folder of runs, and external predictions, as a JSON value.

    Of each:
        name, system: system is None for external predictions.
        state: one of ``STATES``. A run that is ``training`` may also have been stopped.
        digest: sha256 (hex) of the run, or of the file of external predictions.
        when: the time of its last file (ISO 8601): nothing else says when it was trained.
        trained_on: the splits.
        step, steps, epoch, epochs: those of the last checkpoint and the totals, as far as they are known.
        why: why it is out of date. type: what to type to train it or to go on, or None.
        evaluated: an entry for each file of answers, with ``figures`` (of ``evaluate``, 0 to 1) or None where it was not scored
            by the common figures, and ``why`` and ``type`` as above.
    """
    found = []
    for entry in entries(settings):
        wanted = entry.name in settings.runs or _folder(settings, entry).is_dir()
        if wanted:  # else it is a system's own run that nobody has asked for
            found.append(_trained(settings, entry))
    return found + [_external(settings, one) for one in external_runs(settings)]


def as_text(settings: Settings, found: list[dict[str, Any]]) -> str:
    """What :func:`runs_command` found, as text for a person."""
    folder = runs_folder(settings)
    if not found:
        train = settings.command("train", "--system", next(iter(SYSTEMS)))
        return (
            f"no runs: nothing is trained in {folder}, and section runs of the params is empty; to train one: {train}"
        )
    lines, width = [f"runs in {folder}"], max(len(one["name"]) for one in found)
    for one in found:
        facts = [one["system"] or "", _state(one), _when(one["when"])]
        facts += [f"digest {short(one['digest'])}"] if one["digest"] else []
        facts += [f"trained on {', '.join(one['trained_on'])}"] if one["trained_on"] else []
        lines += ["", f"{one['name']:<{width}}  {'; '.join(filter(None, facts))}"]
        lines += [f"  {line}" for line in _remarks(one)]
    return "\n".join(lines)


def _folder(settings: Settings, entry: Entry) -> Path:
    return runs_folder(settings) / entry.name


def _trained(settings: Settings, entry: Entry) -> dict[str, Any]:
    run, state, folder = entry.run, entry.held, _folder(settings, entry)
    found: dict[str, Any] = {"name": entry.name, "system": None if run is None else run.system}
    if run is None or (state is None and folder.is_dir()) or (state is not None and not state.about):
        train = None if run is None else commands(settings, run, state, settings.evaluated[0], entry.free)[0]
        return {
            **found,
            **{"state": "unknown", "digest": None, "when": None, "trained_on": [], "why": [UNKNOWN]},
            **{"type": train and f"{train} --replace", "evaluated": []},
        }
    train = commands(settings, run, state, settings.evaluated[0], entry.free)[0]
    if state is None:
        how: dict[str, Any] = {"state": "planned", "digest": None, "when": None, "trained_on": []}
        return {**found, **how, "why": [], "type": train, "evaluated": []}
    why = [] if entry.moved else outdated(settings, run, state, entry.free)
    named = "moved aside" if entry.moved else "stale" if why else "done" if state.finished else "training"
    return {
        **found,
        "state": named,
        "digest": state.digest,
        "when": _iso(_last_file(folder, state)),
        "trained_on": trained_on(state),
        **_progress(folder, state),
        "why": why,
        "type": f"{train} --replace" if named == "stale" else train if named == "training" else None,
        "evaluated": list(_of_run(settings, run, state, entry.free, bool(why))),
    }


def _progress(folder: Path, state: Held) -> dict[str, Any]:
    if not state.finished:
        checkpoint = last_checkpoint(folder)
        return {} if checkpoint is None else {"step": state.step, **progress(checkpoint)}
    last = [entry for entry in state.about.get("history", ()) if "step" in entry][-1:]
    return {name: entry[name] for entry in last for name in ("step", "epoch") if name in entry}


def _of_run(settings: Settings, run: Run, state: Held, free: bool, stale: bool) -> Iterator[dict[str, Any]]:
    """The files of answers of a run. A stale run is not asked again before it is trained again."""
    for path in sorted(run.folder.glob("predictions/*/*.parquet")):
        found = _answers(settings, path, lambda meta: outdated_answers(settings, run, state, free, meta))
        ask = None
        if (
            "split" in found
            and not stale
            and (found["why"] or found["figures"] is None)
            and not _is_control(found["answers"])
        ):
            ask = commands(settings, run, state, SplitRef.of(found["split"]), free)[1]
            ask = " ".join([ask, *found.pop("options")])
        found.pop("options", None)
        yield {**found, "type": ask}


def _is_control(answers: str) -> bool:
    """Whether answers are those of a control, about other pictures or questions; it is asked along with the system itself."""
    return "-shuffled-" in answers


def _external(settings: Settings, run: External) -> dict[str, Any]:
    answers = []
    for name, entry in run.splits.items():
        path = run.answers(SplitRef.of(name))
        found = _answers(
            settings,
            path,
            lambda meta: [f"{one} changed since" for one in changed_columns(settings, json.loads(meta.columns))],
        )
        found.pop("options", None)
        answers.append({**found, "split": name, **entry, "type": None})
    paths = [run.answers(SplitRef.of(name)) for name in run.splits]
    return {
        **{"name": run.name, "system": None, "state": "external", "digest": run.digest},
        "when": _iso(max((path for path in paths if path.exists()), key=_modified, default=run.folder)),
        **{"trained_on": [], "why": [], "type": None, "evaluated": answers},
    }


def _answers(settings: Settings, path: Path, outdated_by: Callable[[Meta], list[str]]) -> dict[str, Any]:
    """A file of answers: what it is of, its figures, and why it is out of date."""
    try:
        meta = read_meta(path)
        why = outdated_by(meta)
    except (PredictionError, ValueError) as error:
        return {"answers": path.stem, "figures": None, "why": [f"cannot be read: {error}"]}
    unusual = {
        "--mode": (meta.mode, "generated"),
        "--setting": (meta.setting, "proposals"),
        "--texts": (meta.texts, "first"),
    }
    options = [word for name, (value, usual) in unusual.items() if value != usual for word in (name, value)]
    return {
        "answers": meta.system,
        "split": f"{meta.dataset}/{meta.split}",
        **{"mode": meta.mode, "setting": meta.setting, "texts": meta.texts},
        "figures": _figures(settings, meta),
        "why": why,
        "options": options,
    }


def _figures(settings: Settings, meta: Meta) -> dict[str, Any] | None:
    """What ``evaluate`` kept of these answers; None where it scored others, or none."""
    path = metrics_folder(settings) / "evaluate" / meta.system / meta.dataset / f"{meta.split}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        same = (kept["run"], kept["answering"], kept["columns"]) == (
            meta.run,
            json.loads(meta.answering),
            json.loads(meta.columns),
        )
        return {"questions": kept["questions"], **kept["groups"]["all"][kept["system"]]} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _last_file(folder: Path, state: Held) -> Path:
    if state.finished:
        return folder / RUN
    checkpoint = last_checkpoint(folder)
    return folder / CHECKPOINTS / RUN if checkpoint is None else checkpoint / PLACE


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _iso(path: Path) -> str:
    return datetime.fromtimestamp(_modified(path)).astimezone().isoformat(timespec="seconds")


def _when(when: str | None) -> str:
    return "" if when is None else datetime.fromisoformat(when).strftime("%Y-%m-%d %H:%M")


def _state(one: Mapping[str, Any]) -> str:
    """The state, with how far it is."""
    parts = []
    for name, whole in (("step", "steps"), ("epoch", "epochs")):
        if name in one and one["state"] == "training":
            parts.append(f"{name} {one[name]:g}" + (f" of {one[whole]:g}" if whole in one else ""))
    if one["state"] == "training":
        return f"training: {', '.join(parts) or 'no checkpoint yet'}"
    return str(one["state"]) + (f", {one['step']} steps" if "step" in one else "")


def _remarks(one: Mapping[str, Any]) -> Iterator[str]:
    if one["why"]:
        yield some(one["why"])
    if one["type"]:
        yield f"{_TO.get(one['state'], 'to train it again')}: {one['type']}"
    for answers in one["evaluated"]:
        place = answers.get("split", answers["answers"])
        other = f" ({answers['answers']})" if answers["answers"] != one["name"] else ""
        figures = answers["figures"]
        told = (
            "not scored by the common figures"
            if figures is None
            else f"{_in_percent(figures)}; {figures['questions']} questions"
        )
        yield f"{place}{other}: {told}"
        if answers["why"]:
            yield f"  out of date: {some(answers['why'])}"
        if answers["type"]:
            yield f"  run: {answers['type']}"


def _in_percent(figures: Mapping[str, Any]) -> str:
    shown = [(TITLES[name], Estimate(**figures[name])) for name in MAIN if figures.get(name)]
    return ", ".join(f"{title} {estimate.in_percent()}" for title, estimate in shown)
