"""Durable files on a local or network file system: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

from ..errors import StoreError

TEMPORARY = ".tmp-"
"""Prefix of files that are being written; never part of the store."""
STARTING_S = 60
"""For this many seconds an empty temporary file that nobody holds may be one whose writer is about to take its lock."""
ABANDONED_S = 24 * 3600
"""A temporary file that nobody has written to for this long counts as left over, where there are no locks to tell."""
LOCK_FILE = "column.json"
"""The file whose lock stands for a column's: every column has one, and NFS locks only files, and only those open for writing."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL)
"""Error numbers of a file system that cannot lock a file (NFSv4: EBADF, where the file may not be written)."""


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add to an OSError which file it is about: for a write, an fsync or a read that fails, the system does not say."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, ASCII. Digests are taken of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with named(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256_of(file)


def _sha256_of(file: Any) -> str:
    state = hashlib.sha256()
    while block := file.read(1 << 20):
        state.update(block)
    return state.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with named(folder):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> list[Path]:
    """Create a folder and its parents, durably; give those that were not there, the innermost first."""
    missing = [path for path in (folder, *folder.parents) if _lstat(path) is None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
    except BaseException:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, in this order, so that failed work leaves nothing behind."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def temporary_file(
    folder: Path, blocks: Iterable[bytes], seal: Callable[[str], tuple[int, bytes]] | None = None
) -> Iterator[tuple[Path, int, str]]:
    """Write and fsync a temporary file in ``folder``; give its path, size in bytes and sha256.

    It is locked while the block runs, so that others can tell it from what a dead process left, on any machine. What
    was not published when the block ends is removed.

    Args:
        seal: given the sha256 of all blocks, returns an offset in the file and the bytes to put there before the fsync.
    """
    state, size = hashlib.sha256(), 0
    with _new_file(folder) as (path, file):
        for block in blocks:
            _write(file, block, path)
            state.update(block)
            size += len(block)
        if seal is not None:
            offset, data = seal(state.hexdigest())
            with named(path):
                file.seek(offset)
            _write(file, data, path)
        with named(path):
            os.fsync(file.fileno())
        yield path, size, state.hexdigest()


def _write(file: FileIO, data: bytes, path: Path) -> None:
    rest = memoryview(data)
    while rest:  # a write may stop early
        with named(path):
            rest = rest[file.write(rest) :]


@contextlib.contextmanager
def _new_file(folder: Path) -> Iterator[tuple[Path, FileIO]]:
    """A locked temporary file. One that was swept before it was locked is replaced by another."""
    path = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    with path.open("xb", buffering=0) as file:
        try:
            with contextlib.suppress(_LocksUnknownError):  # then its age tells
                flock(file.fileno(), path)
            if _lstat(path) is not None:
                yield path, file
                return
        finally:
            path.unlink(missing_ok=True)
    with _new_file(folder) as another:
        yield another


def publish(temporary: Path, final: Path) -> None:
    """Rename a temporary file to its final name and fsync the folder."""
    temporary.replace(final)
    sync_folder(final.parent)


class _LocksUnknownError(OSError):
    """The file system does not lock this file."""


def flock(descriptor: int, path: Path, wait: bool = True) -> None:
    """Take the exclusive lock of an open file, which ends with its process.

    Raises:
        BlockingIOError: another process has it, and ``wait`` is False.
        OSError: with an errno of :data:`NO_LOCKS` where the file system has no locks.
    """
    try:
        import fcntl  # where nothing is written it is not needed; Windows has none
    except ModuleNotFoundError as error:
        raise StoreError(f"{path}: a store can be written on Linux and macOS; this system can only read it") from error
    try:
        with named(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in NO_LOCKS:
            raise _LocksUnknownError(error.errno, error.strerror, str(path)) from error
        raise


def remove_if_dead(path: Path) -> bool:
    """Remove a temporary file whose writer is dead; return whether it was removed."""
    with _lock_of_the_dead(path) as dead:
        if dead:
            path.unlink(missing_ok=True)
        return dead


def is_being_written(path: Path) -> bool:
    """Whether a living process holds a temporary file.

    Raises:
        OSError: it cannot be told, e.g. because this process has too many files open.
    """
    with _lock_of_the_dead(path) as dead:
        return not dead


def may_be_starting(path: Path) -> bool:
    """Whether a temporary file that nobody holds may be one whose writer is about to take its lock: empty, and just made."""
    state = _lstat(path)
    if state is None or not stat.S_ISREG(state.st_mode) or state.st_size:
        return False
    return abs(time.time() - state.st_mtime) < STARTING_S


@contextlib.contextmanager
def _lock_of_the_dead(path: Path) -> Iterator[bool]:
    """Hold the lock of a temporary file, so that its writer cannot begin; False when a living one has it.

    The writer of another user's file that may not be opened counts as living, and so does that of a file that cannot be locked,
    until the file is a day old. Any other error is raised: only "gone" means gone.
    """
    try:
        descriptor = _open_to_lock(path)
    except OSError as error:
        if error.errno not in _NO_WRITERS and not isinstance(error, PermissionError):
            raise
        yield error.errno in _NO_WRITERS
        return
    dead = True
    try:
        try:
            flock(descriptor, path, wait=False)
        except BlockingIOError:
            dead = _is_lock_of_its_folder(descriptor, path)
        except _LocksUnknownError:
            dead = time.time() - os.fstat(descriptor).st_mtime > ABANDONED_S
        yield dead
    finally:
        os.close(descriptor)


def _is_lock_of_its_folder(descriptor: int, path: Path) -> bool:
    """Whether a temporary file is also ``column.json``: a kill left it with both names. Its lock is then the column's."""
    mine, other = os.fstat(descriptor), _lstat(path.parent / LOCK_FILE)
    return other is not None and (mine.st_dev, mine.st_ino) == (other.st_dev, other.st_ino)


def _open_to_lock(path: Path) -> int:
    """A descriptor of a file to lock: open for writing where that is allowed, as NFSv4 locks no other."""
    how = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, os.O_RDWR | how)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ETXTBSY):
            raise
        return os.open(path, os.O_RDONLY | how)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of a column: that of its ``column.json``, or of the folder itself where that is not there.

    The lock ends with its process, so a kill leaves nothing. Where the file system has no locks nothing is held: code that runs
    under this lock has to be correct without it.
    """
    path = folder / LOCK_FILE
    while True:
        try:
            descriptor = _open_to_lock(path)
        except OSError as error:
            if error.errno not in _NO_WRITERS:
                raise
            path, descriptor = folder, os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(_LocksUnknownError):
                flock(descriptor, path)
            mine, there = os.fstat(descriptor), _lstat(path)
            if there is not None and (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                yield
                return
            if there is None and path == folder:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        finally:
            os.close(descriptor)
        path = folder / LOCK_FILE  # what was locked was replaced while this process waited


_NO_WRITERS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO)
"""Error numbers of opening a file that is gone, a link, or a socket: none of these is a writer's temporary file."""


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


@lru_cache(maxsize=1 << 16)
def _sha256_of_version(path: Path, size_bytes: int, mtime_ns: int, ctime_ns: int) -> str:
    return file_sha256(path)


def cached_sha256(path: Path) -> str:
    """:func:`file_sha256`, worked out again only if the file's size or times changed (``ctime`` cannot be set back)."""
    state = path.stat()
    return _sha256_of_version(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
