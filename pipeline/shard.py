"""One shard of one stage: read its input, run the stage, write and commit its columns. Runs on any worker."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.begun import begin_once
from pipeline.config import ROOT, InputError, Settings, VanishedError
from pipeline.entries import files_now, of_files
from pipeline.graph import MAPS, specs, wanted_fingerprint
from pipeline.inputs import ShardSource
from pipeline.upstream import place_of, upstream_name
from stages.base import Entry, Runner, ShardInput
from stages.datasets.base import DatasetError
from stages.names import SplitRef
from stages.notes import notes
from stages.weights import expected_sha256, locate
from store.errors import ConflictError
from store.format.column import ColumnMeta, read_column
from store.format.layout import column_dir
from store.storage.requests import call_all
from store.write.writer import seen_commit, write_shard


@dataclass(frozen=True)
class ShardTask:
    """What travels to a worker.

    Args:
        columns: those of this shard that are to be computed.
        started: columns that the stage is started for, the same for every shard of a run: its models are loaded once.
        entries: only for the index.
        again: compute also a shard that is done.
        begin: column -> its meta and the fingerprint that its ``column.json`` had, where the column is still to be begun.
        token: names the run; a process begins a column once in a run.
    """

    settings: str
    stage: str
    split: SplitRef
    shard: int
    count: int
    columns: tuple[str, ...]
    started: tuple[str, ...]
    entries: tuple[Entry, ...] = ()
    again: bool = False
    begin: Mapping[str, tuple[ColumnMeta, str | None]] = field(default_factory=dict)
    token: str = ""


@dataclass(frozen=True)
class ShardResult:
    """What comes back from a worker; what was computed is in the commits, whose digests are ``contents`` of each column."""

    shard: int
    images: int
    contents: Mapping[str, str]


@lru_cache(maxsize=2)
def settings_of(text: str) -> Settings:
    """Settings from their JSON, once per process."""
    return Settings.model_validate_json(text)


_loaded: dict[Any, Runner] = {}
_one_at_a_time = threading.Lock()
"""A Dask worker may have several threads; models keep state while they work, so they work for one task at a time."""


def runner(task: ShardTask) -> Runner:
    """A stage with its models loaded, kept from shard to shard; the models of another stage are let go first."""
    params = settings_of(task.settings)
    dataset = task.split.dataset
    names = {name for column in task.started for name in specs(params, dataset)[column].weights}
    digests = tuple((name, expected_sha256(name, params.weights_lock)) for name in sorted(names))
    # Only the index depends on the data set: models are loaded once for all of them.
    key = (task.settings, task.stage, task.started, digests, dataset if task.stage == "index" else "")
    if key not in _loaded:
        _loaded.clear()
        weights = {name: locate(name, ROOT / params.run.weights_dir, params.weights_lock) for name in sorted(names)}
        try:
            _loaded[key] = MAPS[task.stage].start(params.of(dataset), task.started, weights, ROOT)
        except ValueError as error:  # no work began: a device or a model that the settings name cannot be had
            raise InputError(str(error)) from error
    return _loaded[key]


def require_device(settings: Settings) -> str:
    """``cpu`` or ``cuda``; InputError where the settings ask for a device that is not there."""
    from stages.device import resolve_device

    try:
        return resolve_device(settings.run)
    except ValueError as error:
        raise InputError(str(error)) from error


def run_shard(task: ShardTask) -> ShardResult:
    """Compute, write and commit the columns of a shard."""
    return compute_shard(task)()


def compute_shard(task: ShardTask, tick: Callable[[int], None] = lambda images: None) -> Callable[[], ShardResult]:
    """Compute the columns of a shard.

    Returns:
        A function that writes and commits them; another thread may call it while the next shard is computed.

    Raises:
        IncompleteColumnError: an upstream shard is not there.
        WeightsError: a checkpoint is missing, or is not the expected one.
    """
    began = time.perf_counter()
    settings = settings_of(task.settings)
    dataset = task.split.dataset
    wanted = {name: specs(settings, dataset)[name] for name in task.columns}
    source = ShardSource(settings, task.split, task.shard, task.entries)
    # Digests and commits are taken before anything is read: a change meanwhile makes the shard stale or a conflict, not wrong.
    reads = {name: source.upstream(name) for name in wanted}
    own = {(name, task.split, task.shard) for name in wanted}
    others = list(dict.fromkeys(read for every in reads.values() for read in every if read not in own))
    commits = call_all(settings.store_path, [partial(source.commit, *read) for read in others])
    digests = {read: commit.content for read, commit in zip(others, commits, strict=True)}
    files = files_now(settings, dataset, wanted, task.entries)
    places = {name: place_of(settings, task.split, name) for name in wanted}
    folders = {name: column_dir(settings.store_path, place) for name, place in places.items()}
    begun = [name for name in wanted if name not in task.begin]
    read = call_all(settings.store_path, [partial(read_column, folders[name]) for name in begun])
    metas = {**dict(zip(begun, read, strict=True)), **{name: meta for name, (meta, _) in task.begin.items()}}
    look = [partial(seen_commit, folders[name], task.shard, metas[name]) for name in wanted]
    before = dict(zip(wanted, call_all(settings.store_path, look), strict=True))
    start = task.shard * settings.shard_images
    span = range(start, start + task.count)
    image_seconds: list[float] = []

    def tock(images: int) -> None:
        now = time.perf_counter()
        image_seconds.extend([round((now - at[-1]) / images, 4)] * images)
        at.append(now)
        tick(images)

    shard = ShardInput(span, source.rows, source.array, source.trouble, source.pixels, tock, task.entries, task.columns)
    try:
        with _one_at_a_time:
            loading = time.perf_counter()
            work = runner(task)
            at = [time.perf_counter()]
            memory = peak_memory()
            results = work(shard)
        after = files_now(settings, dataset, wanted, task.entries)
    except DatasetError as error:
        if not any(entry.source.content for entry in task.entries):
            raise
        # A file of many images, which could be read when its digests were taken.
        raise VanishedError(f"a file changed or went away while it was read: {error}") from error
    for name in wanted:  # what was read must be what the commit will say
        if changed := files[name].items() ^ after[name].items():
            raise VanishedError(f"{min(path for path, _ in changed)} changed or went away while it was read")
    run = {
        **environment(),
        **({} if memory is None else {"gpu_peak_bytes": memory()}),
        **({"notes": notes()} if notes() else {}),
        "columns": sorted(wanted),
        "load_seconds": round(at[0] - loading, 3),
        "image_seconds": image_seconds,
        "seconds": round(time.perf_counter() - began, 3),
        "run": settings.run.model_dump(exclude={"scheduler", "weights_dir", "train_dir", "report_dir", "cache_dir"}),
    }

    def commit() -> ShardResult:
        for name, spec in wanted.items():
            place, folder, meta = places[name], folders[name], metas[name]
            if meta is None or meta.fingerprint != wanted_fingerprint(settings, dataset, name):
                raise ConflictError(
                    f"{place}: another run began it with other parameters; stop it, then run this again"
                )
            begin = partial(begin_once, task.token, folder, *task.begin[name]) if name in task.begin else lambda: None
            if len(meta.shard_range(task.shard)) != task.count:
                raise ConflictError(f"{place}: another run added images to the split; run this again")
            upstream = {upstream_name(settings, task.split, *read): digests[read] for read in reads[name]}
            done = write_shard(
                folder,
                meta,
                place,
                task.shard,
                results[name],
                upstream | of_files(files[name]),
                spec.schema,
                run,
                before[name],
                task.again,
                begin,
            )
            digests[name, task.split, task.shard] = done.content
        return ShardResult(task.shard, task.count, {name: digests[name, task.split, task.shard] for name in wanted})

    return commit


def peak_memory() -> Callable[[], int] | None:
    """Start to measure GPU memory: returns a function that gives the peak since this call; None without a GPU at work."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    torch.cuda.reset_peak_memory_stats()
    return lambda: int(torch.cuda.max_memory_allocated())


def environment() -> dict[str, str]:
    """Versions that a person asks for when two shards differ, and the GPU where one is at work."""
    torch = sys.modules.get("torch")
    found = {"python": platform.python_version(), "numpy": np.__version__, "pyarrow": pa.__version__}
    if torch is None:
        return found
    card = {"card": str(torch.cuda.get_device_name())} if torch.cuda.is_initialized() else {}
    return {**found, "torch": str(torch.__version__), **card}
