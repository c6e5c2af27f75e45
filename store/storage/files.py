"""Durable files: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

from ..errors import DamagedStoreError, StoreError
from .listing import files_below, is_there, named, state_of

TEMPORARY = ".tmp-"
"""Prefix of files that are being written; never part of the store."""
STARTING_S = 60
"""For this many seconds an empty temporary file that nobody holds may be one whose writer is about to take its lock."""


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
    missing = [path for path in (folder, *folder.parents) if not is_there(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            sync_folder(path.parent)
    except BaseException:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those of the folders that are empty, in this order: work that failed leaves nothing."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def temporary_file(folder: Path, blocks: Iterable[bytes]) -> Iterator[tuple[Path, int, str]]:
    """Write and fsync a temporary file in ``folder``; give its path, size in bytes and sha256.

    It is locked while the block runs, so that others can tell it from what a dead process left, on any machine. What
    was not published when the block ends is removed.
    """
    state, size = hashlib.sha256(), 0
    with _new_file(folder) as (path, file):
        for block in blocks:
            rest = memoryview(block)
            while rest:  # a write may stop early
                with named(path):
                    rest = rest[file.write(rest) :]
            state.update(block)
            size += len(block)
        with named(path):
            os.fsync(file.fileno())
        yield path, size, state.hexdigest()


@contextlib.contextmanager
def _new_file(folder: Path) -> Iterator[tuple[Path, FileIO]]:
    """A locked temporary file. One that was swept before it was locked is replaced by another."""
    path = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    with path.open("xb", buffering=0) as file:
        try:
            _flock(file.fileno(), path)
            if is_there(path):
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


def sealed(value: dict[str, Any]) -> bytes:
    """The bytes of a JSON object in canonical form, with its own checksum in the field ``checksum``, and a newline."""
    return canonical_json({**value, "checksum": digest(value)}) + b"\n"


def write_json(path: Path, value: dict[str, Any], durable: bool = True) -> None:
    """Write a JSON object as :func:`sealed` has it.

    ``durable``: survive a power loss; else what the name led to before may come back.
    """
    make_folder(path.parent)
    with temporary_file(path.parent, [sealed(value)]) as (temporary, _, _):
        temporary.replace(path)
        if durable:
            sync_folder(path.parent)


def read_json(path: Path, max_bytes: int = 1 << 28) -> dict[str, Any]:
    """Read a JSON object written by :func:`write_json`.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedStoreError: its bytes are not what was written.
    """
    state = path.lstat()
    if stat.S_ISLNK(state.st_mode) or state.st_size > max_bytes:
        raise DamagedStoreError(f"{path}: found a link or more than {max_bytes} bytes, expected a small JSON file")
    try:
        with named(path):
            text = path.read_bytes()
        value = json.loads(text)
        stated = value.pop("checksum")
        # As we write it, the file has the canonical form in it (a large split has thousands to check); as others do, not.
        written = hashlib.sha256(_without_checksum(text, stated)).hexdigest() == stated
        actual = stated if written else digest(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedStoreError(f"{path}: found something else than a JSON object with a checksum ({error})") from error
    if stated != actual:
        raise DamagedStoreError(f"{path}: found checksum {actual}, expected {stated}")
    return value  # type: ignore[no-any-return]


def _without_checksum(text: bytes, stated: object) -> bytes:
    """What :func:`write_json` wrote, without the field ``checksum`` and the newline."""
    field = f'"checksum":"{stated}"'.encode()
    text = text.rstrip(b"\n")
    return text.replace(field + b",", b"", 1) if field + b"," in text else text.replace(b"," + field, b"", 1)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of a folder. It ends with its process: nothing is left behind by a kill."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _flock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _flock(descriptor: int, path: Path, wait: bool = True) -> None:
    """Take the exclusive lock of an open file; BlockingIOError when another has it and ``wait`` is False."""
    try:
        import fcntl  # where nothing is written it is not needed; Windows has none
    except ModuleNotFoundError as error:
        raise StoreError(f"{path}: a store can be written on Linux and macOS; this system can only read it") from error
    with named(path):
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))


def temporaries(folder: Path) -> list[Path]:
    """The temporary files below ``folder``, of living and of dead writers."""
    return [path for path in files_below(folder) if path.name.startswith(TEMPORARY)]


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporary files below ``folder`` whose writers are dead."""
    for path in temporaries(folder):
        remove_if_dead(path)


def remove_if_dead(path: Path) -> bool:
    """Remove a temporary file whose writer is dead; whether it was removed."""
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
    state = state_of(path)
    if state is None or not stat.S_ISREG(state.st_mode) or state.st_size:
        return False
    return abs(time.time() - state.st_mtime) < STARTING_S


@contextlib.contextmanager
def _lock_of_the_dead(path: Path) -> Iterator[bool]:
    """Hold the lock of a temporary file, so that its writer cannot begin; False when a living one has it.

    Another user's file that may not be opened counts as living. Any other trouble is raised: only "gone" means gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno not in _NO_WRITERS and not isinstance(error, PermissionError):
            raise
        yield error.errno in _NO_WRITERS
        return
    dead = True
    try:
        try:
            _flock(descriptor, path, wait=False)
        except BlockingIOError:
            dead = False
        yield dead
    finally:
        os.close(descriptor)


_NO_WRITERS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO)
"""What opening says of a file that is gone, of a link, and of a socket: none is a writer's temporary file."""


@lru_cache(maxsize=1 << 16)
def _sha256_of_version(path: Path, size_bytes: int, mtime_ns: int, ctime_ns: int) -> str:
    return file_sha256(path)


def cached_sha256(path: Path) -> str:
    """:func:`file_sha256`, worked out once a process for as long as size and times stay (``ctime`` cannot be set back)."""
    state = path.stat()
    return _sha256_of_version(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ctime_ns)
