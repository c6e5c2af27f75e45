"""Which runs there are: those that the params name, and those in the folder of runs; and what of them is out of date."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config import Settings
from pipeline.runs import Run, as_it_was, resolve, runs_folder, short
from stages.names import SplitRef
from stages.predictions import Meta
from stages.train.folder import CURVES, Held, held, is_external, was_moved
from stages.train.run_digest import answering, column_digest, differences, identity, system_of
from stages.train.systems import SYSTEMS
from store.errors import DamagedStoreError, IncompleteColumnError, StoreError
from store.read.holder import open_place


@dataclass(frozen=True)
class Entry:
    """A run that the params name, or that is there.

    Args:
        run: None where nothing in its folder says which run it is.
        held: what its folder holds; None where it is not trained.
        free: the params do not name it, so its folder alone says what it is.
        moved: a training moved it aside.
    """

    name: str
    run: Run | None
    held: Held | None
    free: bool
    moved: bool


def entries(settings: Settings) -> list[Entry]:
    """The runs: the systems' own, those of section ``runs``, then others in the folder of runs; no external ones."""
    folder = runs_folder(settings)
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    without_mean = {name for name, line in SYSTEMS.items() if line.centered and settings.train.mean is None}
    declared = [name for name in SYSTEMS if name in settings.runs or name not in without_mean]
    declared += [name for name in settings.runs if name not in SYSTEMS]
    runs = {name: resolve(settings, name if name in SYSTEMS else None, name) for name in declared}
    known = {run.name: run for run in runs.values()}
    found = [Entry(name, run, held(run.folder), False, was_moved(run.folder)) for name, run in known.items()]
    for name in there:
        place = folder / name
        if name in known or is_external(place):
            continue
        state = held(place)
        if state is not None and state.about:
            run = Run(name, name, system_of(state.about), settings.train, place, False)
            found.append(Entry(name, run, state, True, was_moved(place)))
        elif (place / "predictions").exists() or (place / CURVES).exists():
            found.append(Entry(name, None, state, True, False))
    return found


def outdated(settings: Settings, run: Run, state: Held, free: bool) -> list[str]:
    """Why a trained run is not what the parameters and the store would give now; empty where it is."""
    differ = [] if free else differences(state.about, identity(run.params, run.system, {}), data=False)
    changed = changed_columns(settings, state.about.get("columns", {}))
    return [*map(str, differ), *(f"data in {name} changed" for name in changed)]


def outdated_answers(settings: Settings, run: Run, state: Held, free: bool, meta: Meta) -> list[str]:
    """Why answers of a run are not those that it would give now; empty where they are.

    Raises:
        ValueError: ``meta`` records no parameters or columns that could be read.
    """
    answered, columns = json.loads(meta.answering), json.loads(meta.columns)
    reasons = []
    if meta.run != state.digest:
        reasons.append(f"answers of run {short(meta.run) or 'unknown'}, the model is {short(state.digest)}")
    if not free:
        now = answering(run.params, run.system)
        reasons += [
            f"train.{name}: {answered.get(name)} -> {now[name]}" for name in now if answered.get(name) != now[name]
        ]
    return reasons + [f"{name} changed since" for name in changed_columns(settings, columns)]


def commands(settings: Settings, run: Run, state: Held | None, split: SplitRef, free: bool) -> tuple[str, str]:
    """What to type to train a run and to ask it; for a free name, with the parameters that its folder records."""
    options: list[str] = []
    if free and state is not None:
        differ = differences(state.about, identity(run.params, run.system, {}), data=False)
        options = as_it_was(run, [one for one in differ if one.parameter is not None]) or []
    return (
        settings.command(*options, "train", *run.words),
        settings.command(*options, "evaluate", *run.words, *settings.words(split)),
    )


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


def some(reasons: Sequence[str]) -> str:
    """The first reasons, in one line."""
    more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return "; ".join(reasons[:4]) + more


def trained_on(state: Held) -> list[str]:
    """The splits whose questions a run learned from, as ``demo/train``."""
    places = [place.split("/") for place in state.about.get("columns", {})]
    found = {f"{parts[0]}/{parts[-1]}" for parts in places if parts[1:-1] == ["targets"]}
    return sorted(found) or [str(name) for name in state.about.get("params", {}).get("train", ())]
