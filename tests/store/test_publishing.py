"""Every order in which writers, a reader and crashes can meet, by the steps of the real code: nothing is torn, lost or hidden.

A step is one call of the storage for an object that somebody changes. Actors run in threads, one step at a time; every state
that any order of steps leads to is looked at as if all of them died there, so a crash needs no order of its own.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import array_meta, vectors, write_images
from memory import Call, MemoryStorage

from store import ConflictError, StoreError
from store.errors import ChangedError
from store.format import column, summary
from store.format.column import ColumnMeta, Commit
from store.format.layout import column_dir
from store.format.schema import OK
from store.format.shard import read_commit
from store.read.column import open_column
from store.storage.mounts import mounted, storage_of
from store.write.verify import verify
from store.write.writer import ShardData, begin_column, finish_column, seen_commit, write_shard

STORE = Path("/memory/store")
load_column_of = column._column_of_version.__wrapped__
"""What :func:`store.format.column.read_column` keeps the results of."""
PLACE, UPSTREAM = "d/mask_embeddings/sam/x/val", "d/images/val"
FOLDER, IMAGES = column_dir(STORE, PLACE), column_dir(STORE, UPSTREAM)
CHANGED = {FOLDER / "c/0/0/0", FOLDER / "summary.json", IMAGES / "00000.parquet", FOLDER / "column.json"}


class Crashed(BaseException):
    """The process is gone: nothing more is done, also nothing that would clean up."""


def values_from(content: str, points: int) -> list[np.ndarray]:
    """What a shard computed from this upstream and these parameters holds."""
    return vectors([2, 1], seed=int(content[:6], 16) + points)


def publish(points: int = 0) -> Commit:
    """As the pipeline computes a shard."""
    meta = array_meta(2, points=points)
    seen, upstream = seen_commit(FOLDER, 0, meta), read_commit(IMAGES, 0)
    assert upstream is not None
    rows = values_from(upstream.content, points)
    data = ShardData(rows, [2, 1], [OK, OK])
    return write_shard(FOLDER, meta, PLACE, 0, data, {"images": upstream.content}, None, {}, seen)


def write(points: int = 0) -> Commit:
    """And finishes the column with it."""
    done = publish(points)
    finish_column(FOLDER, PLACE)
    return done


def begin_and_write(points: int) -> Commit:
    begin_column(FOLDER, array_meta(2, points=points))
    return write(points)


def read() -> Commit:
    """Both images, wholly and of one version; the commit that they were read with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opened = open_column(STORE, PLACE, coherence="warn")
    commit = opened.commits[0]
    assert commit is not None
    for image, want in enumerate(values_from(commit.upstream["images"], opened.meta.identity["points"])):
        np.testing.assert_array_equal(opened.array(image), want)
    return commit


class Process:
    """What a process keeps in memory of a store. An actor has its own, since it stands for a process of its own."""

    def __init__(self) -> None:
        self.columns = lru_cache(load_column_of)
        self.distrusted: set[tuple[Path, str]] = set()

    def enter(self) -> None:
        """Let what runs next be part of this process."""
        column._column_of_version = self.columns
        summary._distrusted = self.distrusted


@dataclass
class Actor:
    """Somebody at work in a thread of its own; ``seen``: what each of its steps met."""

    work: Callable[[], Any]
    process: Process = field(default_factory=Process)
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    outcome: Any = None
    thread: threading.Thread | None = None


