"""Runs a stage over a split: plan, begin the columns, compute the shards that are not done, sum up."""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pipeline.canary import check_stored
from pipeline.committed import require_commits
from pipeline.config import InputError, Settings, VanishedError
from pipeline.estimate import Estimate, estimate
from pipeline.executors import Executor, LocalExecutor
from pipeline.plan import DONE, ColumnPlan, place_of, plan_split, plan_stage, upstream_gaps
from pipeline.shard import ShardTask, compute_shard, run_shard
from pipeline.sources import require_images, unread_files
from stages.progress import progress
from store.columns import Commit, read_commit
from store.files import make_folder
from store.layout import column_dir
from store.schema import ABSENT, FAILED, OK
from store.writer import begin_column


@dataclass(frozen=True)
class StageSummary:
    """What a stage did in a split, and what it holds now.

    ``failed``: ``column: reason`` -> images, and ``failed_images`` how many images that is, each counted once. Images that
    failed in an upstream column were counted there. ``absent``: images without annotation. ``notes``: ``column: note`` -> how
    often. ``unread``: of the index, kind of file in the split's folder that it does not read -> how many.
    """

    stage: str
    split: str
    images: int
    shards: int
    computed: int
    vectors: Mapping[str, int]
    omitted: Mapping[str, int]
    failed: Mapping[str, int]
    failed_images: int
    seconds: float
    absent: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    estimate: Estimate | None = None
    todo: Mapping[str, list[int]] = field(default_factory=dict)


