"""A store in part: what is there can be read; what does not belong together is said, with both names; missing is not changed."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import LAYOUT, Known, array_meta, full_store, vectors, write_array, write_images, write_vectors

from store import FailedImageError, IncompleteColumnError, open_split
from store.errors import ChangedError
from store.format.column import ArrayLayout, Commit
from store.format.layout import column_dir, find_columns
from store.format.lineage import Lineage
from store.format.shard import read_commit
from store.format.summary import remove_summary
from store.read.column import open_column
from store.storage.files import ABANDONED_S, TEMPORARY, is_being_written
from store.storage.local import LocalStorage
from store.storage.protocol import RefusedError
from store.write.verify import repair, verify
from store.write.writer import finish_column

X, CENTERED, MEAN = "mask_embeddings/sam/x", "centered/mask_embeddings/sam/x", "means/m/x"


def centered_store(store: Path) -> Known:
    """``d/train`` and ``d/val`` with everything, a mean of ``train``, and both centred on it."""
    known = full_store(store, 5)
    full_store(store, 5, "train", seed=1)
    shards = [read_commit(column_dir(store, f"d/{X}/train"), shard) for shard in (0, 1)]
    upstream = {f"/d/{X}/train#{shard}": commit.content for shard, commit in enumerate(shards) if commit is not None}
    layout = ArrayLayout((8,), 8, "float64")
    write_array(column_dir(store, MEAN), mean_meta(layout), [8], MEAN, upstream=upstream)
    (mean,) = [read_commit(column_dir(store, MEAN), 0)]
    assert mean is not None
    for split in ("val", "train"):
        above = [read_commit(column_dir(store, f"d/{X}/{split}"), shard) for shard in (0, 1)]
        rows = vectors([count for commit in above if commit for count in commit.counts])
        write_vectors(store, f"d/{CENTERED}/{split}", rows, {X: above, f"/{MEAN}": [mean, mean]})  # type: ignore[dict-item]
    return known


def mean_meta(layout: ArrayLayout) -> Any:
    from dataclasses import replace

    return replace(array_meta(1, 1, layout, of="mean"), column=MEAN)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return centered_store(tmp_path_factory.mktemp("whole") / "store").store


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "store")


def split_of(store: Path, split: str, to: Path) -> Path:
    """A copy of one split alone."""
    for column in find_columns(store, "d", split):
        shutil.copytree(store / "d" / column / split, to / "d" / column / split)
    return to


PARTS: dict[str, Callable[[Path, Path], Path]] = {
    "a copied split": lambda store, to: split_of(store, "val", to),
    "without its train split": lambda store, to: Path(
        shutil.copytree(store, to, ignore=shutil.ignore_patterns("train"))
    ),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_store_opens(whole: Path, tmp_path: Path, name: str) -> None:
    part = PARTS[name](whole, tmp_path / "part")
    ours, theirs = open_split(part, "d", "val"), open_split(whole, "d", "val")
    assert list(ours.columns) == list(theirs.columns)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine[CENTERED], other[CENTERED])
        assert mine.targets == other.targets
    assert verify(part, ["d/val"], deep=True).problems == []


@pytest.mark.parametrize("column", [X, CENTERED, "match/sam/targets"])
def test_one_column_with_its_images_opens(whole: Path, tmp_path: Path, column: str) -> None:
    for name in ("images", column):
        shutil.copytree(whole / "d" / name / "val", tmp_path / "d" / name / "val")
    assert set(open_split(tmp_path, "d", "val").columns) == {column, "images"}
    assert len(open_column(tmp_path, f"d/{column}/val").commits) == 2
    lonely = tmp_path / "lonely"
    shutil.copytree(whole / "d" / column / "val", lonely / "d" / column / "val")
    assert len(open_column(lonely, f"d/{column}/val").commits) == 2


def test_what_is_missing_is_called_missing(whole: Path, tmp_path: Path) -> None:
    """By the pipeline, which needs it; the reader does not."""
    part = split_of(whole, "val", tmp_path)
    look = Lineage(part)
    assert look.why_not_current(f"d/{CENTERED}/val", 0) == f"/{MEAN} is missing"
    assert look.why_not_readable(f"d/{CENTERED}/val", 0) is None
    assert look.why_not_coherent(f"d/{CENTERED}/val", 0) is None


def with_other_masks(store: Path) -> None:
    """The masks of ``val`` computed again, from the same images with other results; nothing that reads them."""
    other = full_store(store.parent / "other", 5, "val", seed=7)
    shutil.rmtree(store / "d/masks/sam/val")
    shutil.copytree(other.store / "d/masks/sam/val", store / "d/masks/sam/val")


@pytest.mark.parametrize("column", [X, CENTERED, "match/sam/targets"])
def test_masks_computed_again_without_what_reads_them_are_an_error_that_names_both(store: Path, column: str) -> None:
    with_other_masks(store)
    with pytest.raises(IncompleteColumnError, match=rf"d/{column}/val: shards 0, 1 of 2: .*d/masks/sam/val") as caught:
        open_split(store, "d", "val", columns=[column])
    assert (caught.value.place, caught.value.shard) == (f"d/{column}/val", 0)
    with pytest.raises(IncompleteColumnError, match="d/masks/sam/val"):
        open_split(store, "d", "val")
    with pytest.warns(UserWarning, match=rf"d/{column}/val.*d/masks/sam/val"):
        split = open_split(store, "d", "val", columns=[column], coherence="warn")
    assert split.columns[column].commits[0] is not None
    assert open_split(store, "d", "val", columns=[column], allow_incomplete=True).columns[column].commits == [
        None,
        None,
    ]
    shutil.rmtree(store / "d/masks")
    assert column in open_split(store, "d", "val", columns=[column]).columns


def test_another_mean_is_an_error_and_what_the_mean_was_made_of_is_none(store: Path) -> None:
    full_store(store.parent / "other", 5, "train", seed=9)
    shutil.rmtree(store / f"d/{X}/train")
    shutil.copytree(store.parent / f"other/d/{X}/train", store / f"d/{X}/train")
    assert CENTERED in open_split(store, "d", "val").columns
    write_array(column_dir(store, MEAN), mean_meta(ArrayLayout((8,), 8, "float64")), [8], MEAN, 5, upstream={"x": "y"})
    with pytest.raises(IncompleteColumnError, match=f"{CENTERED}/val: .*{MEAN} changed since"):
        open_split(store, "d", "val")


def test_an_unknown_coherence_is_refused(whole: Path) -> None:
    with pytest.raises(ValueError, match="expected error or warn"):
        open_split(whole, "d", "val", coherence="none")


class Opened:
    """Counts what is opened for reading."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.paths: list[Path] = []
        real = LocalStorage.open

        def opening(storage: LocalStorage, path: Path) -> Any:
            self.paths.append(path)
            return real(storage, path)

        patch.setattr(LocalStorage, "open", opening)


