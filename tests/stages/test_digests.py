"""Digests of source files that are kept on disk: never a wrong one, whatever happens to a file or to the cache."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import stages.digests
from stages.digests import Digests
from store.storage.files import file_sha256


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had been written long ago."""
    monkeypatch.setattr(stages.digests, "SETTLED_NS", -1)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read to be digested."""
    found: list[str] = []

    def counted(path: Path) -> str:
        found.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(stages.digests, "file_sha256", counted)
    return found


def files_in(folder: Path, count: int = 5) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number} a.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"picture %d" % number)
    return paths


def look(cache: Path, paths: list[Path]) -> list[str]:
    """What a process of its own finds."""
    digests = Digests(cache)
    found = [digests.sha256(str(path), path.stat()) for path in paths]
    digests.keep()
    return found


def truth(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_a_file_is_read_once_by_all_processes(tmp_path: Path, settled: None, reads: list[str]) -> None:
    paths = [*files_in(tmp_path / "a"), *files_in(tmp_path / "b", 2)]
    assert look(tmp_path / "cache", paths) == truth(paths)
    assert len(reads) == 7
    assert look(tmp_path / "cache", paths) == truth(paths)
    assert len(reads) == 7


@pytest.mark.parametrize("how", ["in place", "replaced", "another size", "through a link"])
def test_a_file_that_changed_is_read_again(tmp_path: Path, settled: None, reads: list[str], how: str) -> None:
    path, *_ = files_in(tmp_path / "a")
    asked = path
    if how == "through a link":
        asked = tmp_path / "link.jpg"
        asked.symlink_to(path)
    before, kept = look(tmp_path / "cache", [asked]), path.stat()
    if how == "replaced":
        other = tmp_path / "other"
        other.write_bytes(b"Picture 0")
        other.replace(path)
    else:
        path.write_bytes(b"Picture 0" + b"!" * (how == "another size"))
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))  # as rsync and tar do: the same time as before
    found = look(tmp_path / "cache", [asked])
    assert found == truth([path]) != before
    assert look(tmp_path / "cache", [asked]) == found
    assert len(reads) == 2


def test_a_young_file_is_read_each_time(tmp_path: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within one tick of the file system's clock, and then has the same size and times as before."""
    path, *_ = files_in(tmp_path / "a")
    digests, state = Digests(tmp_path / "cache"), path.stat()
    digests.sha256(str(path), state)
    path.write_bytes(b"Picture 0")
    assert digests.sha256(str(path), state) == truth([path])[0]
    digests.keep()
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(stages.digests.time, "time_ns", lambda: state.st_ctime_ns + 10**10)
    look(tmp_path / "cache", [path])
    look(tmp_path / "cache", [path])
    assert len(reads) == 3


def test_a_file_that_changes_while_it_is_read_is_not_kept(
    tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, *_ = files_in(tmp_path / "a")

    def changing(path: Path) -> str:
        found = file_sha256(path)
        path.write_bytes(b"something else")
        return found

    monkeypatch.setattr(stages.digests, "file_sha256", changing)
    look(tmp_path / "cache", [path])
    monkeypatch.undo()
    assert look(tmp_path / "cache", [path]) == truth([path])


def test_a_log_that_was_cut_or_damaged_anywhere_gives_no_wrong_digest(
    tmp_path: Path, settled: None, reads: list[str]
) -> None:
    paths = files_in(tmp_path / "a", 2)
    right = look(tmp_path / "cache", paths)
    (log,) = (tmp_path / "cache").iterdir()
    whole = log.read_bytes()
    for at in range(len(whole)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:at] + whole):
            log.write_bytes(damaged)
            assert look(tmp_path / "cache", paths) == right, at
            reads.clear()
            assert look(tmp_path / "cache", paths) == right, at
            assert not reads, at  # what was torn is made good by the line that comes after it


def test_processes_and_threads_write_one_log_together(tmp_path: Path, settled: None, reads: list[str]) -> None:
    paths = files_in(tmp_path / "a", 60)
    fork = multiprocessing.get_context("fork")
    parts = [paths[start : start + 40] for start in (0, 10, 20)]  # they overlap
    workers = [fork.Process(target=look, args=(tmp_path / "cache", part)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    shared = Digests(tmp_path / "cache")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: shared.sha256(str(path), path.stat()), paths))
    assert found == truth(paths)
    assert not reads


def test_a_log_of_old_lines_is_written_again(tmp_path: Path, settled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.digests, "_SPARE_LINES", 10)
    path, other = files_in(tmp_path / "a", 2)
    look(tmp_path / "cache", [other])
    (log,) = (tmp_path / "cache").iterdir()
    sizes = []
    for number in range(30):
        path.write_bytes(b"%d" % number)
        assert look(tmp_path / "cache", [path, other]) == truth([path, other])
        sizes.append(log.stat().st_size)
    assert max(sizes) < 20 * sizes[0]
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [log.name]


def test_where_the_cache_cannot_be_written_files_are_read(tmp_path: Path, settled: None, reads: list[str]) -> None:
    paths = files_in(tmp_path / "a")
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        assert look(tmp_path / "file" / "cache", paths) == truth(paths)
    assert len(reads) == 10


@pytest.mark.parametrize("name", ["a\nb.jpg", "tab\there.jpg", "ünï.jpg", os.fsdecode(b"\xff.jpg"), " "])
def test_any_file_name(tmp_path: Path, settled: None, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x")
    assert look(tmp_path / "cache", [path]) == look(tmp_path / "cache", [path]) == truth([path])
