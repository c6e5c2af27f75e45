"""Many workers on a virtual clock: the project's own planning, scheduling and publishing, with seconds charged for each.

What runs is real: ``compute_stages``, ``LocalExecutor``, ``DaskExecutor`` with its crew, ``--part``, shards that are written to a
store and looked for there. Time is not: a stage's models are replaced by the seconds they take, and looking, publishing and
messages cost what was measured. Dask itself is replaced (``client.py``). A shard holds one small image here, for which the
seconds of a whole shard are charged.
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from pipeline import canary, compute, executors, shard
from pipeline.config import Settings
from pipeline.dask import crew
from pipeline.dask import executor as dask_executor
from pipeline.executors import Executor, LocalExecutor
from pipeline.graph import EXTRACTED
from tests.benchmarks import stand_ins
from tests.benchmarks.workers.client import Client
from tests.benchmarks.workers.clock import Clock, Lock, Pool, Queue

Kind = Literal["local", "dask", "part"]


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Args:
        shard: stage -> what its models take for a shard, on average.
        publish: stage -> what it takes to write and commit a shard's columns.
        spread: standard deviation between shards, as a part of the average.
        images: of a shard; one of them is embedded again before a column grows.
        load: from the start of a stage on a worker to its first image.
        plan: to look at a shard of a column, which is done twice.
        task: of the process that hands out tasks, for each: half when it is sent, half when its answer is taken.
        check: stage -> until the commits of a shard are found, once its answer is there.
        hop: on the way from one process to another.
    """

    shard: Mapping[str, float]
    publish: Mapping[str, float] = field(default_factory=dict)
    spread: float = 0.0
    images: int = 32
    load: float = 0.0
    plan: float = 0.0
    task: float = 0.0
    check: Mapping[str, float] = field(default_factory=dict)
    hop: float = 0.0

    def alone(self, shards: int) -> float:
        """Seconds of one worker that does nothing but compute this many shards of every stage."""
        return shards * sum(self.shard.values())


@dataclass(frozen=True)
class Ran:
    """How a simulation ended.

    Args:
        seconds: until all was done, virtual.
        workers: that were there all the time.
        spent: what workers did -> seconds, over all of them.
        shards: stage -> how many were computed; ``loads``: how often its models were loaded.
    """

    seconds: float
    workers: int
    spent: Mapping[str, float]
    shards: Mapping[str, int]
    loads: Mapping[str, int]

    @property
    def shares(self) -> dict[str, float]:
        """The same as parts of all workers' time; the rest: they waited for a task, for a shard to be published, for others."""
        found = {what: seconds / self.seconds / self.workers for what, seconds in self.spent.items()}
        return found | {"waiting": 1 - sum(found.values())}


def simulate(settings: Settings, kind: Kind, workers: int, costs: Costs, seed: int = 0, threads: int = 1) -> Ran:
    """Compute masks, embed and match of every indexed split, as ``extract`` does, on a virtual clock.

    Args:
        settings: with ``shard_images`` 1, of a store that holds indexes alone.
        workers: of one Dask cluster, or as many parts; the local executor has one.
        threads: of a Dask worker.
    """
    loads, computed, spent = Counter[str](), Counter[str](), Counter[str]()
    draw = np.random.default_rng(seed)
    slower = [{stage: _around_one(draw, costs.spread) for stage in EXTRACTED} for _ in range(_images(settings))]
    again: set[int] = set()  # places at which a stored image is embedded again

    def load(stage: str) -> None:
        loads[stage] += 1
        spent["loading"] += costs.load
        clock.sleep(costs.load)

    def work(stage: str, image: int) -> None:
        if id(clock.place) in again:
            clock.sleep(costs.shard[stage] / costs.images)
            return
        seconds = costs.shard[stage] * slower[image][stage]
        computed[stage] += 1
        spent["computing"] += seconds
        clock.sleep(seconds)

    def once_more(task: shard.ShardTask) -> None:
        again.add(id(clock.place))
        try:
            check_stored(task)
        finally:
            again.discard(id(clock.place))

    check_stored = canary.check_stored
    with contextlib.ExitStack() as stack, contextlib.redirect_stderr(io.StringIO()):
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        clock = stack.enter_context(Clock())
        stack.enter_context(stand_ins.installed(load, work))
        looking = workers if kind == "dask" else 1  # all of them wait for the one that looks
        _charge(patch, clock, costs, lambda seconds: spent.update(looking=seconds * looking))
        patch.setattr(canary, "check_stored", once_more)
        if kind == "dask":
            client = Client(clock, workers, threads, costs.task / 2, costs.hop)
            dask = dask_executor.DaskExecutor(settings, stack)
            dask.join(client)
            actors = [clock.start(lambda: _extract(settings, dask), client)]
        else:
            parts = [None] if kind == "local" else [(number, workers) for number in range(workers)]
            actors = [
                clock.start(lambda part=part: _extract(settings, LocalExecutor(), part), object()) for part in parts
            ]
        clock.run(lambda: all(actor.done for actor in actors))
    return Ran(clock.now, workers, dict(spent), computed, loads)


