"""``verify`` with the settings at hand: damage, completeness, and repair through the pipeline."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from pipeline.compute import compute_stage
from pipeline.config import InputError, Settings
from pipeline.errors import DAMAGED
from pipeline.executors import Executor, open_executor
from pipeline.graph import STAGES, all_specs, column_identity, mean_splits, specs
from pipeline.means import make_mean, mean_state
from pipeline.plan import DONE, known_sources, place_of, plan_split, plan_stage, split_of
from pipeline.preflight import require_needs, require_writable
from stages.names import SplitRef
from store.errors import StoreError
from store.format.layout import column_dir, what_exists
from store.format.lineage import Lineage
from store.storage.files import TEMPORARY
from store.storage.listing import is_folder
from store.write.verify import Problem, Report, repair, verify

_Column = tuple[SplitRef | None, str]
"""A split and the name of a column; no split and ``/means/...``."""


def verify_store(settings: Settings, splits: tuple[SplitRef, ...], deep: bool) -> Report:
    """Check the splits and the means.

    Raises:
        StoreError: none of the splits is there; says what is.
    """
    store = settings.store_path
    if not any(is_folder(column_dir(store, place_of(settings, split, "images"))) for split in splits):
        raise StoreError(f"nothing to check: {what_exists(store, splits[0].dataset)}")
    return verify(store, [*map(str, splits), "means"], deep)


def incomplete(settings: Settings, splits: tuple[SplitRef, ...]) -> list[str]:
    """A line for every column that the settings ask for and that is not done, with the reason."""
    for dataset in settings.data:
        for column in specs(settings, dataset):  # unknown models and missing digests are the settings' fault
            column_identity(settings, dataset, column)
    lines = []
    for split in splits:
        try:
            plans, _ = plan_split(settings, split)
        except InputError as error:
            lines.append(str(error))
            continue
        for plan in plans:
            if plan.todo:
                first = plan.shards[plan.todo[0]]
                reason = first.state + (f": {first.reason}" if first.reason else "")
                lines.append(f"{plan.place}: {len(plan.todo)} of {plan.meta.shards} shards not done ({reason})")
            elif not plan.begun:
                lines.append(
                    f"{plan.place}: column.json or zarr.json is not what it has to be, or a killed run left files"
                )
    for encoder in settings.embed.mask_encoders:
        state = mean_state(settings, encoder)
        if state != DONE:
            lines.append(f"means/{settings.normalize.name}/{encoder}: {state}")
    return lines


def verify_command(
    settings: Settings, splits: tuple[SplitRef, ...], deep: bool, complete: bool, repairing: bool, as_json: bool
) -> tuple[int, str]:
    """What ``verify`` prints and its exit code: 0, or 4 for damage (with ``complete`` also for anything not done).

    To repair is to look deep: what a reader meets are bytes.
    """
    deep = deep or repairing
    report = verify_store(settings, splits, deep)
    lines = []
    if repairing and report.problems:
        removed = mend(settings, report)
        lines.append(f"repair: removed {len(removed)} files; computed their shards again")
        report = verify_store(settings, splits, deep)
    gaps = incomplete(settings, splits) if complete else []
    code = DAMAGED if report.problems or gaps else 0
    if as_json:
        problems = [str(problem) for problem in report.problems]
        values = {
            **{key: value for key, value in vars(report).items() if key not in ("problems", "deep")},
            "problems": problems,
            "not_done": gaps,
        }
        return code, json.dumps(values, indent=1)
    lines += [f"damage: {problem}" for problem in report.problems]
    lines += [f"not done: {gap}" for gap in gaps]
    lines += [f"not there: {place}" for place in report.absent if place != "means"]
    checked = "every byte digested" if deep else "sizes, commits and identities"
    lines.append(
        f"{settings.store}: {report.columns} columns, {report.done} shards done, {report.missing} missing, "
        f"{report.stale} stale; {report.files} files, {report.bytes / 1e6:.1f} MB checked ({checked})"
    )
    if any(is_mendable(settings, problem) for problem in report.problems):
        where = f" {settings.options(splits[0])}" if len(splits) == 1 < len(settings.splits) else ""
        lines.append(f"to mend it: python cli.py verify --repair{where}")
    return code, "\n".join(lines)


def is_mendable(settings: Settings, problem: Problem) -> bool:
    """Whether repair deals with a problem: it is of a column that these params make, or what a kill left."""
    if problem.unfinished or (problem.files and all(path.name.startswith(TEMPORARY) for path in problem.files)):
        return True
    return bool(problem.files) and _column_of(settings, problem) is not None


def _column_of(settings: Settings, problem: Problem) -> _Column | None:
    """Split and column of a problem; (None, "/means/...") of a mean; None where it is of no column of the params."""
    own = split_of(settings, problem.place)
    if own is not None:
        return own if own[1] in specs(settings, own[0].dataset) else None
    return (None, f"/{problem.place}") if f"/{problem.place}" in all_specs(settings) else None


def mend(settings: Settings, report: Report) -> list[Path]:
    """Remove what is damaged and can be made again, and compute it, with what it is computed from where that is not done.

    What all this needs is looked for first.

    Raises:
        InputError: the parameters are not those that made a damaged column, or one that it is computed from.
        WeightsError, DatasetError: weights or source files are missing. Nothing was changed then.
    """
    damaged: dict[_Column, set[int]] = defaultdict(set)
    for problem in report.problems:
        column = _column_of(settings, problem)
        if column is not None and problem.files:
            damaged[column] |= set() if problem.shard is None else {problem.shard}
    _add_upstream(settings, damaged)
    with open_executor(settings) as executor:
        _look_ahead(settings, damaged, executor)
        removed = repair(report, partial(is_mendable, settings))
        for stage in STAGES:
            if stage == "normalize" and any(split is None for split, _ in damaged):
                for encoder in settings.embed.mask_encoders:
                    make_mean(settings, encoder, executor)
            for split in settings.splits:
                mine = {name: shards for (where, name), shards in damaged.items() if where == split}
                own = [shards for name, shards in mine.items() if specs(settings, split.dataset)[name].stage == stage]
                if own:
                    compute_stage(settings, stage, split, executor, shards=set().union(*own))
    return removed


def _add_upstream(settings: Settings, damaged: dict[_Column, set[int]]) -> None:
    """Add what the damaged shards are computed from and is not done: a run was killed, or never came so far."""
    look, known = Lineage(settings.store_path), all_specs(settings)
    waiting = [(*column, shard) for column, shards in damaged.items() for shard in shards or {0}]
    while waiting:
        split, name, shard = waiting.pop()
        for read in known[name].reads:
            if read.startswith("/"):
                needed: list[tuple[SplitRef | None, str, int]] = [(None, read, 0)]
            elif split:
                needed = [(split, read, shard)]
            else:
                trains = mean_splits(settings)
                needed = [(where, read, number) for where in trains for number in range(_shards(settings, where))]
            for where, column, number in needed:
                todo = damaged.get((where, column), set())
                place = column[1:] if where is None else place_of(settings, where, column)
                if number not in todo and look.why_not_current(place, number):
                    damaged[where, column] = todo | {number}
                    waiting.append((where, column, number))


def _shards(settings: Settings, split: SplitRef) -> int:
    return -(-len(known_sources(settings, split)) // settings.shard_images)


def _look_ahead(settings: Settings, damaged: Mapping[_Column, Collection[int]], executor: Executor) -> None:
    known = all_specs(settings)
    for split, stage in dict.fromkeys((split, known[name].stage) for split, name in damaged if split):
        for plan in plan_stage(settings, stage, split):
            if (split, plan.spec.name) not in damaged:
                continue
            if plan.found not in (None, plan.meta.fingerprint):
                why = "; ".join(plan.changes) or "it was computed with other parameters"
                raise InputError(
                    f"{plan.place}: these params are not those that made it ({why}); nothing was changed: repair it with the "
                    "params file that made it"
                )
            require_writable(plan.folder)
    require_needs(settings, [name for split, name in damaged if split], executor)
