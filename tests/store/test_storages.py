"""What every storage promises (:mod:`store.storage.protocol`), whatever it is made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import full_store
from faults import WORKS, prepare, race
from memory import MemoryStorage

from store import open_split
from store.addresses import STORAGES
from store.format.layout import find_splits
from store.storage.mounts import mounted, storage_of
from store.storage.objects import read_object, replace_object
from store.storage.protocol import FILE, FOLDER, Entry, RefusedError
from store.write.verify import verify
from tests.azure import AZURITE, Azurite, serving

ROOTS: dict[str, Callable[[Any], Path]] = {
    "folder": lambda request: request.getfixturevalue("tmp_path"),
    "memory": lambda request: Path("/memory/store"),
    "s3": lambda request: Path(f"s3://{request.getfixturevalue('server').bucket()}"),
    "az": lambda request: Path(f"az://{request.getfixturevalue('azurite').container()}"),
}
"""Name or scheme -> where a new storage of that sort begins."""
ELSEWHERE = {"gs", "https", "http"}
"""Schemes that are not here: gs is of the class of s3, the others (test_web.py) cannot be written."""


def test_every_scheme_is_here() -> None:
    assert STORAGES.keys() - ELSEWHERE <= ROOTS.keys()


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Azure's protocol on this machine; its environment is that of a client."""
    if not AZURITE:
        pytest.skip("needs node and azurite-blob in PATH (npm install azurite)")
    with serving(tmp_path_factory.mktemp("azurite")) as found:
        yield found


