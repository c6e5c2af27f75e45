"""Runs a stage over a split: plan, look for what it needs, compute and commit the shards that are not done, sum up."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from pipeline.canary import compare_with_stored
from pipeline.committed import require_commits
from pipeline.config import ROOT, InputError, Settings, VanishedError
from pipeline.entries import list_sources, seen_entries
from pipeline.errors import INTERRUPTED, StoppedError
from pipeline.estimate import estimate
from pipeline.executors import Executor, LocalExecutor
from pipeline.graph import specs
from pipeline.look import Look
from pipeline.plan import ColumnPlan, plan_split, plan_stage, plan_stages
from pipeline.preflight import (
    missing_weights,
    replacement,
    require_consent,
    require_needs,
    require_upstream,
    require_writable,
    warn_of_a_full_disk,
)
from pipeline.shard import ShardResult, ShardTask, compute_shard, run_shard
from pipeline.sources import require_images
from pipeline.tally import StageSummary, has_failures, tally
from pipeline.upstream import Upstream, place_of
from stages.names import SplitRef
from stages.progress import progress
from store.addresses import is_remote
from store.errors import ConflictError, StoreError
from store.format.layout import UNUSED, column_dir, find_columns
from store.format.lineage import Lineage
from store.format.names import proposer_of
from store.storage.files import make_folder
from store.storage.leftovers import remove_left_in
from store.storage.mounts import storage_of
from store.storage.objects import replace_object
from store.write.writer import begin_column, finish_column


def compute_stages(
    settings: Settings,
    stages: Sequence[str],
    splits: Sequence[SplitRef],
    executor: Executor,
    only: Sequence[str] = (),
    limit: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    replace: bool = False,
    proposers: Sequence[str] = (),
    part: tuple[int, int] | None = None,
) -> list[StageSummary]:
    """Bring stages up to date, stage by stage. What any of them needs is looked for before the first one begins.

    Models are loaded once for all splits; those that hold images come before those that borrow them. Options and errors:
    :func:`compute_stage`.
    """
    look = Look(settings)
    if not dry_run:
        _look_ahead(look, stages, splits, executor, only, proposers, limit, part, replace)
    options: dict[str, Any] = {"only": only, "proposers": proposers, "limit": limit, "retry_failed": retry_failed}
    options |= {"dry_run": dry_run, "part": part}
    return [
        compute_stage(settings, stage, split, executor, **options, replace=True, look=look)
        for stage in stages
        for split in splits
    ]


def _look_ahead(
    look: Look,
    stages: Sequence[str],
    splits: Sequence[SplitRef],
    executor: Executor,
    only: Sequence[str],
    proposers: Sequence[str],
    limit: int | None,
    part: tuple[int, int] | None,
    replace: bool,
) -> None:
    settings = look.settings
    require_writable(ROOT / settings.run.report_dir)
    if "index" in stages:
        for split in splits:
            if settings.holder(split.dataset) is not None and set(settings.held(split.dataset)) & set(splits):
                list_sources(look, split)  # where the images lie is known when those splits are indexed
            else:
                seen_entries(look, split)
        return
    reach = math.inf if limit is None else -(-limit // settings.shard_images)
    columns: set[str] = set()
    meanwhile: set[Upstream] = set()  # splits that hold images come first
    for split in splits:
        every = _chosen(plan_stages(settings, stages, split, look), only, proposers)
        plans = [plan for plan in every if any(shard < reach for shard in plan.todo)]
        if not replace:
            stage = f" --stage {stages[0]}" if len(stages) == 1 else ""
            names = "".join(f" --proposer {name}" for name in proposers) + "".join(
                f" --encoder {name}" for name in only
            )
            require_consent(plans, split, f"extract {settings.options(split)}{stage}{names}")
        require_writable(*(plan.folder for plan in plans))
        columns |= {plan.spec.name for plan in plans}
        todo: dict[int, list[str]] = defaultdict(list)
        for plan in plans:
            for shard in plan.todo:
                if shard < reach and in_part(split, shard, part):
                    todo[shard].append(plan.spec.name)
        for plan in every:  # one that is to be begun again is not current until then
            shards = plan.todo if plan.begun else range(plan.meta.shards)
            meanwhile |= {(plan.spec.name, split, shard) for shard in shards if shard < reach}
        require_upstream(look, plans, split, todo, meanwhile)
    require_needs(settings, columns, executor)


def _chosen(plans: Sequence[ColumnPlan], only: Sequence[str], proposers: Sequence[str]) -> list[ColumnPlan]:
    """The plans of the given encoders and proposers, with those of columns that have no encoder or no proposer."""
    return [
        plan
        for plan in plans
        if (plan.spec.stage != "embed" or not only or plan.spec.name.split("/")[-1] in only)
        and (not proposers or proposer_of(plan.spec.name) in (None, *proposers))
    ]


def compute_stage(
    settings: Settings,
    stage: str,
    split: SplitRef,
    executor: Executor,
    only: Sequence[str] = (),
    proposers: Sequence[str] = (),
    limit: int | None = None,
    retry_failed: bool = False,
    dry_run: bool = False,
    shards: Collection[int] | None = None,
    replace: bool = False,
    look: Look | None = None,
    part: tuple[int, int] | None = None,
) -> StageSummary:
    """Bring a stage's columns of a split up to date. Nothing in the store is changed before a first shard is computed.

    Args:
        only: encoder names; stage embed leaves the columns of other encoders alone.
        proposers: the columns of other proposers are left alone.
        limit: work on the first ceil(limit / shard_images) whole shards.
        retry_failed: compute shards that hold failed images again.
        dry_run: plan, write nothing.
        part: (i, n): only the shards of this part (:func:`in_part`).
        shards: only these.
        replace: work even where this replaces finished shards of other parameters.
        look: what was seen so far; renewed where this changes the store.

    Raises:
        InputError: an upstream column is not done for these shards, or finished shards would be replaced; the message
            names the command.
    """
    look = look or Look(settings)
    if dry_run:  # a plan looks further than the stage: what it reads may be about to change
        every = [plan for plan in plan_split(settings, split, lenient=True, look=look)[0] if plan.spec.stage == stage]
    else:
        every = plan_stage(settings, stage, split, look)
        if stage == "index" and part is not None:
            every = _numbered(look, split, every)
    plans = _chosen(every, only, proposers)
    count = plans[0].meta.shards if plans else 0
    reach = count if limit is None else min(count, -(-limit // settings.shard_images))
    todo: dict[int, list[str]] = defaultdict(list)
    for plan in plans:
        retry = [shard for shard in range(reach) if retry_failed and has_failures(look, plan, split, shard)]
        for shard in sorted({*plan.todo, *retry}):
            if shard < reach and (shards is None or shard in shards) and in_part(split, shard, part):
                todo[shard].append(plan.spec.name)
    wanted = {name for names in todo.values() for name in names}
    chosen = [plan for plan in plans if plan.spec.name in wanted]
    if dry_run:
        summary = tally(look, stage, split, every, reach, todo)
        return dataclasses.replace(
            summary,
            estimate=estimate(look, plans, todo) if todo else None,
            replaces=tuple(replacement(plan) for plan in chosen if plan.replaces),
            missing=missing_weights(settings, wanted),
        )
    if not replace:
        require_consent(chosen, split, f"extract {settings.options(split)} --stage {stage}")
    try:
        require_upstream(look, plans, split, todo)
    except InputError as error:
        if part is None or settings.holder(split.dataset) is None:
            raise
        message = f"stopped: {error}; or, if another part is computing it, run this part again when that part is done"
        raise StoppedError(INTERRUPTED, message) from error
    require_images(look, stage, split, plans, todo)
    require_writable(*(plan.folder for plan in chosen))
    warn_of_a_full_disk(settings, plans, todo)
    require_needs(settings, wanted, executor)
    try:
        compare_with_stored(settings, stage, split, plans, todo, _started(plans, todo), executor)
        _compute(settings, stage, split, plans, todo, executor, again=retry_failed)
    except FileNotFoundError as error:  # at the beginning it was there
        raise VanishedError(f"{error.filename or error} went away during the run") from error
    lost = [p for p in plans if not p.begun and p.spec.name not in wanted and p.meta.shards > len(p.todo)]
    for plan in lost:
        begin_column(plan.folder, plan.meta, plan.found)
    if todo or lost:
        look.renew()
    for plan in plans:
        finish_column(plan.folder, plan.place, look.records)
    _make_outputs(settings, stage, split.dataset)
    mark_unused(settings, split)
    return tally(look, stage, split, every, reach, todo)


def in_part(split: SplitRef, shard: int, part: tuple[int, int] | None) -> bool:
    """Whether a shard belongs to part i of n; True where ``part`` is None.

    Shards go round the parts in turn, so that parts differ by one shard; a split's digest says where they begin, so that splits
    of one shard do not all go to part 0. It does not depend on which shards are done, so parts that begin at different times
    share them out in the same way, nor on the column, so a part computes its masks and then their vectors.
    """
    if part is None:
        return True
    number, count = part
    first = int(hashlib.sha256(str(split).encode()).hexdigest(), 16)
    return (first + shard) % count == number


def _numbered(look: Look, split: SplitRef, plans: list[ColumnPlan]) -> list[ColumnPlan]:
    """The plans of the index after its columns are begun: the first of several parts decides the order of the images."""
    require_writable(*(plan.folder for plan in plans))
    for _ in range(_TRIES):
        try:
            for plan in plans:
                if not plan.begun:
                    begin_column(plan.folder, plan.meta, plan.found)
            break
        except ConflictError:  # another part was faster
            look.renew()
            plans = plan_stage(look.settings, "index", split, look)
    look.renew()
    return plan_stage(look.settings, "index", split, look)


_TRIES = 3


def mark_unused(settings: Settings, split: SplitRef) -> None:
    """Mark columns that are not current and that the params do not name, so that anyone can still open the whole split."""
    look = Lineage(settings.store_path)
    for name in find_columns(settings.store_path, split.dataset, split.split):
        place = place_of(settings, split, name)
        if name not in specs(settings, split.dataset) and not _is_current(look, place):
            mark = column_dir(settings.store_path, place) / UNUSED
            with contextlib.suppress(OSError):  # another user's column: opening it by name says what is wrong
                if storage_of(mark).stat(mark) is None:
                    replace_object(mark, b"", durable=False)


def _is_current(look: Lineage, place: str) -> bool:
    try:
        meta = look.meta(place)
        return meta is not None and not any(look.why_not_current(place, shard) for shard in range(meta.shards))
    except StoreError:
        return True  # damaged: verify reports it


def _make_outputs(settings: Settings, stage: str, dataset: str) -> None:
    """DVC wants every output folder of a stage to exist, also one that these parameters leave empty."""
    for name in () if is_remote(settings.store_path) else OUTPUTS[stage]:
        make_folder(settings.store_path / dataset / name)


OUTPUTS = {
    "index": ("images", "instances", "targets"),
    "masks": ("masks", "sam_features"),
    "embed": ("mask_embeddings", "instance_embeddings", "image_features"),
    "match": ("match",),
    "center": ("centered",),
}
"""Folders of a data set that belong to a stage (the outs of dvc.yaml)."""


def _committed(
    settings: Settings, tasks: Sequence[ShardTask], results: Iterable[tuple[int, ShardResult]]
) -> Iterator[int]:
    """How many images a shard has, for each whose commits were found in the store.

    Other threads look for them: a bucket answers slowly, and a thread that waits for it cannot hand out tasks.
    """
    pool, given_up = ThreadPoolExecutor(LOOKING, thread_name_prefix="commits"), threading.Event()
    looks: deque[tuple[Future[None], int]] = deque()
    try:
        for number, result in results:
            looks.append((pool.submit(require_commits, settings, tasks[number], result, given_up), result.images))
            while looks and (looks[0][0].done() or len(looks) > LOOKING):
                look, images = looks.popleft()
                look.result()
                yield images
        for look, images in looks:
            look.result()
            yield images
    finally:
        given_up.set()
        pool.shutdown(cancel_futures=True)


LOOKING = 32
"""How many shards' commits are looked for at once."""


