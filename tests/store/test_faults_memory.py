"""The fault suites over a storage in memory: killed, failing, refused, answers lost, lists stale, damage, random histories."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from damage import columns_of, read, wrong_reads
from factory import full_store, small_store, vectors
from faults import IMAGES, WORKS, Work, prepare, race, readable, unexpected_damage, write, wrong_content
from memory import Call, MemoryStorage
from test_faults_model import HOW, Histories, Killed

from store import StoreError, open_split
from store.format import column
from store.storage.mounts import mounted
from store.storage.protocol import LostAnswerError, RefusedError
from store.write.verify import repair, verify
from store.write.writer import finish_column

STORE = Path("/memory/store")


@pytest.fixture(params=["array, other upstream", "table, other parameters", "array, fewer shards", "table, first time"])
def work(request: pytest.FixtureRequest) -> Work:
    return WORKS[request.param]


def prepared(work: Work) -> tuple[MemoryStorage, list[Call], dict[str, bytes]]:
    """The storage before the work, every call of it, and what it ends with."""
    base, calls = MemoryStorage(), []
    with mounted(STORE, base):
        prepare(STORE, work)
    whole = base.copy()
    column._column_of_version.cache_clear()
    whole.before = calls.append
    with mounted(STORE, whole):
        write(STORE, work.kind, work.new)
        whole.before = lambda call: None
        assert len(readable(STORE, work.kind)) == IMAGES
    return base, calls, whole.bytes()


def at(number: int, happen: Callable[[Call], None]) -> Callable[[Call], None]:
    """A hook for one call, counted from 0."""
    column._column_of_version.cache_clear()  # or there are fewer calls than the first time
    count = iter(range(10**6))
    return lambda call: happen(call) if next(count) == number else None


def sampled(calls: list[Call]) -> list[tuple[int, Call]]:
    """Those that change something, those right after them, and every fifth."""
    changes = [number for number, call in enumerate(calls) if call.kind in ("put", "delete", "stage")]
    return [
        (n, calls[n])
        for n in sorted({*changes, *(n + 1 for n in changes), *range(0, len(calls), 5)} & {*range(len(calls))})
    ]


def ends_the_same(storage: MemoryStorage, work: Work, acked: set[int], expected: dict[str, bytes], what: str) -> None:
    """Nothing acked is lost, nothing wrong is read, and the next run ends as one that was never disturbed."""
    storage.before = lambda call: None
    assert wrong_content(STORE, work, acked) is None, what
    assert unexpected_damage(verify(STORE, ["d/val"], deep=True)) == [], what
    write(STORE, work.kind, work.new)
    assert storage.bytes() == expected, what


def test_killed_before_every_call(work: Work) -> None:
    base, calls, expected = prepared(work)

    def kill(call: Call) -> None:
        raise Killed

    for number, call in sampled(calls):
        storage, acked = base.copy(), set[int]()
        storage.before = at(number, kill)
        with mounted(STORE, storage):
            with pytest.raises(Killed):
                write(STORE, work.kind, work.new, acked.add)
            ends_the_same(storage, work, acked, expected, f"killed before {number}: {call}")


def test_every_call_may_fail(work: Work) -> None:
    base, calls, expected = prepared(work)

    def fail(call: Call) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(call.path))

    for number, call in sampled(calls):
        storage, acked = base.copy(), set[int]()
        storage.before = at(number, fail)
        with mounted(STORE, storage):
            with pytest.raises(OSError, match=str(STORE)):
                write(STORE, work.kind, work.new, acked.add)
            ends_the_same(storage, work, acked, expected, f"failed: {number}: {call}")


def test_every_answer_may_be_lost(work: Work) -> None:
    """A shard of which only the answer was lost is done: nobody is told that it failed."""
    base, calls, expected = prepared(work)
    for number in (number for number, call in enumerate(calls) if call.kind in ("put", "delete")):
        storage, acked, lost = base.copy(), set[int](), list[Call]()
        storage.before = at(number, lost.append)
        storage.loses = lambda call, lost=lost: call in lost  # type: ignore[misc]
        with mounted(STORE, storage):
            with contextlib.suppress(LostAnswerError):
                write(STORE, work.kind, work.new, acked.add)
                lost.append(Call("all was written", STORE))
            assert len(lost) == 2 or lost[0].kind == "delete" or lost[0].path.suffix == ".json", lost
            storage.loses = lambda call: False
            ends_the_same(storage, work, acked, expected, f"lost the answer of {calls[number]}")


def test_every_condition_may_be_refused(work: Work) -> None:
    """As an object store refuses when two requests meet, though nothing was changed by either: it is asked again."""
    base, calls, expected = prepared(work)

    def refuse(call: Call) -> None:
        raise RefusedError

    for number in (number for number, call in enumerate(calls) if call.kind == "put"):
        storage, acked = base.copy(), set[int]()
        storage.before = at(number, refuse)
        with mounted(STORE, storage):
            write(STORE, work.kind, work.new, acked.add)
            ends_the_same(storage, work, acked, expected, f"refused: {calls[number]}")
            assert acked


@pytest.mark.parametrize("lag", [1, 3, 50])
def test_listings_may_be_stale(lag: int) -> None:
    """What was just put is not listed yet, and what is gone still is: shards are read by name all the same."""
    storage, counts = MemoryStorage(lag=lag, latency_s=1e-5), [3, 0, 20, 1, 5]
    with mounted(STORE, storage):
        small_store(STORE, counts)
        split = open_split(STORE, "d", "val", columns="mask_embeddings/sam/x") if lag < 3 else None
        storage.lag = 0
        split = split or open_split(STORE, "d", "val", columns="mask_embeddings/sam/x")
        for image, want in enumerate(vectors(counts)):
            np.testing.assert_array_equal(split[image]["mask_embeddings/sam/x"], want)
        storage.lag = lag
        write(STORE, "table", {})
        storage.lag = 0
        assert verify(STORE, ["d/val"], deep=True).problems == []


def test_any_object_damaged_is_found_and_never_read_as_right() -> None:
    rng, storage = random.Random(3), MemoryStorage()
    with mounted(STORE, storage):
        full_store(STORE, 3, shard_images=2)
        columns = columns_of(STORE)
        good = {name: read(STORE, columns, name) for name in columns}
        assert verify(STORE, ["d/val"], deep=True).problems == []
        for path, (data, token) in rng.sample(sorted(storage.objects.items()), 8):
            name = path.relative_to(STORE / "d").as_posix().split("/val/")[0]
            bit = rng.randrange(8 * len(data))
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            bad = rng.choice([bytes(flipped), data[: rng.randrange(len(data) - 1)], data + b"\0"])
            storage.set(path, bad)
            assert wrong_reads(good[name], read(STORE, columns, name)) == [], path
            report = verify(STORE, ["d/val"], deep=True)
            assert report.problems, path
            repair(report)
            left = [str(found) for found in verify(STORE, ["d/val"], deep=True).problems]
            assert [found for found in left if ".json is missing" not in found] == [], path
            storage.objects[path] = (data, token)
            finish_column(STORE / "d" / name / "val", f"d/{name}/val")


class MemoryHistories(Histories):
    """The same histories over a storage in memory, killed before any of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage()
        self.mount = mounted(self.store, self.storage)
        self.mount.__enter__()

    def teardown(self) -> None:
        self.mount.__exit__(None, None, None)
        super().teardown()

    @contextmanager
    def until(self, number: int | None) -> Iterator[None]:
        def kill(call: Call) -> None:
            if next(count) >= (10**9 if number is None else number):
                raise Killed

        count = iter(range(10**9 + 1))
        self.storage.before = kill
        try:
            yield
        finally:
            self.storage.before = lambda call: None

    def change(self, path: Path, change: Callable[[bytearray], None]) -> None:
        data = bytearray(self.storage.objects[path][0])
        change(data)
        self.storage.set(path, bytes(data))


def test_histories() -> None:
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        MemoryHistories, settings=settings(max_examples=5, stateful_step_count=12, derandomize=True, **HOW)
    )


def test_writers_in_threads_agree_or_say_so() -> None:
    """Over a storage that is slow and locks nothing."""
    storage = MemoryStorage(latency_s=2e-4)
    with mounted(STORE, storage):
        prepare(STORE, WORKS["array, first time"])
        race(STORE, 1, 1, 2)


def test_a_store_that_is_nowhere_is_said_to_be(tmp_path: Path) -> None:
    with mounted(STORE, MemoryStorage()):
        with pytest.raises(StoreError, match="holds no indexed split"):
            open_split(STORE, "d", "val")


@pytest.mark.slow
def test_many_long_histories() -> None:
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(MemoryHistories, settings=settings(max_examples=100, stateful_step_count=40, **HOW))
