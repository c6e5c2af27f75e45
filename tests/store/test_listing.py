"""Only "gone" means gone: what cannot be listed or looked at is an error, and a check of nothing is no check."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factory import full_store, small_store

from store import StoreError, open_split
from store.format.layout import find_columns, find_splits
from store.format.shard import committed_shards
from store.storage.files import TEMPORARY, is_being_written, temporary_file
from store.storage.local import LocalStorage
from store.write.verify import verify

ROOT = Path(__file__).resolve().parents[2]
TROUBLE = [errno.EACCES, errno.ESTALE, errno.EIO, errno.EMFILE]


def failing_scandir(patch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if Path(path) == folder:
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    patch.setattr(os, "scandir", scandir)


LOOKS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "open_split": ("d", lambda store: open_split(store, "d", "val")),
    "open_split, a folder of columns": ("d/mask_embeddings", lambda store: open_split(store, "d", "val")),
    "find_columns": ("d/mask_embeddings", lambda store: find_columns(store, "d", "val")),
    "find_splits": ("d/images", find_splits),
    "committed_shards": ("d/images/val", lambda store: committed_shards(store / "d/images/val")),
    "verify, the data set": ("d", lambda store: verify(store, ["d/val"], deep=True)),
    "verify, a column": ("d/images/val", lambda store: verify(store, ["d/val"], deep=True)),
    "verify, chunks": ("d/mask_embeddings/sam/x/val/c", lambda store: verify(store, ["d/val"])),
    "verify, the store": (".", lambda store: verify(store, ["d/val"])),
}


@pytest.mark.parametrize("number", TROUBLE, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", LOOKS)
def test_what_cannot_be_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    store = small_store(tmp_path / "store", [1] * 8)
    below, look = LOOKS[name]
    look(store)
    with monkeypatch.context() as patch:
        failing_scandir(patch, store / below, number)
        with pytest.raises(OSError, match="store") as caught:
            look(store)
        assert caught.value.errno == number


def test_a_file_that_cannot_be_looked_at_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path / "store", [1] * 8)
    real = os.open

    def opening(path: Any, *how: Any) -> int:
        if Path(path).name == "00000.parquet":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path, *how)

    monkeypatch.setattr(os, "open", opening)
    for look in (
        lambda: verify(store, ["d/val"]),
        lambda: open_split(store, "d", "val").column("images").table(0),
    ):
        with pytest.raises(OSError, match=r"00000\.parquet"):
            look()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.EIO, errno.ENOMEM])
@pytest.mark.parametrize("what", ["open", "flock"])
def test_a_living_writer_is_not_dead_because_this_one_is_in_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    with temporary_file(tmp_path, [b"at work"]) as (path, _, _), monkeypatch.context() as patch:
        patch.setattr(os if what == "open" else fcntl, what, broken)
        for look in (is_being_written, lambda found: LocalStorage().sweep(found.parent)):
            with pytest.raises(OSError, match=os.strerror(number)):
                look(path)
        assert path.exists()


def test_another_users_temporary_file_counts_as_living(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"{TEMPORARY}theirs"
    path.write_bytes(b"x")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        assert is_being_written(path)
        LocalStorage().sweep(tmp_path)
    assert path.exists()
    assert not is_being_written(path)
    LocalStorage().sweep(tmp_path)
    assert not path.exists()


def test_a_check_of_nothing_is_an_error_that_says_what_there_is(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store", [1] * 8)
    for wrong, place, words in (
        (store, "d/vla", "holds d (val)"),
        (store, "e/val", "holds d (val)"),
        (tmp_path / "stroe", "d/val", "there is no folder"),
        (tmp_path / "stroe", "d/val", "store"),
        (store / "d", "d/val", f"the store is {store}"),
    ):
        with pytest.raises(StoreError) as caught:
            verify(wrong, [place], deep=True)
        assert words in str(caught.value)
    (store / "empty").mkdir()
    with pytest.raises(StoreError, match="nothing to check"):
        verify(store, ["empty"])


def test_open_split_says_what_exists(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store", [1] * 8)
    for wrong, dataset, split, words in (
        (store, "d", "vla", "the data set d has the splits val"),
        (store, "e", "val", "the store .* holds d \\(val\\)"),
        (tmp_path / "stroe", "d", "val", "there is no folder .*stroe \\(folders in .*: store\\)"),
        (store / "d", "d", "val", "is the folder of a data set, with the splits val; the store is"),
        ("ftp://host/store", "d", "val", "found the store 'ftp://host/store', expected a folder or an address: s3://"),
        (Path("ftp://host/store"), "d", "val", "expected a folder"),
    ):
        with pytest.raises(StoreError, match=words) as caught:
            open_split(wrong, dataset, split)
        assert "cli.py" not in str(caught.value)


def test_no_message_of_the_store_names_the_command_line() -> None:
    """The wheel has none: the errors carry their place, and the pipeline adds what to type."""
    for path in sorted((ROOT / "store").rglob("*.py")):
        assert "cli.py" not in path.read_text(), path


def test_a_store_is_read_where_the_system_has_no_fcntl(tmp_path: Path) -> None:
    full_store(tmp_path / "store")
    code = f"""
        import sys
        sys.modules["fcntl"] = None  # as on Windows
        from store import open_split, StoreError
        from store.storage.local import LocalStorage
        from pathlib import Path
        split = open_split({str(tmp_path / "store")!r}, "d", "val")
        record = split[0]
        assert len(record.masks) == len(record["mask_embeddings/sam/x"])
        from store.write.verify import verify
        assert verify(Path({str(tmp_path / "store")!r}), ["d/val"], deep=True).problems == []
        try:
            with LocalStorage().lock(Path({str(tmp_path)!r})):
                raise SystemExit("locked")
        except StoreError as error:
            assert "can only read it" in str(error)
        print("read")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert done.stdout == "read\n", done.stderr
