"""``verify`` with the settings at hand: damage, completeness, and repair through the pipeline."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from pipeline.compute import compute_stage
from pipeline.config import InputError, Settings
from pipeline.errors import DAMAGED
from pipeline.executors import Executor, open_executor
from pipeline.graph import STAGES, all_specs, column_identity, specs
from pipeline.look import Look
from pipeline.plan import ColumnPlan, plan_reduction, plan_split, plan_stage
from pipeline.preflight import require_needs, require_writable
from pipeline.reduce import reduce_stage
from pipeline.upstream import lenders, place_of, upstream_shards, wanted_columns
from stages.names import SplitRef
from store.errors import StoreError
from store.format.layout import column_dir, what_exists
from store.format.lineage import Lineage
from store.storage.files import TEMPORARY
from store.storage.listing import is_folder
from store.write.verify import Problem, Report, repair, verify

Column = tuple[str, SplitRef | None]
"""Name and split of a column; the split of one that is reduced over splits is None."""


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
        for column, spec in specs(
            settings, dataset
        ).items():  # unknown models and missing digests are the settings' fault
            column_identity(settings, None if spec.over is not None else dataset, column)
    lines: list[str] = []
    look = Look(settings)
    for split in splits:
        try:
            plans, _ = plan_split(settings, split, look=look)
        except InputError as error:
            lines.append(str(error))
            continue
        lines += _not_done(plans)
    return [*lines, *_not_done(plan_reduction(settings, "means", look=look))]


def _not_done(plans: Sequence[ColumnPlan]) -> Iterator[str]:
    for plan in plans:
        if plan.todo:
            first = plan.shards[plan.todo[0]]
            reason = first.state + (f": {first.reason}" if first.reason else "")
            yield f"{plan.place}: {len(plan.todo)} of {plan.meta.shards} shards not done ({reason})"
        elif not plan.begun:
            yield f"{plan.place}: column.json or zarr.json has the wrong content, or a killed run left files"


def verify_command(
    settings: Settings, splits: tuple[SplitRef, ...], deep: bool, complete: bool, repairing: bool, as_json: bool
) -> tuple[int, str]:
    """What ``verify`` prints and its exit code: 0, or 4 for damage (with ``complete`` also for anything not done).

    Repair always checks every byte, with or without ``deep``. For borrowed images the splits that lend them are checked, too.
    """
    deep, look = deep or repairing, Lineage(settings.store_path)
    splits = tuple(dict.fromkeys(each for split in splits for each in (split, *lenders(settings, look, split))))
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
    checked = "every byte digested" if deep else "records and identities"
    lines.append(
        f"{settings.store}: {report.columns} columns, {report.done} shards done, {report.missing} missing, "
        f"{report.stale} stale; {report.files} files, {report.bytes / 1e6:.1f} MB checked ({checked})"
    )
    if any(is_mendable(settings, problem) for problem in report.problems):
        where = f" {settings.options(splits[0])}" if len(splits) == 1 < len(settings.splits) else ""
        lines.append(f"to repair it: python cli.py verify --repair{where}")
    return code, "\n".join(lines)


def is_mendable(settings: Settings, problem: Problem) -> bool:
    """Whether repair deals with a problem: it is in a column that these params make, or a leftover of a kill."""
    if problem.files and all(path.name.startswith(TEMPORARY) for path in problem.files):
        return True
    return bool(problem.files) and problem.place in wanted_columns(settings)


def mend(settings: Settings, report: Report) -> list[Path]:
    """Remove damaged shards that can be computed again, and compute them, along with unfinished shards that they need.

    Everything that this needs is checked first.

    Raises:
        InputError: the parameters are not those that made a damaged column, or one that it is computed from.
        WeightsError, DatasetError: weights or source files are missing. Nothing was changed then.
    """
    damaged: dict[Column, set[int]] = defaultdict(set)
    for problem in report.problems:
        column = wanted_columns(settings).get(problem.place)
        if column is not None and problem.files:
            damaged[column] |= set() if problem.shard is None else {problem.shard}
    _add_upstream(settings, damaged)
    with open_executor(settings) as executor:
        _look_ahead(settings, damaged, executor)
        removed = repair(report, partial(is_mendable, settings))
        for stage in STAGES:
            known = all_specs(settings)
            mine = {column: shards for column, shards in damaged.items() if known[column[0]].stage == stage}
            if names := [name for name, split in mine if split is None]:
                reduce_stage(settings, stage, executor, only=names)
            for split in settings.splits:
                own = [shards for (_, where), shards in mine.items() if where == split]
                if own:
                    compute_stage(settings, stage, split, executor, shards=set().union(*own))
    return removed


def _add_upstream(settings: Settings, damaged: dict[Column, set[int]]) -> None:
    """Add the unfinished shards that damaged ones are computed from: a run was killed, or never got that far."""
    look = Lineage(settings.store_path)
    waiting = [(*column, shard) for column, shards in damaged.items() for shard in shards or {0}]
    while waiting:
        for name, split, shard in upstream_shards(settings, look, *waiting.pop()):
            todo = damaged.get((name, split), set())
            if shard not in todo and look.why_not_current(place_of(settings, split, name), shard):
                damaged[name, split] = todo | {shard}
                waiting.append((name, split, shard))


def _look_ahead(settings: Settings, damaged: Mapping[Column, Collection[int]], executor: Executor) -> None:
    known = all_specs(settings)
    for split, stage in dict.fromkeys((split, known[name].stage) for name, split in damaged):
        plans = plan_reduction(settings, stage) if split is None else plan_stage(settings, stage, split)
        for plan in plans:
            if (plan.spec.name, split) not in damaged:
                continue
            if plan.found not in (None, plan.meta.fingerprint):
                why = "; ".join(plan.changes) or "it was computed with other parameters"
                raise InputError(
                    f"{plan.place}: these params are not those that made it ({why}); nothing was changed: repair it with the "
                    "params file that made it"
                )
            require_writable(plan.folder)
    require_needs(settings, [name for name, _ in damaged], executor)