def _started(plans: Sequence[ColumnPlan], todo: Mapping[int, list[str]]) -> tuple[str, ...]:
    """Every column of the stage that any shard needs: a shard that lacks fewer is computed with the same models."""
    wanted = {name for names in todo.values() for name in names}
    return tuple(plan.spec.name for plan in plans if plan.spec.name in wanted)


def _compute(
    settings: Settings,
    stage: str,
    split: SplitRef,
    plans: Sequence[ColumnPlan],
    todo: Mapping[int, list[str]],
    executor: Executor,
    again: bool,
) -> None:
    if not todo:
        return
    with contextlib.suppress(OSError):  # a user who may not write there leaves these files
        remove_left_in(settings.store_path)
    meta, entries = plans[0].meta, plans[0].entries
    started = _started(plans, todo)
    text, token = settings.model_dump_json(), uuid.uuid4().hex
    begin = {plan.spec.name: (plan.meta, plan.found) for plan in plans if not plan.begun}
    if stage == "index" and not isinstance(executor, LocalExecutor):
        # The index's column.json has a line for every image of the split: too much to travel with every shard.
        for plan in plans:
            if plan.spec.name in begin and any(plan.spec.name in names for names in todo.values()):
                begin_column(plan.folder, *begin.pop(plan.spec.name))
    tasks = []
    for shard, names in sorted(todo.items()):
        span = meta.shard_range(shard)
        own = entries[span.start : span.stop]
        to_begin = {name: begin[name] for name in names if name in begin}
        tasks.append(
            ShardTask(text, stage, split, shard, len(span), tuple(names), started, own, again, to_begin, token)
        )
    with progress(f"{stage} {split}", sum(task.count for task in tasks), "image") as advance:
        if isinstance(executor, LocalExecutor):
            executor.finish_behind(partial(compute_shard, tick=advance), tasks)
        else:
            for images in _committed(settings, tasks, executor.map(run_shard, tasks)):
                advance(images)