def _around_one(draw: np.random.Generator, spread: float) -> float:
    return max(0.1, float(draw.normal(1.0, spread)))


def _images(settings: Settings) -> int:
    from pipeline.upstream import known_sources

    return max(len(known_sources(settings, split)) for split in settings.splits)


def _extract(settings: Settings, executor: Executor, part: tuple[int, int] | None = None) -> None:
    compute.compute_stages(settings, EXTRACTED, settings.splits, executor, part=part)


def _charge(patch: pytest.MonkeyPatch, clock: Clock, costs: Costs, looked: Callable[[float], None]) -> None:
    """Let threads, queues, locks and clocks be virtual, and charge what looking, publishing and messages cost.

    ``looked`` is told of the seconds in which the store was looked at.
    """

    def planned(real: Callable[..., Any]) -> Callable[..., Any]:
        def plan(*given: Any, **options: Any) -> Any:
            found = real(*given, **options)
            seconds = costs.plan * sum(len(one.shards) for one in found)
            looked(seconds)
            clock.sleep(seconds)
            return found

        return plan

    def computed(task: shard.ShardTask, **options: Any) -> Callable[[], shard.ShardResult]:
        commit = compute_shard(task, **options)

        def publish() -> shard.ShardResult:
            clock.sleep(costs.publish.get(task.stage, 0.0))
            return commit()

        return publish

    def checked(settings: Settings, task: shard.ShardTask, *given: Any) -> None:
        clock.sleep(costs.check.get(task.stage, 0.0))
        require_commits(settings, task, *given)

    def answered(self: dask_executor.DaskExecutor, future: Any) -> Any:
        clock.sleep(costs.task / 2)
        return answer(self, future)

    compute_shard, require_commits = shard.compute_shard, compute.require_commits
    answer = dask_executor.DaskExecutor._answer
    patch.setattr(dask_executor.DaskExecutor, "_answer", answered)
    for name in ("plan_stage", "plan_stages"):
        patch.setattr(compute, name, planned(getattr(compute, name)))
    for module in (shard, compute):
        patch.setattr(module, "compute_shard", computed)
    patch.setattr(compute, "require_commits", checked)
    patch.setattr(shard, "_loaded", ByPlace(clock))
    patch.setattr(shard, "_one_at_a_time", Lock(clock))
    for module in (executors, compute):
        patch.setattr(module, "ThreadPoolExecutor", partial(Pool, clock))
    patch.setattr(dask_executor, "SimpleQueue", lambda: Queue(clock))
    patch.setattr(crew, "Thread", AtOnce)
    patch.setattr(crew, "time", SimpleNamespace(monotonic=clock.monotonic, sleep=clock.sleep))


class AtOnce:
    """A thread whose function runs when it is started."""

    def __init__(self, target: Callable[..., Any], args: tuple[Any, ...], daemon: bool) -> None:
        self.start = lambda: target(*args)


class ByPlace(MutableMapping[Any, Any]):
    """A dict for each place that actors run on, as each process has its own."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.dicts: dict[int, dict[Any, Any]] = {}

    def _own(self) -> dict[Any, Any]:
        return self.dicts.setdefault(id(self.clock.place), {})

    def __getitem__(self, key: Any) -> Any:
        return self._own()[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self._own()[key] = value

    def __delitem__(self, key: Any) -> None:
        del self._own()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._own())

    def __len__(self) -> int:
        return len(self._own())
