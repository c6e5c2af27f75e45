"""Runs a stage that reduces: shards of several splits -> one shard per column. The parts are computed by the executor."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.config import InputError, Settings
from pipeline.executors import Executor
from pipeline.graph import REDUCTIONS
from pipeline.look import Look
from pipeline.plan import ColumnPlan, place_of, plan_reduction, upstream_name, upstream_shards
from pipeline.preflight import require_upstream, require_writable
from pipeline.shard import environment, settings_of
from pipeline.tally import StageSummary, tally
from stages.progress import progress
from store.errors import ConflictError, IncompleteColumnError
from store.format.column import read_column
from store.format.layout import column_dir
from store.format.lineage import Lineage
from store.format.schema import OK
from store.format.shard import read_commit
from store.read.array import ShardReader
from store.storage.files import make_folder
from store.write.writer import begin_column, finish_column, seen_commit, write_shard


@dataclass(frozen=True)
class Votes:
    """What travels to a worker: the images of one shard that count in a reduction.

    Args:
        place, shard: where their vectors are.
        positions: which images of the shard; None: all.
    """

    settings: str
    stage: str
    place: str
    shard: int
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Part:
    """What comes back: the contribution, and the digest of the shard that it was computed from."""

    value: Any
    content: str


def votes(settings: Settings, plan: ColumnPlan) -> list[Votes]:
    """Which images count in a reduced column, in the order in which their shards are reduced. Each image counts once.

    Every image of a split counts, as a split holds its images. A split that names images of another one has to add the
    positions of those that no split before it has named.
    """
    text, stage = settings.model_dump_json(), plan.spec.stage
    return [
        Votes(text, stage, place_of(settings, split, column), shard)
        for column, split, shard in upstream_shards(settings, plan.spec.name, None, 0)
    ]


def compute_part(task: Votes) -> Part:
    """Compute what the images of one shard contribute. Images that are not ok have no vectors.

    Raises:
        IncompleteColumnError: the shard is not there any more.
    """
    folder = column_dir(settings_of(task.settings).store_path, task.place)
    meta, commit = read_column(folder), read_commit(folder, task.shard)
    if meta is None or commit is None:
        raise IncompleteColumnError(f"{task.place}: shard {task.shard} went away", place=task.place, shard=task.shard)
    reader = ShardReader(folder, meta, commit)
    positions = range(len(commit.status)) if task.positions is None else task.positions
    images = (reader.read(position) for position in positions if commit.status[position] == OK)
    return Part(REDUCTIONS[task.stage].part(images), commit.content)


def reduce_stage(
    settings: Settings, stage: str, executor: Executor, only: Sequence[str] | None = None, dry_run: bool = False
) -> StageSummary:
    """Bring the columns of a stage that reduces up to date. Nothing in the store is changed before a first one is computed.

    Args:
        only: these columns; default: all of them.
        dry_run: plan, write nothing.

    Raises:
        InputError: an upstream column of one of the splits is not done; the message names the command.
        ConflictError: what was reduced is not what is there afterwards.
    """
    look = Look(settings)
    plans = plan_reduction(settings, stage, lenient=dry_run, look=look)
    chosen = [plan for plan in plans if plan.todo and (only is None or plan.spec.name in only)]
    todo = {0: [plan.spec.name for plan in chosen]} if chosen else {}
    summary = partial(_summed_up, look, stage, plans, chosen)
    if dry_run:
        return summary()
    require_upstream(look, chosen, None, todo)
    require_writable(*(plan.folder for plan in chosen))
    if chosen:
        tasks = [votes(settings, plan) for plan in chosen]
        with progress(stage, sum(map(len, tasks)), "shard") as advance:
            for plan, own in zip(chosen, tasks, strict=True):
                _reduce(settings, plan, own, executor, advance)
    for plan in plans:
        if not plan.begun and not plan.todo:
            begin_column(plan.folder, plan.meta, plan.found)
            finish_column(plan.folder, plan.place)
    look.renew()
    make_folder(settings.store_path / stage)  # DVC wants every output folder of a stage, also an empty one
    return summary()


def _summed_up(look: Look, stage: str, plans: Sequence[ColumnPlan], chosen: Sequence[ColumnPlan]) -> StageSummary:
    """As :func:`pipeline.tally.tally`; ``shards`` and ``computed`` are columns, as each has one shard."""
    found = tally(look, stage, None, plans, 1, {0: [plan.spec.name for plan in chosen]} if chosen else {})
    return replace(found, shards=len(plans), computed=len(chosen))


def _reduce(settings: Settings, plan: ColumnPlan, tasks: Sequence[Votes], executor: Executor, advance: Any) -> None:
    """Compute, write and commit one column: nothing is written before every part is there."""
    began, before, name = time.perf_counter(), seen_commit(plan.folder, 0), plan.spec.name
    parts: list[Part | None] = [None] * len(tasks)
    for number, part in executor.map(compute_part, tasks):
        parts[number] = part
        advance(1)
    done = [part for part in parts if part is not None]
    try:
        data = REDUCTIONS[plan.spec.stage].whole(part.value for part in done)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    look = Lineage(settings.store_path)
    for task, part in zip(tasks, done, strict=True):
        if look.content(task.place, task.shard) != part.content:
            raise ConflictError(
                f"{task.place}: shard {task.shard} is not what was reduced: another writer replaced it; run this again",
                place=task.place,
                shard=task.shard,
            )
    reads = upstream_shards(settings, name, None, 0)
    contents = {(task.place, task.shard): part.content for task, part in zip(tasks, done, strict=True)}
    upstream = {
        upstream_name(settings, name, *read): contents[place_of(settings, read[1], read[0]), read[2]] for read in reads
    }
    run = {**environment(), "columns": [name], "seconds": round(time.perf_counter() - began, 3)}
    begin = partial(begin_column, plan.folder, plan.meta, plan.found)
    write_shard(plan.folder, plan.meta, plan.place, 0, data, upstream, plan.spec.schema, run, before, begin=begin)
    finish_column(plan.folder, plan.place)
