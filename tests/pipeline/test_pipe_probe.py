"""The file with which processes find out whether they see one store: no trace of it is left, also by those that are killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.dask.probe import probe_of, renew, sees
from store import open_split
from store.storage.listing import entries
from store.write.verify import repair, verify
from tests.s3 import Server


def hold(store: Path, pipe: Any) -> None:
    """Have a probe in a store permanently."""
    with probe_of(store) as path:
        pipe.send(path)
        signal.pause()


def probe_of_a_child(store: Path) -> tuple[int, Path]:
    """A process that has a probe in a store, and the probe."""
    ours, theirs = multiprocessing.Pipe()
    child = os.fork()
    if not child:
        hold(store, theirs)
    return child, ours.recv()


def temporary(store: Path) -> list[str]:
    return [entry.name for entry in entries(store) if entry.name.startswith(".tmp-")]


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_kill_leaves_is_removed_by_whoever_comes_next(finished: Any) -> None:
    store = finished.store
    child, path = probe_of_a_child(store)
    assert sees(path)
    report = verify(store, ["tiny/val"])
    assert report.problems == [], "its process lives"
    assert repair(report) == []
    with probe_of(store) as other:
        assert other != path
        assert sees(path), "its process lives"
    kill(child)
    assert temporary(store) == [path.name]

    assert finished.run("info").code == 0
    assert len(open_split(store, "tiny", "val")) == 3
    report = verify(store, ["tiny/val"])
    assert [(problem.place, problem.files) for problem in report.problems] == [(path.name, (path,))]
    with probe_of(store):
        assert len(temporary(store)) == 1
    assert temporary(store) == []

    child, path = probe_of_a_child(store)
    kill(child)
    assert repair(verify(store, ["tiny/val"])) == [path]
    assert temporary(store) == []

    child, path = probe_of_a_child(store)
    kill(child)
    finished.shard_path("match/sam/targets/val#0").unlink()
    finished.build("extract --split val --stage match")
    assert temporary(store) == []


def test_in_a_bucket_it_is_left_for_a_day(server: Server, finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    finished.configure(store=f"s3://{server.bucket()}/store")
    finished.build("index --split val")
    store = Path(finished.values["store"])
    with probe_of(store) as path:
        assert path is not None
        assert sees(path)
        report = verify(store, ["tiny/val"])
        assert report.problems == [], "its process may live"
        monkeypatch.setattr("store.storage.remote.ABANDONED_S", -60)  # a day later
        report = verify(store, ["tiny/val"])
        assert [problem.place for problem in report.problems] == [path.name]
        assert repair(report) == [path]
        assert not sees(path)
        renew(path)
        assert sees(path)
        with probe_of(store):
            assert len(temporary(store)) == 1, "the old one is removed"
        renew(path)
    assert temporary(store) == []


def test_what_a_storage_was_tried_out_with_is_removed(
    server: Server, finished: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process was killed between putting the object and removing it."""
    from store.storage.mounts import _of_scheme, storage_of

    finished.configure(store=f"s3://{server.bucket()}/store")
    finished.build("index --split val")
    store = Path(finished.values["store"])
    column = store / "tiny/images/val"
    _of_scheme.cache_clear()
    monkeypatch.setattr("store.storage.remote.RemoteStorage.delete", lambda *_: True)
    with storage_of(column).stage(column / "x", ()):
        pass
    monkeypatch.undo()
    assert len(temporary(column)) == 1
    assert verify(store, ["tiny/val"]).problems == []
    storage_of(column).sweep(column)
    assert len(temporary(column)) == 1
    monkeypatch.setattr("store.storage.remote.ABANDONED_S", -60)
    storage_of(column).sweep(column)
    assert temporary(column) == []
