"""Several writers at once, and what dead ones left: one wins a shard, the others agree with it or say so; none is lost."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
import textwrap
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from factory import array_meta, vectors, write_array
from faults import WORKS, prepare, steps_of, tree, uninterrupted, write

from store import ConflictError
from store.format.layout import column_dir
from store.format.schema import OK
from store.format.shard import read_commit, read_log
from store.read.column import open_column
from store.storage.files import TEMPORARY, is_being_written, temporary_file
from store.storage.leftovers import replace_file
from store.storage.local import LocalStorage
from store.write.verify import verify
from store.write.writer import ShardData, begin_column, is_begun, write_shard

PLACE = "d/mask_embeddings/sam/x/val"
RACER = """
    import json, os, sys, warnings
    sys.path[:0] = [{root!r}, {here!r}]
    from pathlib import Path
    from factory import array_meta, vectors
    from store import ConflictError
    from store.format.layout import column_dir
    from store.format.schema import OK
    from store.format.shard import read_log
    from store.write.writer import ShardData, begin_column, seen_commit, write_shard
    os.fsync = lambda descriptor: None  # more turns
    place, seed, upstream, shards = {place!r}, {seed}, {upstream!r}, {shards}
    print("ready", flush=True)
    sys.stdin.readline()
    folder = column_dir(Path({store!r}), place)
    meta = begin_column(folder, array_meta(shards))
    outcome = []
    for shard in [*range(meta.shards)] if {forward} else [*reversed(range(meta.shards))]:
        own = vectors([2] * 4, seed=seed + shard)
        data = ShardData(own, [2] * 4, [OK] * 4)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                commit = write_shard(folder, meta, place, shard, data, upstream, None, {{"writer": seed}})
                writer = read_log(folder, commit)["writer"]
                outcome.append(["kept", writer, commit.seal, [str(item.message) for item in said]])
            except ConflictError as error:
                outcome.append(["conflict", None, None, [str(error)]])
    print(json.dumps(outcome))
"""


def race(store: Path, images: int, *writers: dict[str, object]) -> list[list[list[object]]]:
    """Writers of the same column, each a process, let go at once; what became of each shard of each."""
    here = Path(__file__).parent
    paths = {"root": str(here.parents[1]), "here": str(here), "store": str(store), "place": PLACE, "shards": images}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(RACER).format(**paths, **writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in writers
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    outcomes = [json.loads(child.communicate(timeout=120)[0]) for child in children]
    assert [child.returncode for child in children] == [0] * len(children)
    return outcomes


def winners(store: Path, shards: int) -> list[int]:
    """Who wrote each shard; every one is committed, readable and as its writer made it."""
    column = open_column(store, PLACE)
    found = []
    for shard in range(shards):
        commit = read_commit(column_dir(store, PLACE), shard)
        assert commit is not None
        found.append(read_log(column_dir(store, PLACE), commit)["writer"])
        for position, want in enumerate(vectors([2] * 4, seed=found[-1] + shard)):
            np.testing.assert_array_equal(column.array(4 * shard + position), want)
    assert verify(store, ["d/val"], deep=True).problems == []
    return found


@pytest.mark.parametrize("forward", [True, False], ids=["side by side", "towards each other"])
def test_writers_of_the_same_shards_agree(tmp_path: Path, forward: bool) -> None:
    """Same inputs: the first one stays. The same bytes need no word; for others there is a warning with both digests."""
    outcomes = race(
        tmp_path, 200, {"seed": 0, "upstream": {}, "forward": True}, {"seed": 0, "upstream": {}, "forward": forward}
    )
    assert winners(tmp_path, 50) == [0] * 50
    assert all(kind == "kept" and not said for outcome in outcomes for kind, _, _, said in outcome)
    other = tmp_path / "other"
    outcomes = race(
        other, 200, {"seed": 0, "upstream": {}, "forward": True}, {"seed": 7, "upstream": {}, "forward": forward}
    )
    if not forward:
        outcomes[1].reverse()
    first = winners(other, 50)
    for shard, (ours, theirs) in enumerate(zip(*outcomes, strict=True)):
        assert ours[:3] == theirs[:3] == ["kept", first[shard], ours[2]], "both know the one commit there is"
        late = theirs if first[shard] == 0 else ours
        assert len(late[3]) == 1
        assert str(late[2]) in late[3][0]
        assert "ours would be" in late[3][0]


def test_writers_from_other_inputs_are_told_both_digests(tmp_path: Path) -> None:
    upstreams = [{"/means/a/x": "1" * 64}, {"/means/a/x": "2" * 64}]
    outcomes = race(
        tmp_path,
        200,
        *({"seed": 7 * number, "upstream": upstream, "forward": True} for number, upstream in enumerate(upstreams)),
    )
    folder = column_dir(tmp_path, PLACE)
    for shard in range(50):
        commit = read_commit(folder, shard)
        assert commit is not None
        who = read_log(folder, commit)["writer"] // 7
        assert outcomes[who][shard][:3] == ["kept", 7 * who, commit.seal]
        kind, _, _, said = outcomes[1 - who][shard]
        assert kind == "conflict"
        assert commit.seal in said[0]
        assert "ours is " in said[0]
    assert verify(tmp_path, ["d/val"], deep=True).problems == []


def test_a_conflict_leaves_the_winner_and_nothing_else(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    write_array(folder, array_meta(4), [2] * 4)
    before = tree(tmp_path)
    data = ShardData(vectors([2] * 4, seed=1), [2] * 4, [OK] * 4)
    with pytest.raises(ConflictError, match="other inputs"):
        write_shard(folder, array_meta(4), PLACE, 0, data, {"images": "another"}, None, {})
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["array, first time", "table, other parameters"])
def test_the_next_start_works_at_once_beside_what_a_dead_one_left(tmp_path: Path, name: str) -> None:
    """Temporary files anywhere in the column, one of them a link, one a folder's name; locks end with their process."""
    work, store = WORKS[name], tmp_path / "store"
    prepare(store, work)
    expected = uninterrupted(store, work)[1]
    folder = column_dir(store, work.place)
    places = {path.parent for path in folder.rglob("*") if path.is_file()}
    for place in places:
        (place / f"{TEMPORARY}left").write_bytes(b"half a sh")
    (folder / f"{TEMPORARY}link").symlink_to(tmp_path / "elsewhere")
    (folder / f"{TEMPORARY}folder").mkdir()
    child = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import fcntl, os; fcntl.flock(os.open({str(folder)!r}, 0), 2); os.kill(os.getpid(), 9)",
        ],
        check=False,
    )
    assert child.returncode == -9
    assert len(verify(store, ["d/val"]).problems) == len(places) + 1
    with steps_of(tmp_path, lambda step: None):
        write(store, work.kind, work.new)
    assert tree(store) == expected
    assert verify(store, ["d/val"], deep=True).problems == []


