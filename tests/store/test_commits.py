"""The commit protocol: killed anywhere, nothing committed is lost and nothing uncommitted is visible."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import array_meta, small_store, vectors, write_array, write_images
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import ConflictError, FailedImageError, IncompleteColumnError, open_split
from store.errors import DamagedStoreError
from store.format.layout import column_dir
from store.format.schema import OK
from store.format.shard import read_commit
from store.read.array import ShardReader
from store.read.column import open_column
from store.storage.files import TEMPORARY, temporary_file
from store.storage.objects import read_json, write_json
from store.write.verify import repair, verify
from store.write.writer import ShardData, begin_column, finish_column, seen_commit, write_shard

PLACE = "d/mask_embeddings/sam/x/val"
STEPS = ("_publish", "remove_summary", "write_log")
"""Functions of the writer, in this order; a summary is removed before a shard is replaced, and when one was put."""


def killed_writer(store: Path, step: str, when: str, upstream: dict[str, str] | None = None) -> None:
    """Write shard 1 in a child that kills itself before or after a step; prove that the kill landed. The summary is there."""
    marker = store.parent / f"{step}-{when}"
    code = textwrap.dedent(f"""
        import os, signal, sys
        sys.path[:0] = [{str(Path.cwd())!r}, {str(Path(__file__).parent)!r}]
        from pathlib import Path
        import store.write.writer as writer
        from factory import array_meta, vectors
        from store.format.schema import OK
        real = writer.{step}
        def dying(*args):
            if {when!r} == "after":
                real(*args)
            Path({str(marker)!r}).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        folder = Path({str(store)!r}) / {PLACE!r}
        meta = writer.begin_column(folder, array_meta(8))
        writer.{step} = dying
        own = vectors([5] * 8)[4:]
        data, before = writer.ShardData(own, [5] * 4, [OK] * 4), writer.seen_commit(folder, 1)
        writer.write_shard(folder, meta, {PLACE!r}, 1, data, {upstream or {}}, None, {{}}, before)
        sys.exit("survived")
    """)
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert marker.exists()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_and_run_again(tmp_path: Path, step: str, when: str) -> None:
    store = tmp_path / "store"
    folder = column_dir(store, PLACE)
    meta = begin_column(folder, array_meta(8))
    rows = vectors([5] * 8)
    first = ShardData(rows[:4], [5] * 4, [OK] * 4)
    before = write_shard(folder, meta, PLACE, 0, first, {}, None, {})
    killed_writer(store, step, when)
    assert read_commit(folder, 0) == before
    committed = (step, when) != ("_publish", "before")
    assert (read_commit(folder, 1) is not None) == committed
    if not committed:
        with pytest.raises(IncompleteColumnError, match="shards 1 of 2: not computed; compute them") as caught:
            open_column(store, PLACE)
        assert (caught.value.place, caught.value.shard, caught.value.reason) == (PLACE, 1, "not computed")
    write_array(folder, array_meta(8), [5] * 8)
    column = open_column(store, PLACE)
    for image, want in enumerate(rows):
        np.testing.assert_array_equal(column.array(image), want)
    report = verify(store, ["d/val"], deep=True)
    assert report.problems == []
    assert report.done == 2


def test_what_a_killed_writer_had_staged_is_damage_that_repair_sweeps(tmp_path: Path) -> None:
    store = tmp_path / "store"
    column = column_dir(store, PLACE)
    begin_column(column, array_meta(8))
    killed_writer(store, "_publish", "before")
    report = verify(store, ["d/val"])
    (problem,) = report.problems
    assert "left by a killed run" in str(problem)
    assert repair(report) == [*problem.files]
    assert problem.files[0].parent == column / "c/1/0"
    assert verify(store, ["d/val"]).problems == []


def test_a_new_parameter_makes_every_shard_stale_and_never_a_mixture(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    write_array(folder, array_meta(8, points=1), [5] * 8)
    meta = begin_column(folder, array_meta(8, points=2))
    rows = vectors([5] * 8, seed=1)
    write_shard(folder, meta, PLACE, 0, ShardData(rows[:4], [5] * 4, [OK] * 4), {}, None, {}, seen_commit(folder, 0))
    with pytest.raises(IncompleteColumnError, match="shards 1 of 2: computed with other parameters"):
        open_column(tmp_path, PLACE)
    part = open_column(tmp_path, PLACE, allow_incomplete=True)
    np.testing.assert_array_equal(part.array(0), rows[0])
    with pytest.raises(IncompleteColumnError):
        part.array(4)


def test_a_changed_upstream_makes_just_its_shard_stale(tmp_path: Path) -> None:
    small_store(tmp_path, [1] * 8)
    write_images(tmp_path, 8, failed={5: "cannot be decoded"})
    with pytest.raises(IncompleteColumnError, match="shards 1 of 2: images changed since"):
        open_split(tmp_path, "d", "val")


def test_two_writers_of_the_same_shard(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    meta = begin_column(folder, array_meta(4))
    ours, theirs = vectors([2] * 4, seed=1), vectors([2] * 4, seed=2)

    def racing(own: list[np.ndarray], upstream: dict[str, str]) -> None:
        """The other writer commits while ours is at work: when the last row is asked for."""

        def rows():  # type: ignore[no-untyped-def]
            yield from own[:3]
            write_shard(folder, meta, PLACE, 0, ShardData(theirs, [2] * 4, [OK] * 4), {}, None, {})
            yield own[3]

        write_shard(folder, meta, PLACE, 0, ShardData(rows(), [2] * 4, [OK] * 4), upstream, None, {})  # type: ignore[arg-type]

    with pytest.warns(UserWarning, match="theirs is kept"):
        racing(ours, {})
    np.testing.assert_array_equal(open_column(tmp_path, PLACE).array(0), theirs[0])
    (folder / "c/0/0/0").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        racing(theirs, {})
    (folder / "c/0/0/0").unlink()
    with pytest.raises(ConflictError, match="other inputs"):
        racing(ours, {"images": "another"})
    assert verify(tmp_path, ["d/val"], deep=True).problems == []


def test_a_column_begun_anew_meanwhile_is_a_conflict(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    old = begin_column(folder, array_meta(4, points=1))
    begin_column(folder, array_meta(4, points=2))
    with pytest.raises(ConflictError, match="other parameters"):
        write_shard(folder, old, PLACE, 0, ShardData(vectors([1] * 4), [1] * 4, [OK] * 4), {}, None, {})


def test_temporaries_of_dead_processes_are_swept_and_of_living_ones_kept(tmp_path: Path) -> None:
    folder = column_dir(tmp_path, PLACE)
    begin_column(folder, array_meta(4))
    left = folder / ".tmp-left"
    left.touch()
    with temporary_file(folder, [b"at work"]) as (live, _, _):
        begin_column(folder, array_meta(4))
        assert live.exists()
        assert verify(tmp_path, ["d/val"]).problems == []
    assert not left.exists()
    assert not live.exists()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_shard_that_is_replaced_stays_until_the_new_one_is_there(tmp_path: Path, step: str, when: str) -> None:
    """Killed anywhere between: the old shard or the new one is committed, with its own bytes, and repair keeps it."""
    store = tmp_path / "store"
    folder = column_dir(store, PLACE)
    write_array(folder, array_meta(8), [5] * 8, seed=1)
    assert finish_column(folder, PLACE)
    old, new = vectors([5] * 8, seed=1), vectors([5] * 8)
    other = write_array(column_dir(tmp_path / "whole", PLACE), array_meta(8), [5] * 8)
    killed_writer(store, step, when, upstream={"images": "new"})
    commit = read_commit(folder, 1)
    assert commit is not None
    replaced = step == "write_log" or (step, when) == ("_publish", "after")
    assert (commit.content == other[1].content) == replaced
    for image in range(4, 8):
        column = open_column(store, PLACE, allow_incomplete=True)
        np.testing.assert_array_equal(
            ShardReader(folder, column.meta, commit).read(image - 4), (new if replaced else old)[image]
        )
    report = verify(store, ["d/val"], deep=True)
    assert all("left by a killed run" in str(problem) for problem in report.problems)
    assert all(path.name.startswith(TEMPORARY) for path in repair(report))
    assert verify(store, ["d/val"], deep=True).problems == []
    assert read_commit(folder, 1) == commit


@pytest.mark.parametrize("name", ["column.json", "summary.json", "zarr.json"])
def test_every_flipped_byte_of_the_records_is_noticed(tmp_path: Path, name: str) -> None:
    folder = column_dir(tmp_path, PLACE)
    write_array(folder, array_meta(2), [1, 2])
    assert finish_column(folder, PLACE)
    path = folder / name
    good = path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bad)
        assert verify(tmp_path, ["d/val"]).problems, f"byte {position} of {name}"
    path.write_bytes(good)
    assert verify(tmp_path, ["d/val"], deep=True).problems == []


_TEXT = st.text(st.sampled_from('ab": \\\n,\u00e4\udc80{}[]'), max_size=8)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.dictionaries(_TEXT | st.just("zip"), _JSON, max_size=4), indent=st.sampled_from([1, None, 4]))
def test_a_record_is_read_as_it_was_written_whatever_its_layout(
    tmp_path: Path, value: dict[str, Any], indent: int | None
) -> None:
    path = tmp_path / "record.json"
    write_json(path, value)
    assert read_json(path) == value
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text), indent=indent))
    assert read_json(path) == value
    sealed = json.loads(text)
    for name in sealed:
        path.write_text(json.dumps({**sealed, name: [sealed[name]]}, indent=1, sort_keys=True))
        with pytest.raises(DamagedStoreError):
            read_json(path)


def test_a_folder_that_a_writer_makes_meanwhile_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shard of an array has its folders before the column is begun, and they may come while it is looked for."""
    (tmp_path / "c/0/0").mkdir(parents=True)

    def just_before_it_is_made(path: Path) -> bool:
        found = path.is_dir()
        path.mkdir(exist_ok=True)
        return found

    monkeypatch.setattr("store.format.shard.is_folder", just_before_it_is_made)
    assert read_commit(tmp_path, 0) is None
    assert (tmp_path / "c/0/0/0").is_dir()


