"""Many workers on a virtual clock: what it charges, that the project's code runs under it, and that real processes agree."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from pipeline.params_file import load_settings
from pipeline.scale.predict import duration
from pipeline.scale.profiles import profiles
from pipeline.upstream import known_sources
from store.format.layout import column_dir
from store.format.shard import committed_shards
from tests.benchmarks.workers.__main__ import ROOT, check, emptied, grow, report
from tests.benchmarks.workers.clock import Clock, Lock, Outcome, Pool, Queue
from tests.benchmarks.workers.measure import measure
from tests.benchmarks.workers.setting import costs_on, make_store
from tests.benchmarks.workers.simulate import Costs, Kind, Ran, simulate

SIXTEEN_BIT = ["proposers.sam_vit_h.precision=float16", "embed.precision=float16"]
COLUMNS = ("masks/sam", "mask_embeddings/sam/demo_sam")


def run(*functions: Any) -> float:
    """Virtual seconds that they take, each an actor at a place of its own."""
    with Clock() as clock:
        actors = [clock.start(partial(function, clock), number) for number, function in enumerate(functions)]
        clock.run(lambda: all(actor.done for actor in actors))
        return clock.now


def test_time_goes_on_when_all_wait() -> None:
    seen: list[tuple[str, float]] = []

    def sleeper(name: str, *lengths: float) -> object:
        def work(clock: Clock) -> None:
            for length in lengths:
                clock.sleep(length)
                seen.append((name, clock.now))

        return work

    assert run(sleeper("a", 3, 3), sleeper("b", 2, 2, 2), sleeper("c", 0)) == 6
    assert seen == [("c", 0), ("b", 2), ("a", 3), ("b", 4), ("a", 6), ("b", 6)]


def test_queues_futures_pools_and_locks_wait_in_virtual_time() -> None:
    def work(clock: Clock) -> None:
        queue = Queue(clock)
        with pytest.raises(Empty):
            queue.get(timeout=5)
        assert clock.now == 5
        with Pool(clock, 2) as pool:
            jobs = [pool.submit(clock.sleep, 10) for _ in range(5)]
            jobs[0].add_done_callback(queue.put)
            assert queue.get() is jobs[0]
            assert (clock.now, jobs[2].done(), jobs[4].done()) == (15, False, False)
        assert clock.now == 5 + 3 * 10
        failing = Outcome(clock)
        clock.start(lambda: (clock.sleep(1), failing.settle(lambda: 1 / 0)))
        with pytest.raises(ZeroDivisionError):
            failing.result()
        lock = Lock(clock)

        def locked() -> None:
            with lock:
                clock.sleep(4)

        here, there = (clock.start(locked), clock.start(locked)), clock.start(locked, "elsewhere")
        clock.wait(lambda: there.done)
        assert (clock.now, here[1].done) == (40, False)
        clock.wait(lambda: here[1].done)
        assert clock.now == 44

    run(work)


def test_actors_that_wait_for_each_other_and_errors_are_raised() -> None:
    with pytest.raises(RuntimeError, match="1 actors wait for each other"):
        run(lambda clock: clock.wait(lambda: False))
    with pytest.raises(KeyError, match="lost"):
        run(lambda clock: {}["lost"])


def test_threads_end_with_their_clock() -> None:
    before = threading.active_count()
    with Clock() as clock:
        clock.start(lambda: clock.wait(lambda: False), "a")
        clock.start(lambda: clock.sleep(1000), "b")
        clock.run(lambda: len(clock._waiting) == 2)
    for _ in range(100):
        if threading.active_count() > before:
            time.sleep(0.05)
    assert threading.active_count() == before


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 240 shards; its params file."""
    return make_store(tmp_path_factory.mktemp("workers"), 240)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of 80."""
    return make_store(tmp_path_factory.mktemp("few"), 80)


def simulated(params: Path, kind: Kind, workers: int, costs: Costs, seed: int = 0, threads: int = 2) -> Ran:
    """A simulation, after which every shard is there, computed once."""
    settings = load_settings(params)
    shards = len(known_sources(settings, settings.splits[0]))
    with emptied(settings):
        ran = simulate(settings, kind, workers, costs, seed, threads)
        for column in COLUMNS:
            folder = column_dir(settings.store_path, f"bench/{column}/train")
            assert committed_shards(folder) == list(range(shards))
    assert dict(ran.shards) == {"masks": shards, "embed": shards}
    assert all(0 < ran.loads[stage] <= workers for stage in ("masks", "embed"))  # some may get no task
    assert sum(ran.shares.values()) == pytest.approx(1)
    return ran


@pytest.fixture(scope="module")
def costs() -> Costs:
    """The seconds of ViT-H and the encoders on an RTX 3090."""
    return costs_on(load_settings(ROOT / "params/reasonseg.yaml"), profiles(), "rtx-3090")


@pytest.fixture(scope="module")
def alone(store: Path, costs: Costs) -> Ran:
    """One worker: the local executor."""
    return simulated(store, "local", 1, costs)


def test_the_local_executor_computes_nearly_all_the_time(alone: Ran) -> None:
    """It publishes a shard while it computes the next one."""
    assert alone.shares["computing"] > 0.98
    assert alone.shares["waiting"] < 0.002


@pytest.mark.parametrize("kind", ["dask", "part"])
def test_eight_workers_are_seven_and_a_half_times_as_fast(store: Path, alone: Ran, costs: Costs, kind: Kind) -> None:
    eight = simulated(store, kind, 8, costs)
    assert 7.5 <= alone.seconds / eight.seconds <= 8
    assert max(eight.shares, key=lambda what: eight.shares[what]) == "computing"
    predicted = duration(costs.alone(240), 240, 8, 2 * costs.load + 2 * 2 * 240 * costs.plan)
    assert eight.seconds == pytest.approx(predicted, rel=0.03)  # what extract --plan says


@pytest.mark.parametrize("kind", ["dask", "part"])
def test_a_seed_decides_everything(small: Path, costs: Costs, kind: Kind) -> None:
    first, again, other = (simulated(small, kind, 4, costs, seed=seed).seconds for seed in (1, 1, 2))
    assert first == again != other


PLAIN = Costs(shard={"masks": 8.0, "embed": 6.0})
EIGHTH = PLAIN.alone(80) / 8


@pytest.mark.parametrize("kind", ["dask", "part"])
def test_work_alone_is_shared_out_evenly(small: Path, kind: Kind) -> None:
    assert simulated(small, kind, 8, PLAIN).seconds == pytest.approx(EIGHTH, rel=0.01)


@pytest.mark.parametrize(
    ("slow", "kind"),
    [
        ({"task": 2.0}, "dask"),  # handed out more slowly than it is done
        ({"load": 20.0}, "part"),
        ({"publish": {"masks": 20.0}}, "part"),
        ({"plan": 0.1}, "dask"),
    ],
)
def test_the_bar_can_be_missed(small: Path, slow: dict[str, Any], kind: Kind) -> None:
    assert simulated(small, kind, 8, replace(PLAIN, **slow)).seconds > EIGHTH * 8 / 7.5


def test_a_worker_with_two_threads_commits_while_it_computes(small: Path) -> None:
    slow = replace(PLAIN, publish={"masks": 4.0, "embed": 3.0})
    one, two = (simulated(small, "dask", 8, slow, threads=threads).seconds for threads in (1, 2))
    assert one == pytest.approx(EIGHTH * 1.5, rel=0.01)
    assert two == pytest.approx(EIGHTH + 4 + 3, rel=0.01)  # the last shard of each stage


def test_slow_answers_of_a_bucket_keep_nobody_waiting(small: Path) -> None:
    """Commits are looked for by other threads than the one that hands out tasks."""
    slow = replace(PLAIN, check={"masks": 3.0, "embed": 3.0})
    assert simulated(small, "dask", 8, slow).seconds == pytest.approx(EIGHTH + 3 + 3, rel=0.01)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixty_four_workers_are_fifty_six_times_as_fast(tmp_path: Path) -> None:
    params = make_store(tmp_path, 64 * 25)
    costs = costs_on(load_settings(ROOT / "params/reasonseg.yaml", SIXTEEN_BIT), profiles(), "rtx-3090")
    rows = grow(params, costs, [64])
    assert {row["executor"]: row["times"] >= 56 for row in rows if row["workers"] == 64} == {"dask": True, "part": True}
    assert "| dask | 64 |" in report({"machine": {}, "measured": {}, "simulated": {"rtx-3090": rows}})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_clock_agrees_with_real_processes(tmp_path: Path) -> None:
    """2, 4 and 8 of them, which sleep where a model would compute."""
    rows = check(tmp_path / "check", measure(tmp_path / "measured"))
    assert [(row["executor"], row["workers"]) for row in rows] == [(k, n) for n in (2, 4, 8) for k in ("dask", "part")]
    for row in rows:
        assert row["clock"] == pytest.approx(row["processes"], rel=0.15), row
