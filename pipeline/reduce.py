"""Runs a stage that reduces: shards of several splits -> one shard per column. The parts are computed by the executor."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.config import InputError, Settings
from pipeline.executors import Executor
from pipeline.graph import REDUCTIONS, has_column, is_borrowed, lies_at
from pipeline.look import Look
from pipeline.plan import ColumnPlan, plan_reduction
from pipeline.preflight import require_upstream, require_writable
from pipeline.shard import environment, settings_of
from pipeline.tally import StageSummary, tally
from pipeline.upstream import known_links, known_sources, place_of, shard_count, upstream_name, upstream_shards
from stages.names import SplitRef
from stages.progress import progress
from store.addresses import is_remote
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
        positions: which images of the shard.
    """

    settings: str
    stage: str
    place: str
    shard: int
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """What comes back: the contribution, and the digest of the shard that it was computed from."""

    value: Any
    content: str


def votes(look: Look, plan: ColumnPlan) -> list[Votes]:
    """Which images count in a reduced column, in the order in which their shards are reduced: split by split, column by column.

    What is made of pixels alone counts once for each image of the data set that holds it, however many splits borrow the image;
    for a split that borrows images, only these images count. What is made of annotations counts once for each image of each split.
    """
    settings = look.settings
    text, stage = settings.model_dump_json(), plan.spec.stage
    counted: dict[tuple[str, SplitRef], set[int]] = defaultdict(set)
    found = []
    for split in map(SplitRef.of, plan.spec.over or ()):
        shards = range(shard_count(settings, split))
        for read in plan.spec.reads:
            if not has_column(settings, split.dataset, read):
                continue
            if is_borrowed(settings, split.dataset, read):
                links = [link for shard in shards for link in known_links(settings, look.records, split, shard) if link]
            else:
                links = [(split.split, index) for index in range(len(known_sources(settings, split)))]
            dataset, column = lies_at(settings, split.dataset, read)
            assert dataset is not None, "means are of no means"
            positions: dict[tuple[SplitRef, int], list[int]] = defaultdict(list)
            for name, index in links:
                where = SplitRef(dataset, name)
                if index not in counted[column, where]:
                    counted[column, where].add(index)
                    shard, position = divmod(index, settings.shard_images)
                    positions[where, shard].append(position)
            found += [
                Votes(text, stage, place_of(settings, where, column), shard, tuple(sorted(own)))
                for (where, shard), own in positions.items()
            ]
    return found


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
    images = (reader.read(position) for position in task.positions if commit.status[position] == OK)
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
        tasks = [votes(look, plan) for plan in chosen]
        with progress(stage, sum(map(len, tasks)), "shard") as advance:
            for plan, own in zip(chosen, tasks, strict=True):
                _reduce(look, plan, own, executor, advance)
    for plan in plans:
        if not plan.begun and not plan.todo:
            begin_column(plan.folder, plan.meta, plan.found)
            finish_column(plan.folder, plan.place)
    look.renew()
    if not is_remote(settings.store_path):
        make_folder(settings.store_path / stage)  # DVC wants every output folder of a stage, also an empty one
    return summary()


def _summed_up(look: Look, stage: str, plans: Sequence[ColumnPlan], chosen: Sequence[ColumnPlan]) -> StageSummary:
    """As :func:`pipeline.tally.tally`; ``shards`` and ``computed`` are columns, as each has one shard."""
    found = tally(look, stage, None, plans, 1, {0: [plan.spec.name for plan in chosen]} if chosen else {})
    return replace(found, shards=len(plans), computed=len(chosen))


def _reduce(look: Look, plan: ColumnPlan, tasks: Sequence[Votes], executor: Executor, advance: Any) -> None:
    """Compute, write and commit one column: nothing is written before every part is there."""
    settings, began, before, name = look.settings, time.perf_counter(), seen_commit(plan.folder, 0), plan.spec.name
    parts: list[Part | None] = [None] * len(tasks)
    for number, part in executor.map(compute_part, tasks):
        parts[number] = part
        advance(1)
    done = [part for part in parts if part is not None]
    try:
        data = REDUCTIONS[plan.spec.stage].whole(part.value for part in done)
    except ValueError as error:
        raise InputError(f"{name}: {error}") from error
    reads = upstream_shards(settings, look.records, name, None, 0)
    seen = {read: look.records.content(place_of(settings, read[1], read[0]), read[2]) for read in reads}
    now = Lineage(settings.store_path)
    reduced = [(task.place, task.shard, part.content) for task, part in zip(tasks, done, strict=True)]
    for place, shard, content in [*reduced, *((place_of(settings, r[1], r[0]), r[2], had) for r, had in seen.items())]:
        if now.content(place, shard) != content:
            raise ConflictError(
                f"{place}: shard {shard} is not what was reduced: another writer replaced it; run this again",
                place=place,
                shard=shard,
            )
    upstream = {upstream_name(settings, None, *read): content for read, content in seen.items()}
    run = {**environment(), "columns": [name], "seconds": round(time.perf_counter() - began, 3)}
    begin = partial(begin_column, plan.folder, plan.meta, plan.found)
    write_shard(plan.folder, plan.meta, plan.place, 0, data, upstream, plan.spec.schema, run, before, begin=begin)
    finish_column(plan.folder, plan.place)