class Execution:
    """Actors over a copy of a storage, stopped before their next steps."""

    def __init__(self, base: MemoryStorage, works: dict[str, Callable[[], Any]], changed: Set[Path]) -> None:
        self.changed = changed
        self.storage = base.copy()
        self.storage.before = self._before
        self.actors = {name: Actor(work) for name, work in works.items()}
        self.stopped = threading.Semaphore(0)
        self.crashed = False

    def start(self) -> None:
        """Let every actor come to its first step."""
        for name, actor in self.actors.items():
            actor.process.enter()
            actor.thread = threading.Thread(target=self._run, args=(actor,), name=name, daemon=True)
            actor.thread.start()
            self.stopped.acquire()

    def _run(self, actor: Actor) -> None:
        try:
            actor.outcome = actor.work()
        except StoreError as error:
            actor.outcome = error
        except Crashed:
            pass
        except BaseException as error:  # noqa: BLE001 (it is asserted on)
            actor.outcome = error
        self.stopped.release()

    def _before(self, call: Call) -> None:
        actor = self.actors.get(threading.current_thread().name)
        if actor is None or call.path not in self.changed:
            return
        self.stopped.release()
        actor.go.acquire()
        if self.crashed:
            raise Crashed
        actor.seen.append((call.kind, call.path.name, self.storage.version(call.path)))

    @property
    def alive(self) -> list[str]:
        return [name for name, actor in self.actors.items() if actor.outcome is None]

    def step(self, name: str) -> None:
        assert self.actors[name].outcome is None, f"{name} has ended: the same order was another one before"
        self.actors[name].process.enter()
        self.actors[name].go.release()
        self.stopped.acquire()

    def key(self) -> Any:
        """All that decides what can come: what there is, and what each actor has met so far."""
        there = tuple(self.storage.version(path) for path in sorted(self.changed))
        return there, tuple((tuple(actor.seen), actor.outcome is None) for actor in self.actors.values())

    def crash(self) -> None:
        self.crashed = True
        for actor in self.actors.values():
            actor.go.release()
        for actor in self.actors.values():
            assert actor.thread is not None
            actor.thread.join()


def explore(
    base: MemoryStorage,
    works: dict[str, Callable[[], Any]],
    check: Callable[[Execution], None],
    changed: Set[Path] = CHANGED,
) -> int:
    """Check every state that any order of the actors' steps leads to; how many there are.

    A step is a call for an object of ``changed``: calls for one that nobody changes come out the same in any order.
    """
    known: set[Any] = set()
    waiting: list[list[str]] = [[]]
    while waiting:
        order = waiting.pop()
        run = Execution(base, works, changed)
        with mounted(STORE, run.storage):
            run.start()
            for name in order:
                run.step(name)
            while run.key() not in known:
                known.add(run.key())
                Process().enter()
                check(run)
                if not run.alive:
                    break
                first, *others = run.alive
                waiting += [[*order, name] for name in others]
                order = [*order, first]
                run.step(first)
            run.crash()
    return len(known)


def base_storage(existing: bool, summarised: bool = True) -> MemoryStorage:
    """Images, and a column computed from an older version of them, or begun and not computed."""
    storage = MemoryStorage()
    with mounted(STORE, storage):
        write_images(STORE, 2, failed={0: "an older version"})
        begin_column(FOLDER, array_meta(2, points=0))
        if existing:
            write()
        write_images(STORE, 2)
        if not summarised:
            summary.remove_summary(FOLDER)
    return storage


def new_images() -> Callable[[], Any]:
    """Another version of the images, put in one step."""
    storage = MemoryStorage()
    with mounted(STORE, storage):
        write_images(STORE, 2, failed={1: "a newer version"})
    data = storage.objects[IMAGES / "00000.parquet"][0]

    def put() -> str:
        there = storage_of(IMAGES)
        now = there.stat(IMAGES / "00000.parquet")
        with there.stage(IMAGES / "00000.parquet", [data]) as staged:
            there.put(staged, IMAGES / "00000.parquet", None if now is None else now.token)
        return "put"

    return put


def checker(existing: bool) -> Callable[[Execution], None]:
    """Of every state: whole, never less than there was, never another version than one that somebody finished or is finishing."""

    def check(run: Execution) -> None:
        outcomes = {name: actor.outcome for name, actor in run.actors.items()}
        for name, outcome in outcomes.items():
            assert outcome is None or isinstance(outcome, Commit | ConflictError | ChangedError | str), (name, outcome)
        acked = [outcome for outcome in outcomes.values() if isinstance(outcome, Commit)]
        try:
            try:
                found = read()
            except ChangedError:  # a summary that is out of date is told apart once
                found = read()
        except StoreError:
            if existing or acked:
                raise
            return
        there = read_commit(FOLDER, 0)
        assert there is not None
        assert found.seal == there.seal
        if run.alive:
            return
        report = verify(STORE, ["d/val"], deep=True)
        assert report.problems == [], report.problems
        if any(name.startswith("writer") and isinstance(outcome, Commit) for name, outcome in outcomes.items()):
            assert there.seal in {commit.seal for commit in acked}
        write()  # whatever came about, the next run makes it current
        assert finish_column(FOLDER, PLACE)
        assert verify(STORE, ["d/val"], deep=True).problems == []
        assert open_column(STORE, PLACE).commits[0] is not None

    return check


