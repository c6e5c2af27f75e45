"""The train means: partial sums a shard, on any executor, reduced in shard order."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.advice import to_complete
from pipeline.config import InputError, Settings
from pipeline.executors import Executor
from pipeline.graph import mean_splits, specs, wanted_fingerprint
from pipeline.plan import expected_meta, place_of
from stages.names import SplitRef
from stages.normalize import KINDS, mean_of, partial_sum, reduce_sums
from stages.progress import progress
from store.errors import ConflictError, DamagedStoreError, IncompleteColumnError, StoreError
from store.format.column import Commit, read_column, read_commit
from store.format.layout import column_dir
from store.format.lineage import Lineage, upstream_place
from store.format.schema import OK
from store.read.array import ShardReader
from store.read.column import Column, open_column
from store.write.writer import ShardData, begin_column, is_begun, seen_commit, write_shard


@dataclass(frozen=True)
class SumTask:
    """One shard of one column to be summed."""

    store: str
    place: str
    shard: int


def sum_shard(task: SumTask) -> tuple[Any, int, str]:
    """Partial sum, number of vectors, and the digest of the shard they come from."""
    folder = column_dir(Path(task.store), task.place)
    meta, commit = read_column(folder), read_commit(folder, task.shard)
    if meta is None or commit is None:
        raise IncompleteColumnError(f"{task.place}: shard {task.shard} went away", place=task.place, shard=task.shard)
    reader = ShardReader(folder, meta, commit)
    total, count = partial_sum(reader.read(position) for position, status in enumerate(commit.status) if status == OK)
    return total, count, commit.content


def _any(settings: Settings) -> str:
    """A data set: the mean that its columns name is the same for all of them."""
    return next(iter(settings.data))


def mean_state(settings: Settings, encoder: str, lenient: bool = False) -> str:
    """``done``, ``missing``, or why the mean is stale; ``lenient`` as in :func:`pipeline.graph.column_identity`."""
    name = mean_of(settings, encoder)
    place, look = name[1:], Lineage(settings.store_path)
    try:
        commit = look.commit(place, 0)
    except DamagedStoreError as error:
        return f"damaged: {error}"
    if commit is None:
        return "missing"
    if commit.fingerprint != wanted_fingerprint(settings, _any(settings), name, lenient):
        return "computed with other parameters"
    if commit.replacing or not is_begun(
        column_dir(settings.store_path, place),
        expected_meta(settings, _any(settings), specs(settings, _any(settings))[name], 1),
    ):
        return "column.json or zarr.json is not what it has to be"
    now = [f"/{task.place}#{task.shard}" for task in _tasks(settings, encoder)]
    if sorted(now) != sorted(commit.upstream):
        return "the train splits have other shards"
    for upstream, content in commit.upstream.items():
        if look.content(*upstream_place(place, upstream, 0)) != content:
            return f"{upstream} changed"
    return "done"


def _tasks(settings: Settings, encoder: str) -> list[SumTask]:
    """Every shard of every column that the mean is taken over, in the order in which they are reduced."""
    tasks = []
    for split in mean_splits(settings):
        for kind in KINDS:
            place = place_of(settings, split, f"{kind}/{encoder}")
            meta = read_column(column_dir(settings.store_path, place))
            tasks += [SumTask(str(settings.store_path), place, shard) for shard in range(meta.shards if meta else 0)]
    return tasks


def make_mean(settings: Settings, encoder: str, executor: Executor) -> Commit | None:
    """Compute an encoder's train mean if it is not done; None when it was.

    Raises:
        InputError: embeddings of a train split are not finished, or are of other parameters than the settings'.
    """
    if mean_state(settings, encoder) == "done":
        return None
    name = mean_of(settings, encoder)
    require_embeddings(settings, encoder)
    folder = column_dir(settings.store_path, name[1:])
    spec = specs(settings, _any(settings))[name]
    meta, found = expected_meta(settings, _any(settings), spec, 1), _found(folder)
    before = seen_commit(folder, 0)
    tasks = _tasks(settings, encoder)
    sums: list[tuple[Any, int, str] | None] = [None] * len(tasks)
    with progress(f"mean {encoder}", len(tasks), "shard") as advance:
        for number, result in executor.map(sum_shard, tasks):
            sums[number] = result
            advance(1)
    done = [item for item in sums if item is not None]
    try:
        mean, count = reduce_sums((total, number) for total, number, _ in done)
    except ValueError as error:
        raise InputError(f"normalize: {encoder}: {error}") from error
    upstream = {f"/{task.place}#{task.shard}": sha256 for task, (_, _, sha256) in zip(tasks, done, strict=True)}
    look = Lineage(settings.store_path)
    for task, (_, _, sha256) in zip(tasks, done, strict=True):
        if look.content(task.place, task.shard) != sha256:
            raise ConflictError(
                f"{task.place}: shard {task.shard} is not what was summed: another writer replaced it; run this again"
            )
    extra = {"count": count, "norm": float(np.linalg.norm(mean))}
    data = ShardData([mean], [len(mean)], [OK], extra=extra)
    begin = partial(begin_column, folder, meta, found)
    return write_shard(folder, meta, name[1:], 0, data, upstream, None, {}, before, begin=begin)


def _found(folder: Path) -> str | None:
    """The fingerprint that a column has now; None without a ``column.json`` that can be read."""
    with contextlib.suppress(DamagedStoreError):
        meta = read_column(folder)
        return None if meta is None else meta.fingerprint
    return None


def require_embeddings(settings: Settings, encoder: str) -> None:
    """Raise InputError, naming the command, unless the embeddings that a train mean is taken over are finished."""
    for split in mean_splits(settings):
        for kind in KINDS:
            _require_finished(settings, split, f"{kind}/{encoder}")


def _require_finished(settings: Settings, split: SplitRef, column: str) -> None:
    place = place_of(settings, split, column)
    try:
        found = open_column(settings.store_path, place)
    except DamagedStoreError:
        raise
    except StoreError as error:
        raise InputError(f"normalize: {error}; run: {to_complete(settings, split, column)}") from error
    if found.meta.fingerprint != wanted_fingerprint(settings, split.dataset, column):
        raise InputError(
            f"normalize: {place} was made with other parameters; run: {to_complete(settings, split, column)}"
        )


def open_mean(settings: Settings, encoder: str) -> Column:
    """The train mean that belongs to the settings' embeddings of an encoder.

    Raises:
        InputError: there is none, or it is the mean of another encoder or of embeddings with another fingerprint.
    """
    name = mean_of(settings, encoder)
    column = open_column(settings.store_path, name[1:])
    if column.meta.fingerprint != wanted_fingerprint(settings, _any(settings), name):
        raise InputError(
            f"{name[1:]} is the mean of other embeddings ({column.meta.fingerprint[:12]}); run: python cli.py normalize"
        )
    return column