def run_stage(
    settings: Settings,
    stage: str,
    split: str,
    executor: Executor,
    only: Sequence[str] = (),
    limit: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    shards: Collection[int] | None = None,
) -> StageSummary:
    """Bring a stage's columns of a split up to date.

    Args:
        only: encoder names; stage embed leaves the columns of other encoders alone.
        limit: work on the first ceil(limit / shard_images) whole shards.
        retry_failed: compute shards that hold failed images again.
        dry_run: plan, write nothing.
        shards: these alone.

    Raises:
        InputError: an upstream column is not done for these shards; the message names the command.
    """
    if dry_run:  # a plan looks further than the stage: what it reads may be about to change
        every = [plan for plan in plan_split(settings, split)[0] if plan.spec.stage == stage]
    else:
        every = plan_stage(settings, stage, split)
    plans = [plan for plan in every if stage != "embed" or not only or plan.spec.name.split("/")[-1] in only]
    count = plans[0].meta.shards if plans else 0
    reach = count if limit is None else min(count, -(-limit // settings.shard_images))
    todo: dict[int, list[str]] = defaultdict(list)
    for plan in plans:
        retry = [shard for shard in range(reach) if retry_failed and _has_failures(settings, plan, split, shard)]
        for shard in sorted({*plan.todo, *retry}):
            if shard < reach and (shards is None or shard in shards):
                todo[shard].append(plan.spec.name)
    if not dry_run:
        _make_outputs(settings, stage, split)
        _require_upstream(settings, plans, split, todo)
        require_images(settings, stage, split, plans, todo)
        for plan in plans:
            if not plan.begun and (
                plan.meta.shards > len(plan.todo) or any(plan.spec.name in names for names in todo.values())
            ):
                begin_column(plan.folder, plan.meta)
        _warn_of_a_full_disk(settings, plans, todo)
        try:
            _compare_with_stored(settings, stage, split, plans, todo, executor)
            _compute(settings, stage, split, plans, todo, executor, anew=retry_failed)
        except FileNotFoundError as error:  # at the beginning it was there
            raise VanishedError(f"{error.filename or error} went away during the run") from error
    summary = _summary(settings, stage, split, every, reach, todo)
    return replace(summary, estimate=estimate(settings, plans, todo)) if dry_run and todo else summary


def _has_failures(settings: Settings, plan: ColumnPlan, split: str, shard: int) -> bool:
    if plan.shards[shard].state != DONE:
        return False
    commit = read_commit(plan.folder, shard)
    return commit is not None and bool(_own_failures(settings, plan, split, commit))


def _make_outputs(settings: Settings, stage: str, split: str) -> None:
    """DVC wants every output folder of a stage to exist, also one that these parameters leave empty."""
    base = settings.store_path / settings.dataset / split
    for name in OUTPUTS[stage]:
        make_folder(base / name)


OUTPUTS = {
    "index": ("images", "instances", "targets"),
    "masks": ("masks", "sam_features"),
    "embed": ("mask_embeddings", "instance_embeddings", "image_features"),
    "match": ("match",),
    "normalize": ("centered",),
}
"""Folders of a split that belong to a stage (the outs of dvc.yaml)."""


def _require_upstream(
    settings: Settings, plans: Sequence[ColumnPlan], split: str, todo: Mapping[int, list[str]]
) -> None:
    gaps: list[str] = []
    for plan in plans:
        shards = [shard for shard, names in todo.items() if plan.spec.name in names]
        own = {other.spec.name for other in plans}
        if shards and not set(plan.spec.reads) <= own:
            gaps += upstream_gaps(settings, plan, split, shards)
    if gaps:
        stage = gaps[0].rsplit("(stage ", 1)[1].rstrip(")")
        command = f"index --split {split}" if stage == "index" else f"extract --split {split} --stage {stage}"
        more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
        raise InputError(f"split {split}: {gaps[0]}{more}; run: python cli.py {command}")


def _warn_of_a_full_disk(settings: Settings, plans: Sequence[ColumnPlan], todo: Mapping[int, list[str]]) -> None:
    """Say beforehand when the arrays of these shards may not fit."""
    need = 0
    for plan in plans:
        if plan.meta.array is not None:
            shape, dtype = plan.meta.array.row_shape, plan.meta.array.dtype
            images = sum(len(plan.meta.shard_range(shard)) for shard, names in todo.items() if plan.spec.name in names)
            need += images * math.prod(shape) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(settings.store_path).free
    if need > free:
        print(
            f"warning: {settings.store_path} has {free / 1e9:.1f} GB left, these shards may take up to {need / 1e9:.1f} GB; what "
            "is finished when the disk is full is kept",
            file=sys.stderr,
        )


def _compare_with_stored(
    settings: Settings,
    stage: str,
    split: str,
    plans: Sequence[ColumnPlan],
    todo: Mapping[int, list[str]],
    executor: Executor,
) -> None:
    """A column that has shards already only grows by more of the same (:mod:`pipeline.canary`)."""
    names = next(iter(todo.values()), [])
    done = {
        shard: tuple(plan.spec.name for plan in plans if plan.spec.name in names and plan.shards[shard].state == DONE)
        for shard in range(plans[0].meta.shards if stage == "embed" and plans else 0)
        if shard not in todo
    }
    shard = max((shard for shard, columns in done.items() if columns), default=None)
    if shard is not None:
        count = len(plans[0].meta.shard_range(shard))
        task = ShardTask(settings.model_dump_json(), stage, split, shard, count, done[shard])
        for _ in executor.map(check_stored, [task]):
            pass


def _compute(
    settings: Settings,
    stage: str,
    split: str,
    plans: Sequence[ColumnPlan],
    todo: Mapping[int, list[str]],
    executor: Executor,
    anew: bool,
) -> None:
    if not todo:
        return
    meta, entries = plans[0].meta, plans[0].entries
    text = settings.model_dump_json()
    tasks = []
    for shard, names in sorted(todo.items()):
        span = meta.shard_range(shard)
        own = entries[span.start : span.stop]
        tasks.append(ShardTask(text, stage, split, shard, len(span), tuple(names), own, anew))
    with progress(f"{stage} {split}", sum(task.count for task in tasks), "image") as advance:
        if isinstance(executor, LocalExecutor):
            executor.finish_behind(partial(compute_shard, tick=advance), tasks)
        else:
            for number, result in executor.map(run_shard, tasks):
                require_commits(settings, tasks[number], result)
                advance(result.images)


def _summary(
    settings: Settings, stage: str, split: str, plans: Sequence[ColumnPlan], reach: int, todo: Mapping[int, list[str]]
) -> StageSummary:
    """Sums over the commits of the first ``reach`` shards."""
    vectors: Counter[str] = Counter()
    omitted: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    images_failed: set[tuple[int, int]] = set()
    images_absent: set[tuple[int, int]] = set()
    notes: Counter[str] = Counter()
    seconds: dict[int, float] = defaultdict(float)
    for plan in plans:
        for shard in range(reach):
            commit = read_commit(plan.folder, shard)
            if commit is None or commit.fingerprint != plan.meta.fingerprint:
                continue
            vectors[plan.spec.name] += sum(commit.counts)
            omitted[plan.spec.name] += commit.omitted
            seconds[shard] = max(seconds[shard], float(commit.run.get("seconds", 0)))
            own = _own_failures(settings, plan, split, commit) if commit.errors else {}
            failed.update(f"{plan.spec.name}: {reason}" for reason in own.values())
            images_failed |= {(shard, position) for position in own}
            if stage == "index":  # where it begins
                images_absent |= {(shard, n) for n, status in enumerate(commit.status) if status == ABSENT}
            notes.update({f"{plan.spec.name}: {note}": count for note, count in commit.extra.get("notes", {}).items()})
    left = {
        plan.spec.name: [shard for shard, names in sorted(todo.items()) if plan.spec.name in names] for plan in plans
    }
    images = plans[0].meta.images if plans else 0
    return StageSummary(
        stage,
        split,
        images,
        reach,
        len(todo),
        dict(vectors),
        {name: count for name, count in omitted.items() if count},
        dict(failed),
        len(images_failed),
        round(sum(seconds.values()), 1),
        len(images_absent),
        dict(notes),
        unread_files(settings, split, plans[0].entries) if stage == "index" and plans else {},
        todo={name: shards for name, shards in left.items() if shards},
    )


def _own_failures(settings: Settings, plan: ColumnPlan, split: str, commit: Commit) -> dict[int, str]:
    """Position in the shard -> reason, of the images that failed in this column and in none that it reads."""
    upstream = set()
    for name in plan.spec.reads:
        read = None
        if not name.startswith("/"):
            read = read_commit(column_dir(settings.store_path, place_of(settings, split, name)), commit.shard)
        upstream |= {number for number, status in enumerate(read.status if read else ()) if status != OK}
    return {
        int(position): reason
        for position, reason in commit.errors.items()
        if commit.status[int(position)] == FAILED and int(position) not in upstream
    }