def test_a_sweep_never_takes_a_living_writers_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it comes between the file's making and its lock: then the writer makes another."""
    real, swept = fcntl.flock, []

    def flock(file: object, how: int) -> None:
        if how == fcntl.LOCK_EX and not swept:
            swept.append(True)
            LocalStorage().sweep(tmp_path)
        real(file, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", flock)
    with temporary_file(tmp_path, [b"whole"]) as (path, size, _):
        assert swept
        assert path.read_bytes() == b"whole"
        assert size == 5
        LocalStorage().sweep(tmp_path)
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_replaced_removes_what_dead_writers_left(tmp_path: Path) -> None:
    dead, others = tmp_path / f"{TEMPORARY}{uuid.uuid4().hex}", tmp_path / f"{TEMPORARY}download"
    dead.write_bytes(b"half")
    others.write_bytes(b"of another program, which locks nothing")
    linked, final = tmp_path / "linked", tmp_path / "final"
    linked.write_bytes(b"in a cache")
    final.symlink_to(linked)
    with temporary_file(tmp_path, [b"at work"]) as (living, _, _):
        replace_file(final, b"new")
        assert sorted(tmp_path.iterdir()) == sorted([others, linked, final, living])
    assert (final.read_bytes(), final.is_symlink(), linked.read_bytes()) == (b"new", False, b"in a cache")


def test_a_file_is_replaced_also_where_nothing_can_be_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / f"{TEMPORARY}{uuid.uuid4().hex}"
    dead.write_bytes(b"half")

    def broken(path: Path) -> bool:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("store.storage.leftovers.remove_if_dead", broken)
    replace_file(tmp_path / "final", b"new")
    assert (tmp_path / "final").read_bytes() == b"new"
    assert dead.exists()


def test_a_sweep_and_writers_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    done = threading.Event()

    def sweeping() -> None:
        while not done.is_set():
            LocalStorage().sweep(tmp_path)

    sweeper = threading.Thread(target=sweeping)
    sweeper.start()
    try:
        for number in range(300):
            with temporary_file(tmp_path, [b"%d" % number]) as (path, _, _):
                path.replace(tmp_path / "final")
            assert (tmp_path / "final").read_bytes() == b"%d" % number
    finally:
        done.set()
        sweeper.join()


def test_a_lock_that_somebody_looks_at_does_not_stop_a_writer(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    begin_column(folder, array_meta(4))
    with temporary_file(folder, [b"at work"]) as (path, _, _):
        assert is_being_written(path)
        assert is_begun(folder, array_meta(4)), "a living writer's file is nothing to be swept"
    assert not is_being_written(path)