def test_unknown_files_and_links_are_damage(tmp_path: Path) -> None:
    small_store(tmp_path, [1] * 4)
    (tmp_path / "d/mask_embeddings/sam/notes.txt").write_text("hello")
    assert "unknown file; remove it" in str(verify(tmp_path, ["d/val"]).problems[0])
    (tmp_path / "d/mask_embeddings/sam/notes.txt").unlink()
    data = column_dir(tmp_path, PLACE) / "c/0/0/0"
    data.rename(tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere")
    assert "found a link" in str(verify(tmp_path, ["d/val"]).problems[0])
    with pytest.raises((DamagedStoreError, OSError)):
        open_split(tmp_path, "d", "val")[0]["mask_embeddings/sam/x"]


def test_records_of_failed_images_hold_their_reason(tmp_path: Path) -> None:
    write_images(tmp_path, 4, failed={2: "cannot be decoded"})
    folder = column_dir(tmp_path, PLACE)
    meta = begin_column(folder, array_meta(4))
    rows = [*vectors([3, 0]), np.empty((0, 8), np.float16), *vectors([1])]
    data = ShardData(rows, [3, 0, 0, 1], [OK, OK, "failed", OK], {2: "image: cannot be decoded"})
    upstream = {"images": read_commit(column_dir(tmp_path, "d/images/val"), 0).content}  # type: ignore[union-attr]
    write_shard(folder, meta, PLACE, 0, data, upstream, None, {})
    split = open_split(tmp_path, "d", "val")
    assert split[1]["mask_embeddings/sam/x"].shape == (0, 8)
    assert split["image2"].error == "cannot be decoded"
    with pytest.raises(FailedImageError, match="image 2: image: cannot be decoded"):
        split[2]["mask_embeddings/sam/x"]


@pytest.mark.parametrize("name", ["../val", "a/b", "", ".hidden", "/abs"])
def test_names_cannot_lead_outside(tmp_path: Path, name: str) -> None:
    from store import StoreError

    with pytest.raises(StoreError, match="expected letters"):
        open_split(tmp_path, "d", name)
