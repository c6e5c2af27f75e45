"""Forks: a child reads whatever the parent's threads were at when it was made, and shares nothing that both would write."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from factory import Known, full_store

from store import open_split
from store.read.table import Key, TableCache, accessor

ROOT = Path(__file__).parents[2]

START = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import store.read.column
from store import open_split

X = "mask_embeddings/sam/x"
FIELDS = ["targets.texts", "masks.segmentation", "match/sam/targets.iou"]

def opened(**how):
    return open_split(sys.argv[1], "d", "val", **how)

def images(batches):
    return [image for batch in batches for image in batch["image_index"].tolist()]

def child(work):
    '''The exit status of a forked child that does some work; one that hangs is killed after 20 s.'''
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]

def background(work):
    threading.Thread(target=work, daemon=True).start()
"""

SCRIPTS = {
    "which waited for Arrow": """
from store.forks import arrow_at_work
entered, over = threading.Event(), []
def arrow():
    with arrow_at_work(), arrow_at_work():
        entered.set()
        time.sleep(0.5)
        over.append(True)
background(arrow)
entered.wait()
def work():
    assert over == [True]
    with arrow_at_work():
        pass
    assert len(opened()) == 23
with arrow_at_work():  # of the thread that forks itself: nothing is waited for
    print(child(work))
again = threading.Thread(target=arrow)
again.start()
again.join(10)
assert over == [True, True]
""",
    "while a table is being decoded": """
split = opened()
real, entered, forked = store.read.column.read_table, threading.Event(), threading.Event()
def slow(*given):
    entered.set()
    forked.wait()
    return real(*given)
store.read.column.read_table = slow
background(lambda: list(split.stream(["targets.texts"], 4, threads=0)))
entered.wait()
def work():
    store.read.column.read_table = real
    assert images(split.stream(["targets.texts"], 4)) == list(range(23))
    assert len(split[0].masks) == len(split[0][X])
print(child(work))
forked.set()
""",
    "while a row group is being decoded": """
split = opened(table_cache_bytes=1)
want = [record.rows("masks") for record in opened()]
for number in (0, 4, 0):
    split[number].masks
real, entered, forked = store.read.column.read_row_group, threading.Event(), threading.Event()
def slow(*given):
    entered.set()
    forked.wait()
    return real(*given)
store.read.column.read_row_group = slow
background(lambda: split.column("masks").table_rows(4))
entered.wait()
def work():
    store.read.column.read_row_group = real
    assert [record.rows("masks") for record in split] == want
print(child(work))
forked.set()
""",
    "while a record's masks are being worked out": """
split = opened()
record, other = split[0], split[1]
real, entered, forked = store.read.column.read_table, threading.Event(), threading.Event()
def slow(*given):
    entered.set()
    forked.wait()
    return real(*given)
store.read.column.read_table = slow
background(lambda: record.masks)
entered.wait()
def work():
    store.read.column.read_table = real
    assert len(other.masks) == len(other[X])
print(child(work))
forked.set()
""",
    "under load": """
split, again = opened(table_cache_bytes=1), opened()
def load():
    while True:
        for batch in split.stream([X, *FIELDS], 4, shuffle=True, level="target"):
            pass
        for record in split:
            record.masks, record.targets, record[X]
for _ in range(3):
    background(load)
def work():
    assert images(split.stream([X, *FIELDS], 4)) == list(range(23))
    assert images(again.stream([X, *FIELDS], 4)) == list(range(23))
    assert [len(record.masks) for record in split] == [len(record[X]) for record in split]
print([child(work) for _ in range(12)])
from store.torch import loader
batches = loader(split.stream([X, *FIELDS], 4), num_workers=2, multiprocessing_context="fork")
signal.alarm(60)
assert images(batches) == list(range(23))
sys.stdout.flush()
os._exit(0)  # the threads are still at it
""",
    "in the middle of an iteration": """
for threads in (0, 1, 3):
    batches = iter(opened().stream([X, "targets.texts"], 3, threads=threads))
    taken = images(next(batches) for _ in range(2))
    def work():
        rest = list(batches)
        assert images(rest) == list(range(6, 23)), images(rest)
        assert all(len(batch["targets.texts"]) == len(batch[X]) for batch in rest)
    print(child(work))
    assert taken + images(batches) == list(range(23))
""",
    "while both share more tables with workers": """
from store.torch import loader
split = opened()
loader(split.stream(["targets.texts"]), num_workers=1)
def share(names):
    return images(loader(split.stream(names, 4), num_workers=1, multiprocessing_context="fork"))
read, write = os.pipe()
real = os.pwrite
def work():
    os.read(read, 1)  # until the parent has begun to write
    assert share(["masks.segmentation"]) == list(range(23))
    assert [batch["masks.segmentation"] for batch in split.stream(["masks.segmentation"], 4)] == expected
expected = [batch["masks.segmentation"] for batch in opened().stream(["masks.segmentation"], 4)]
def slow(*given):
    if given[2]:
        os.write(write, b".")
        time.sleep(0.05)
    return real(*given)
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    work()
    os._exit(0)
os.pwrite = slow
assert share(["instances.segmentation"]) == list(range(23))
print(os.waitpid(pid, 0)[1])
wanted = [batch["instances.segmentation"] for batch in opened().stream(["instances.segmentation"], 4)]
assert [batch["instances.segmentation"] for batch in split.stream(["instances.segmentation"], 4)] == wanted
""",
    "with all that is imported for it": """
split = opened()
before = set(sys.modules)
def work():
    list(split.stream([X, *FIELDS], 4, level="target"))
    assert not {name for name in set(sys.modules) - before if name.startswith(("store", "pyarrow", "concurrent"))}
work()  # an import that another thread is at when a fork comes is never finished in the child
print(child(work))
""",
}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=23)


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="this system cannot fork")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("when", SCRIPTS)
def test_a_forked_child_reads(known: Known, when: str) -> None:
    """In a process of its own: what hangs there hangs there."""
    command = [sys.executable, "-c", START + SCRIPTS[when], str(known.store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    statuses = [json.loads(line) for line in done.stdout.splitlines()]
    assert set(map(str, statuses)) <= {"0", str([0] * 12)}, (statuses, done.stderr)
    assert statuses


def test_threads_decode_different_shards_at_once_and_the_same_one_once() -> None:
    cache, decoded = TableCache(), []
    both = threading.Barrier(2, timeout=20)

    def decode(shard: int) -> pa.Table:
        decoded.append(shard)
        both.wait()  # passes only when the other shard is being decoded as well
        return pa.table({"value": [shard]})

    found: list[Any] = []

    def read(shard: int) -> None:
        found.append((shard, cache.get(Key("d/val/t", shard, None), lambda: decode(shard)).table["value"].to_pylist()))

    threads = [threading.Thread(target=read, args=(shard,)) for shard in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(decoded) == [0, 1]
    assert sorted(found) == [(0, [0]), (0, [0]), (1, [1]), (1, [1])]


def test_a_decode_that_fails_is_tried_again_by_those_who_waited() -> None:
    cache, first, told = TableCache(), threading.Event(), []
    waiting = threading.Event()

    def fails() -> pa.Table:
        first.set()
        waiting.wait(20)
        raise OSError("the first")

    def read() -> None:
        try:
            cache.get(Key("d/val/t", 0, None), fails)
        except OSError as error:
            told.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    first.wait(20)
    threading.Timer(0.1, waiting.set).start()
    shard = cache.get(Key("d/val/t", 0, None), lambda: pa.table({"value": [7]}))
    thread.join(20)
    assert shard.field("value")(0) == accessor(pa.array([7]))(0)
    assert told == ["the first"]
    assert cache.own_bytes == shard.table.nbytes


def test_a_reader_of_another_thread_does_not_wait_for_a_decode(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    import store.read.column

    split = open_split(known.store, "d", "val")
    real, entered, go = store.read.column.read_table, threading.Event(), threading.Event()

    def slow(folder: Any, commit: Any, *rest: Any) -> pa.Table:
        if commit.shard == 1:
            entered.set()
            assert go.wait(20)
        return real(folder, commit, *rest)

    monkeypatch.setattr(store.read.column, "read_table", slow)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(split[4].masks)))
    thread.start()
    assert entered.wait(20)
    assert len(split[0].masks) == len(known.masks[0])
    go.set()
    thread.join(20)
    assert found == [len(known.masks[4])]
