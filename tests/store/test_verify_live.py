"""verify and repair next to writers at work: a healthy store never reads as damaged, and nothing committed is removed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from factory import array_meta, small_store, vectors, write_array
from faults import tree

import store.write.judge
from store import DamagedStoreError
from store.format.layout import column_dir
from store.format.schema import OK
from store.format.shard import read_commit
from store.storage.local import LocalStorage
from store.write.verify import repair, verify
from store.write.writer import ShardData, begin_column, seen_commit, write_shard

ROOT = Path(__file__).resolve().parents[2]
PLACE = "d/mask_embeddings/sam/x/val"
WRITER = """
    import os, sys
    from dataclasses import replace
    sys.path[:0] = [{root!r}, {here!r}]
    from pathlib import Path
    from factory import array_meta, vectors, write_images
    from store.format.layout import column_dir, parts_of
    from store.format.schema import OK
    from store.write.writer import ShardData, begin_column, is_begun, seen_commit, write_shard
    os.fsync = lambda descriptor: None  # more turns
    store = Path({store!r})
    print("ready", flush=True)
    for turn in range(100_000):
        place = {place!r}.replace("/x/", f"/x{{turn % 12}}/")
        folder, name = column_dir(store, place), parts_of(place)[1]
        # Grows, is replaced under the same and under other parameters, and comes to be.
        meta = replace(array_meta(24, points=turn // 36), column=name)
        if not is_begun(folder, meta):
            begin_column(folder, meta)
        for shard in range(meta.shards):
            own = vectors([2] * 4, seed=turn + shard)
            data = ShardData(own, [2] * 4, [OK] * 4)
            write_shard(folder, meta, place, shard, data, {{}}, None, {{}}, seen_commit(folder, shard), True)
"""


def test_verify_next_to_a_writer_at_work(tmp_path: Path) -> None:
    store_path = small_store(tmp_path / "store", [1] * 8)
    paths = {"root": str(ROOT), "here": str(Path(__file__).parent), "store": str(store_path), "place": PLACE}
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER).format(**paths)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        for turn in range(40):
            report = verify(store_path, ["d/val"], deep=bool(turn % 2))
            assert [str(problem) for problem in report.problems] == []
            assert repair(report) == []
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()  # type: ignore[union-attr]


def test_what_looks_damaged_is_judged_again_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer replaces a damaged shard right after verify looked: whatever verify thought then, it says and removes nothing."""
    folder = column_dir(tmp_path, PLACE)
    meta = begin_column(folder, array_meta(8))
    own = vectors([2] * 4)
    real, looked = store.write.judge.read_commit, []

    def late(where: Path, shard: int, *rest: Any) -> object:
        try:
            return real(where, shard, *rest)
        except DamagedStoreError as error:
            looked.append(error)
            seen = seen_commit(folder, 1)
            write_shard(folder, meta, PLACE, 1, ShardData(own, [2] * 4, [OK] * 4), {}, None, {}, seen)
            raise

    for shard in (0, 1):
        write_shard(folder, meta, PLACE, shard, ShardData(own, [2] * 4, [OK] * 4), {}, None, {})
    (folder / "c/1/0/0").write_bytes(b"damaged")
    monkeypatch.setattr(store.write.judge, "read_commit", late)
    report = verify(tmp_path, ["d/val"], deep=True)
    assert len(looked) == 1
    assert report.problems == []
    assert report.done == 2


def test_repair_removes_nothing_that_was_committed_since_verify_looked(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    write_array(folder, array_meta(8), [2] * 8)
    data = folder / "c/1/0/0"
    whole = data.read_bytes()
    data.write_bytes(b"damaged")
    report = verify(tmp_path, ["d/val"])
    assert [problem.shard for problem in report.problems] == [1]
    own = vectors([2] * 8)[4:]
    write_shard(
        folder, array_meta(8), PLACE, 1, ShardData(own, [2] * 4, [OK] * 4), {}, None, {}, seen_commit(folder, 1)
    )
    before = tree(tmp_path)
    assert repair(report) == []
    assert tree(tmp_path) == before
    assert data.read_bytes() == whole
    assert read_commit(folder, 1) is not None


def test_repair_waits_for_the_columns_lock(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    write_array(folder, array_meta(8), [2] * 8)
    (folder / "c/1/0/0").write_bytes(b"damaged")
    report = verify(tmp_path, ["d/val"])
    removed: list[Path] = []
    repairing = threading.Thread(target=lambda: removed.extend(repair(report)))
    with LocalStorage().lock(folder):
        repairing.start()
        repairing.join(0.2)
        assert removed == []
        assert (folder / "c/1/0/0").exists()
    repairing.join()
    assert removed == [folder / "c/1/0/0"]
    assert os.path.lexists(folder / "c/0/0/0")
