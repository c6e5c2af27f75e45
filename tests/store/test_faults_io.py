"""A disk that fails: the error says where, nothing acked is lost, nothing temporary stays, the next run ends the same."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from factory import array_meta, full_store, small_store, vectors, write_array
from faults import WORKS, Step, Work, prepare, steps_of, tree, uninterrupted, write, wrong_content

from store import DamagedStoreError, StoreError, open_split
from store.read.column import open_column
from store.storage.files import TEMPORARY, file_sha256
from store.storage.objects import read_json

NAMELESS = ("write", "fsync")
"""Steps on an open file: the system's error holds no path."""
FULL = ("create", "write", "fsync", "mkdir", "rename")
"""Steps that a full disk can refuse."""


def failing(number: int, code: int, for_good: bool) -> Callable[[Step], None]:
    """A hook that lets a step fail (``for_good``: and all later ones that need space)."""
    count = -1

    def before(step: Step) -> None:
        nonlocal count
        count += 1
        if count == number or (for_good and count > number and step.kind in FULL):
            path = () if step.kind in NAMELESS else (str(step.path),)
            raise OSError(code, os.strerror(code), *path)

    return before


def sweep(tmp_path: Path, work: Work, code: int, stride: int) -> None:
    base = tmp_path / "base"
    prepare(base, work)
    steps, expected = uninterrupted(shutil.copytree(base, tmp_path / "whole"), work)
    for_good = code == errno.ENOSPC
    for number in range(0, len(steps), stride):
        if for_good and steps[number].kind not in FULL:
            continue
        store, what = shutil.copytree(base, tmp_path / "store"), f"step {number} failed: {steps[number]}"
        acked: list[int] = []
        raised: OSError | StoreError | None = None
        with steps_of(store, failing(number, code, for_good)):
            try:
                write(store, work.kind, work.new, acked.append)
            except (OSError, StoreError) as error:
                raised = error
        if raised is None:  # what could not be read counts as not there, and was written again
            assert steps[number].kind == "open", what
        elif isinstance(raised, OSError):
            assert raised.errno == code, what
            assert str(raised.filename).startswith(str(store)), what
        assert wrong_content(store, work, set(acked)) is None, what
        if steps[number].kind != "unlink":
            assert [name for name in tree(store) if TEMPORARY in name] == [], what
        with steps_of(tmp_path, lambda step: None):
            write(store, work.kind, work.new)
        assert tree(store) == expected, what
        shutil.rmtree(store)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", ["array, other parameters", "table, first time", "table, other upstream"])
def test_any_step_may_fail(tmp_path: Path, name: str, code: int) -> None:
    sweep(tmp_path, WORKS[name], code, 3)


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", WORKS)
def test_every_step_of_every_work_may_fail(tmp_path: Path, name: str, code: int) -> None:
    sweep(tmp_path, WORKS[name], code, 1)


@pytest.mark.parametrize("most", [1, 7, 64, 1000])
def test_short_reads_are_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """A read may give less than was asked for, also less than one of its pieces."""
    counts = [3, 0, 20, 32]
    write_array(tmp_path / "d/mask_embeddings/sam/x/val", array_meta(4), counts)
    real = os.preadv

    def short(descriptor: int, pieces: list[memoryview], offset: int) -> int:
        return real(descriptor, [memoryview(pieces[0])[:most]], offset)

    monkeypatch.setattr(os, "preadv", short)
    column = open_column(tmp_path, "d/mask_embeddings/sam/x/val")
    for image, want in enumerate(vectors(counts)):
        np.testing.assert_array_equal(column.array(image), want)


def test_a_read_that_ends_early_is_damage_and_never_a_short_record(
    tmp_path: Path,
) -> None:
    """The file is cut while it is open, so that its size was right when it was looked at."""
    commits = write_array(tmp_path / "d/mask_embeddings/sam/x/val", array_meta(4), [20] * 4)
    column = open_column(tmp_path, "d/mask_embeddings/sam/x/val")
    column.array(0)
    path = tmp_path / "d/mask_embeddings/sam/x/val" / commits[0].file
    os.truncate(path, commits[0].size // 2)
    column.array(1)
    with pytest.raises(DamagedStoreError, match="found no record of the shard"):
        column.array(3)


def test_a_read_that_fails_names_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = full_store(tmp_path, 4)
    first = open_split(known.store, "d", "val")[0]
    table, record = tmp_path / "d/masks/sam/val/00000.parquet", tmp_path / "d/masks/sam/val/column.json"

    def broken(*given: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", broken)
        with pytest.raises(OSError, match="masks/sam/val/00000.parquet"):
            first.masks  # noqa: B018
        with pytest.raises(OSError, match="masks/sam/val/column.json"):
            read_json(record)
    assert len(first.masks) == len(known.masks[0])
    with pytest.raises(IsADirectoryError, match="masks"):
        file_sha256(table.parent)


def test_a_read_that_fails_names_file_and_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    column = open_split(small_store(tmp_path, [3] * 4), "d", "val").column("mask_embeddings/sam/x")
    column.array(0)

    def fail(*given: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(OSError, match=r"Input/output error at byte \d+: .*mask_embeddings/sam/x/val/c/0/0/0") as found:
        column.array(1)
    assert found.value.errno == errno.EIO