def test_opening_a_finished_column_takes_two_objects(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    place = f"d/{X}/val"
    open_column(store, place)
    mine = [path.name for path in opened.paths if X in str(path)]
    assert sorted(mine) == ["column.json", "summary.json"]
    remove_summary(column_dir(store, place))
    opened.paths.clear()
    open_column(store, place)
    assert [path.name for path in opened.paths if X in str(path)] == ["0", "0"], (
        "without a summary, each shard's own record"
    )


def test_a_summary_is_a_cache(store: Path) -> None:
    """Damaged, of other parameters or of fewer images, it is left aside; one that is out of date is told by the first read."""
    folder, place = column_dir(store, f"d/{X}/val"), f"d/{X}/val"
    path = folder / "summary.json"
    good = path.read_bytes()
    want = open_column(store, place).array(1)
    for bad in (b"", b"{}", good[:-9], good.replace(b'"images":5', b'"images":6')):
        path.write_bytes(bad)
        np.testing.assert_array_equal(open_column(store, place).array(1), want)
        assert verify(store, ["d/val"]).problems
        repair(verify(store, ["d/val"]))
        assert not path.exists()
        assert finish_column(folder, place)
        assert path.read_bytes() == good
    newer = {"x": "newer"}
    write_array(folder, open_column(store, place).meta, [2] * 5, place, 8, upstream=newer)
    assert not path.exists(), "removed before a shard was replaced"
    path.write_bytes(good)  # as a writer leaves it that died between two others' steps
    column = open_column(store, place, coherence="error")
    with pytest.raises(ChangedError, match="open it again"):
        column.array(0)
    np.testing.assert_array_equal(open_column(store, place).array(0), vectors([2] * 5, seed=8)[0])
    assert "summary.json is not that of its shards" in str(verify(store, ["d/val"]).problems[0])
    assert finish_column(folder, place)
    assert verify(store, ["d/val"], deep=True).problems == []


def test_a_shard_replaced_by_itself_while_it_is_read_is_read_on(store: Path) -> None:
    """As a copy or a checkout does it; another version is told apart, and never mixed with what was read before."""
    place = f"d/{X}/val"
    column = open_column(store, place)
    want, path = column.array(1), column_dir(store, place) / "c/0/0/0"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    column.close()
    np.testing.assert_array_equal(column.array(1), want)
    write_array(column_dir(store, place), column.meta, [2] * 5, place, 8, upstream={"x": "newer"})
    column.close()
    with pytest.raises(ChangedError, match="computed again since the split was opened"):
        column.array(1)


def test_a_table_replaced_while_it_is_read_is_told(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    split = open_split(tmp_path, "d", "val")
    write_images(tmp_path, 4, failed={2: "broken"})
    with pytest.raises(ChangedError, match="d/images/val was computed again"):
        split[0]
    with pytest.raises(FailedImageError):
        open_split(tmp_path, "d", "val", images_root=tmp_path)[2].image()


def test_a_link_whose_answer_was_lost_is_known_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS asks again when the answer does not come, and is told that the name is there: it is, and it is ours."""
    storage, real = LocalStorage(), os.link

    def answered_twice(source: Path, to: Path) -> None:
        real(source, to)
        real(source, to)

    with storage.stage(tmp_path / "x", [b"ours"]) as staged, monkeypatch.context() as patch:
        patch.setattr(os, "link", answered_twice)
        storage.put(staged, tmp_path / "x", None)
    with storage.stage(tmp_path / "x", [b"others"]) as staged, pytest.raises(RefusedError):
        storage.put(staged, tmp_path / "x", None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"x": b"ours"}


@pytest.mark.parametrize("code", [95, 9, 37], ids=["ENOTSUP", "EBADF", "ENOLCK"])
def test_writers_where_nothing_can_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Lustre without flock, NFS of a file that may not be written: shards are written, and a left file goes after a day."""
    import fcntl

    def refused(*given: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    commits = write_array(column_dir(tmp_path, f"d/{X}/val"), array_meta(4), [3] * 4)
    assert isinstance(commits[0], Commit)
    left = column_dir(tmp_path, f"d/{X}/val") / f"{TEMPORARY}left"
    left.write_bytes(b"half a shard")
    assert is_being_written(left)
    assert verify(tmp_path, ["d/val"], deep=True).problems == []
    os.utime(left, (0, time.time() - ABANDONED_S - 60))
    assert not is_being_written(left)
    LocalStorage().sweep(tmp_path)
    assert not left.exists()


def test_a_disk_without_hard_links_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object) -> None:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(os, "link", refused)
    write_array(column_dir(tmp_path, f"d/{X}/val"), array_meta(4), [3] * 4)
    np.testing.assert_array_equal(open_column(tmp_path, f"d/{X}/val").array(0), vectors([3] * 4, LAYOUT)[0])
