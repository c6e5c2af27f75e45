"""A machine that dies at any moment loses at most the shards in work: SIGKILL at random moments, on executors and storages.

A round begins without what the commands make, and ends when they have ended by themselves. In between each run is killed, and
after each kill every shard that was there is there as it was, and every new one is what an undisturbed run makes.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from store.storage.listing import files_below
from store.storage.objects import read_object, replace_object
from tests.s3 import serving

MADE = ("match", "centered", "means")
"""Folders of the columns that the commands make."""
MATCH, NORMALIZE = "extract --stage match", "normalize"
Shards = dict[str, bytes]


def shards_of(store: Path) -> Shards:
    """Path below the store -> bytes, of every shard of every column."""
    paths = [path.relative_to(store) for path in files_below(store)]
    return {
        path.as_posix(): read_object(store / path)
        for path in paths
        if (path.suffix == ".parquet" or "c" in path.parts) and not path.name.startswith(".tmp-")
    }


class Round:
    """A project whose runs are killed, from a cleared store to a whole one, again and again; ``kills`` counts them."""

    def __init__(self, project: Any, expected: Shards, clear: Callable[[], None]) -> None:
        self.project, self.expected, self.clear = project, expected, clear
        self.rng = random.Random(7)
        self.kills, self._lasts_s = 0, 0.0
        self.said = ""
        """What the processes of the last run printed, for messages."""

    @property
    def store(self) -> Path:
        return Path(self.project.values["store"])

    def moments(self, count: int) -> list[float]:
        """After how many seconds to kill each of this many processes; empty where a run is not disturbed."""
        if not self._lasts_s or self.rng.random() < 0.1:
            return []
        return [self.rng.uniform(0, self._lasts_s) for _ in range(count)]

    def until(self, kills: int, run: Callable[[], bool]) -> None:
        """Rounds until there were this many kills; ``run`` says whether one was. The first run is only timed."""
        while self.kills < kills:
            self.clear()
            done, start = shards_of(self.store), time.monotonic()
            while run():
                self.kills += 1
                done = self.check(done)
            self._lasts_s = self._lasts_s or time.monotonic() - start
            missing = self.expected.keys() - self.check(done).keys()
            assert not missing, (
                f"after {self.kills} kills nothing was left to do, and these are missing: {missing}\n{self.said}"
            )

    def check(self, before: Shards) -> Shards:
        """What is there now: all that was there before, and nothing that is not whole."""
        after = shards_of(self.store)
        lost = [name for name, data in before.items() if after.get(name) != data]
        assert not lost, f"after {self.kills} kills shards that were done are lost: {lost}\n{self.said}"
        torn = [name for name, data in after.items() if self.expected.get(name) != data]
        assert not torn, f"after {self.kills} kills shards are not whole: {torn}\n{self.said}"
        return after


@pytest.fixture
def local(finished: Any) -> Round:
    """Of a store in a folder, from which the work is cleared away."""
    expected, keep = shards_of(finished.store), finished.folder / "as-it-was"
    for name in MADE:
        for folder in (finished.store / "tiny" / name, finished.store / name):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(finished.store, keep)

    def clear() -> None:
        shutil.rmtree(finished.store)
        shutil.copytree(keep, finished.store)

    return Round(finished, expected, clear)


@pytest.fixture
def remote(finished: Any) -> Iterator[Round]:
    """Of a store in a bucket, which is a new one in every round."""
    local_store = finished.store
    expected = shards_of(local_store)
    kept = [path.relative_to(local_store) for path in files_below(local_store) if not set(MADE) & set(path.parts)]
    with serving() as server:

        def clear() -> None:
            finished.configure(store=f"s3://{server.bucket()}/store")
            for path in kept:
                replace_object(Path(finished.values["store"]) / path, (local_store / path).read_bytes())

        clear()
        yield Round(finished, expected, clear)


@dataclass
class Forked:
    """A process that runs commands, and the file with what it printed."""

    number: int
    printed: Path

    def ended(self) -> int:
        """Wait for its end; its exit code, or the signal that killed it, negative."""
        return os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])


def forked(project: Any, *commands: str) -> Forked:
    """Run the commands, each as soon as the one before it ended well."""
    printed = project.folder / f"printed-{uuid.uuid4().hex}"
    child = os.fork()
    if child:
        return Forked(child, printed)
    code = 1
    try:
        for command in commands:
            done = project.run(*command.split(), before=("--debug",))
            code = done.code
            with printed.open("a") as file:
                file.write(f"{command}: {done}\n")
            if code:
                break
    except BaseException:  # noqa: BLE001 (it is printed, and the process ends)
        printed.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def killed(own: Round, children: Sequence[Forked], after_s: Sequence[float]) -> bool:
    """Whether any of the processes was killed, each after its time; those that were not have ended well."""
    start = time.monotonic()
    for wait_s, child in sorted(zip(after_s, children, strict=False), key=lambda each: each[0]):
        time.sleep(max(0.0, start + wait_s - time.monotonic()))
        os.kill(child.number, signal.SIGKILL)  # of a process that has ended already this does nothing
    codes = [child.ended() for child in children]
    printed = [child.printed.read_text() if child.printed.exists() else "nothing" for child in children]
    own.said = f"killed after {after_s} s, ended with {codes}, printed:\n" + "\n".join(printed)
    assert set(codes) <= {0, -signal.SIGKILL}, f"after {own.kills} kills: {own.said}"
    return -signal.SIGKILL in codes


EXHAUSTIVE = (pytest.mark.slow, pytest.mark.timeout(3600))
"""On a machine with other work hundreds of runs take longer than the five minutes that a test has."""


@pytest.mark.parametrize("kills", [3, pytest.param(700, marks=EXHAUSTIVE)])
def test_one_process(local: Round, kills: int) -> None:
    local.until(kills, lambda: killed(local, [forked(local.project, MATCH, NORMALIZE)], local.moments(1)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_parts_side_by_side(local: Round) -> None:
    def run() -> bool:
        parts = [forked(local.project, f"{MATCH} --part {part}/2") for part in range(2)]
        if killed(local, parts, local.moments(2)):
            return True
        return killed(local, [forked(local.project, NORMALIZE)], local.moments(1))

    local.until(200, run)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_process_and_a_bucket(remote: Round) -> None:
    """In a process of its own, as a forked one could not use the bucket: it is killed when it has begun."""

    def run() -> bool:
        code = 0
        for command in (MATCH, NORMALIZE):
            child = remote.project.child(*command.split())
            for moment in remote.moments(1):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(1 + moment)
                child.kill()
            said = child.communicate()
            code = child.returncode
            remote.said = f"{command} ended with {code}: {said}"
            assert code in (0, -signal.SIGKILL), remote.said
            if code:
                break
        return bool(code)

    remote.until(60, run)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_workers_of_dask(local: Round) -> None:
    """The workers are killed, again and again, while the command goes on: it ends well, or says that it has lost them."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:

        def run() -> bool:
            cluster.scale(2)  # Dask gives up a worker that does not come back within 15 s
            cluster.wait_for_workers(2, timeout=300)
            child, killed = local.project.child(*MATCH.split(), "--scheduler", cluster.scheduler_address), 0
            for moment in local.moments(2):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(moment)
                if child.poll() is None and (
                    pids := [each.pid for each in cluster.workers.values() if each.pid is not None]
                ):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(local.rng.choice(pids), signal.SIGKILL)
                        killed += 1
            said = child.communicate()
            local.said = f"ended with {child.returncode}: {said}"
            assert child.returncode in (0, 75), local.said
            local.kills += max(0, killed - 1)
            return bool(killed)

        later = {"centered", "means"}  # of another command
        local.expected = {name: data for name, data in local.expected.items() if not later & set(Path(name).parts)}
        local.until(60, run)