@pytest.fixture(params=ROOTS)
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the storage that nothing is in yet; the working folder is a temporary one."""
    monkeypatch.chdir(tmp_path)
    found = ROOTS[request.param](request)
    if request.param == "memory":
        with mounted(found, MemoryStorage()):
            yield found / "root"
    else:
        yield found / "root"


def put(path: Path, data: bytes, token: str | None) -> str | None:
    """The token of what was put, None where it was refused."""
    storage = storage_of(path)
    try:
        with storage.stage(path, [data[:2], data[2:]]) as staged:
            assert staged.size == len(data)
            storage.put(staged, path, token)
    except RefusedError:
        return None
    state = storage.stat(path)
    assert state is not None
    assert state[:2] == (FILE, len(data))
    return state.token


def test_nothing_is_there_at_first(root: Path) -> None:
    storage = storage_of(root)
    assert storage.stat(root / "a") is None
    assert storage.list(root) == storage.list(root / "a") == []
    with pytest.raises(FileNotFoundError, match="root/a"):
        storage.open(root / "a")
    assert storage.delete(root / "a") is False
    storage.sweep(root)


def test_an_object_is_put_where_there_is_none_and_replaced_only_as_the_version_it_is(root: Path) -> None:
    path = root / "a/b"
    first = put(path, b"first", None)
    assert first is not None
    assert put(path, b"again", None) is None
    assert read_object(path) == b"first"
    second = put(path, b"second", first)
    assert second not in (None, first)
    assert put(path, b"third", first) is None
    assert put(root / "a/c", b"new", first) is None, "there is nothing to replace"
    assert read_object(path) == b"second"
    third = put(path, b"first", second)
    assert third not in (None, second)
    assert storage_of(root).list(root / "a") == [Entry("b", False)]


def test_one_version_alone_is_deleted(root: Path) -> None:
    path, storage = root / "a", storage_of(root)
    first = put(path, b"first", None)
    second = put(path, b"other", first)
    with pytest.raises(RefusedError):
        storage.delete(path, first)
    assert read_object(path) == b"other"
    assert storage.delete(path, second) is True
    assert (storage.delete(path), storage.stat(path)) == (False, None)
    assert put(path, b"again", None) is not None


def test_any_part_of_an_object_is_read(root: Path) -> None:
    storage, data = storage_of(root), bytes(range(256)) * 400
    put(root / "a", data, None)
    put(root / "empty", b"", None)
    opened = storage.open(root / "a")
    state = storage.stat(root / "a")
    assert state is not None
    assert (opened.size, opened.token) == (len(data), state.token)
    for offset, sizes in ((0, [5]), (1, [2, 9, 1]), (70_000, [300]), (len(data) - 3, [3]), (len(data) - 3, [2, 9])):
        pieces = [memoryview(bytearray(size)) for size in sizes]
        want = data[offset : offset + sum(sizes)]
        assert opened.readv(pieces, offset) == len(want)
        assert b"".join(pieces)[: len(want)] == want
    assert opened.readv([memoryview(bytearray(4))], len(data)) == 0
    assert storage.open(root / "empty").size == 0
    assert read_object(root / "empty") == b""


def test_what_is_open_stays_the_version_that_it_was_or_cannot_be_read(root: Path) -> None:
    old, new = b"\1" * (1 << 17), b"\2" * (1 << 17)
    put(root / "a", old, None)
    opened, piece = storage_of(root).open(root / "a"), memoryview(bytearray(9))
    replace_object(root / "a", new)
    read = opened.readv([piece], 0)
    assert bytes(piece[:read]) == old[:read]
    assert storage_of(root).open(root / "a").token != opened.token


def test_folders_are_what_has_objects_below_it(root: Path) -> None:
    storage = storage_of(root)
    for name in ("a/b/c", "a/d", "a_/e", "ab"):
        put(root / name, name.encode(), None)
    assert storage.list(root) == [Entry("a", True), Entry("a_", True), Entry("ab", False)]
    assert storage.list(root / "a") == [Entry("b", True), Entry("d", False)]
    for folder in ("", "a", "a/b"):
        state = storage.stat(root / folder)
        assert state is not None
        assert state.kind == FOLDER
    assert storage.list(root / "a/d") == []


def test_what_is_staged_is_not_seen_and_is_gone_when_it_was_not_put(root: Path) -> None:
    storage = storage_of(root)
    with storage.stage(root / "a/b", [b"data"]):
        assert storage.stat(root / "a/b") is None
    with pytest.raises(ZeroDivisionError), storage.stage(root / "a/b", [b"data"]):
        1 / 0  # noqa: B018
    assert storage.stat(root / "a/b") is None
    assert storage.list(root / "a") == []


def test_a_seal_takes_the_place_of_bytes_that_were_staged(root: Path) -> None:
    storage = storage_of(root)
    told: list[str] = []
    with storage.stage(root / "a", [b"one", b"two"], lambda digest: (told.append(digest), (2, b"##"))[1]) as staged:
        storage.put(staged, root / "a", None)
    assert read_object(root / "a") == b"on##wo"
    assert told == ["25b6746d5172ed6352966a013d93ac846e1110d5a25e8f183b5931f4688842a1"]  # sha256 of b"onetwo"


def test_of_sixteen_writers_one_puts_the_object(root: Path) -> None:
    path, start = root / "prize", threading.Barrier(16)
    won: list[int] = []

    def run(number: int) -> None:
        start.wait()
        if put(path, b"writer %02d" % number, None):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert read_object(path) == b"writer %02d" % won[0]


def test_locks_end(root: Path) -> None:
    put(root / "column.json", b"{}", None)
    for _ in range(2):
        with storage_of(root).lock(root):
            pass


def test_a_store_is_written_read_streamed_and_verified(root: Path, tmp_path: Path) -> None:
    known = full_store(root / "deep/prefix")
    full_store(tmp_path / "here")
    there, here = (open_split(store, "d", "val") for store in (root / "deep/prefix", tmp_path / "here"))
    assert find_splits(root / "deep/prefix") == {"d": ["val"]}
    for image in range(len(known.masks)):
        np.testing.assert_array_equal(there[image]["mask_embeddings/sam/x"], known.embeddings[image])
        assert there[image].rows("masks") == here[image].rows("masks")
        assert there[image].rows("targets") == here[image].rows("targets")
    names = ["mask_embeddings/sam/x", "targets.texts"]
    streams = [split.stream(names, 4, shuffle=True, seed=1) for split in (there, here)]
    for ours, theirs in zip(*streams, strict=True):
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            np.testing.assert_array_equal(value, theirs[key]) if isinstance(value, np.ndarray) else None
            assert isinstance(value, np.ndarray) or value == theirs[key]
    assert verify(root / "deep/prefix", ["d/val"], deep=True).problems == []
    for path in sorted((tmp_path / "here").rglob("*")):
        if path.is_file() and "log" not in path.parts:
            assert read_object(root / "deep/prefix" / path.relative_to(tmp_path / "here")) == path.read_bytes(), path


def test_writers_in_threads_agree_or_say_so(root: Path) -> None:
    prepare(root, WORKS["array, first time"])
    race(root, 1, 1, 2)