def noting(committed: set[tuple[bool, ...]], check: Callable[[Execution], None]) -> Callable[[Execution], None]:
    """The check, which also notes which of two writers had their shard committed, wherever all have ended."""

    def checked(run: Execution) -> None:
        check(run)
        if not run.alive:
            committed.add(tuple(isinstance(run.actors[f"writer {number}"].outcome, Commit) for number in (1, 2)))

    return checked


@pytest.mark.parametrize("existing", [True, False], ids=["over a stale shard", "in an empty place"])
def test_two_writers(existing: bool) -> None:
    assert explore(base_storage(existing), {"writer 1": publish, "writer 2": publish}, checker(existing)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("existing", [True, False], ids=["over a stale shard", "in an empty place"])
def test_two_writers_that_finish_the_column(existing: bool) -> None:
    assert explore(base_storage(existing), {"writer 1": write, "writer 2": write}, checker(existing)) > 1000


def test_a_writer_that_leaves_the_summary_there_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """So these tests can fail."""
    monkeypatch.setattr("store.write.writer.remove_summary", lambda folder, durable=True: None)
    with pytest.raises(AssertionError, match=r"summary\.json is not that of its shards"):
        explore(base_storage(True), {"writer 1": publish}, checker(True))


def test_a_writer_that_makes_room_first_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_room(folder: Path, durable: bool = True) -> None:
        storage_of(folder).delete(folder / "c/0/0/0")

    monkeypatch.setattr("store.write.writer.remove_summary", make_room)
    with pytest.raises((AssertionError, StoreError)):
        explore(base_storage(True), {"writer 1": publish}, checker(True))


def test_a_writer_while_its_inputs_change() -> None:
    works = {"writer 1": write, "images": new_images()}
    assert explore(base_storage(True), works, checker(True)) > 30


def test_a_reader_while_a_shard_is_replaced() -> None:
    """It reads one version, or says that it was computed again; never some of each."""
    works = {"writer 1": publish, "reader": read}
    assert explore(base_storage(True), works, checker(True)) > 50
    assert explore(base_storage(True, summarised=False), works, checker(True)) > 50


@pytest.mark.slow
@pytest.mark.parametrize("existing", [True, False], ids=["over a stale shard", "in an empty place"])
def test_two_writers_from_other_inputs_and_a_reader(existing: bool) -> None:
    """Who computed from the older images may come too late: one writer, both or neither have their shard committed."""
    committed: set[tuple[bool, ...]] = set()
    works = {"writer 1": publish, "writer 2": publish, "images": new_images(), "reader": read}
    if not existing:
        del works["reader"]
    assert explore(base_storage(existing), works, noting(committed, checker(existing))) > 1000
    assert committed == {(True, True), (True, False), (False, True), (False, False)}


@pytest.mark.slow
def test_two_writers_that_begin_with_other_parameters() -> None:
    """The column is that of one of them; whose parameters it has not is told so."""

    def check(run: Execution) -> None:
        for actor in run.actors.values():
            assert actor.outcome is None or isinstance(actor.outcome, Commit | ConflictError), actor.outcome
        if not run.alive:
            assert verify(STORE, ["d/val"], deep=True).problems == []
            meta: ColumnMeta = open_column(STORE, PLACE, allow_incomplete=True).meta
            begin_and_write(meta.identity["points"])
            assert read().fingerprint == meta.fingerprint

    works = {"writer 1": lambda: begin_and_write(1), "writer 2": lambda: begin_and_write(2)}
    committed: set[tuple[bool, ...]] = set()
    unchanged = IMAGES / "00000.parquet"
    assert explore(base_storage(True), works, noting(committed, check), CHANGED - {unchanged}) > 10_000
    assert committed == {(True, True), (True, False), (False, True)}
