"""Durable files: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import DamagedStoreError
from .layout import TEMPORARY


def canonical_json(value: Any) -> bytes:
    """The one byte string of a JSON value: sorted keys, no spaces, ASCII. Digests are taken of it."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(value: Any) -> str:
    """sha256 (hex) of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as file:
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
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


@contextlib.contextmanager
def temporary_file(folder: Path, blocks: Iterable[bytes]) -> Iterator[tuple[Path, int, str]]:
    """Write and fsync a temporary file in ``folder``; give its path, size in bytes and sha256.

    It is locked while the block runs, so that others can tell it from what a dead process left, on any machine. What
    was not published when the block ends is removed.
    """
    path = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    state, size = hashlib.sha256(), 0
    try:
        with path.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for block in blocks:
                file.write(block)
                state.update(block)
                size += len(block)
            file.flush()
            os.fsync(file.fileno())
            yield path, size, state.hexdigest()
    finally:
        path.unlink(missing_ok=True)


def publish(temporary: Path, final: Path) -> None:
    """Rename a temporary file to its final name and fsync the folder."""
    temporary.replace(final)
    sync_folder(final.parent)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object durably, with its own checksum in the field ``checksum``."""
    sealed = {**value, "checksum": digest(value)}
    text = json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n"
    make_folder(path.parent)
    with temporary_file(path.parent, [text.encode()]) as (temporary, _, _):
        publish(temporary, path)


def read_json(path: Path, max_bytes: int = 1 << 28) -> dict[str, Any]:
    """Read a JSON object written by :func:`write_json`.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedStoreError: its bytes are not what was written.
    """
    if path.is_symlink() or path.stat().st_size > max_bytes:
        raise DamagedStoreError(f"{path}: found a link or more than {max_bytes} bytes, expected a small JSON file")
    try:
        value = json.loads(path.read_bytes())
        stated = value.pop("checksum")
        actual = digest(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedStoreError(f"{path}: found something else than a JSON object with a checksum ({error})") from error
    if stated != actual:
        raise DamagedStoreError(
            f"{path}: found checksum {actual}, expected {stated}; run: python cli.py verify --repair"
        )
    return value  # type: ignore[no-any-return]


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the exclusive lock of a folder. It ends with its process: nothing is left behind by a kill."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sweep_temporaries(folder: Path) -> list[Path]:
    """Remove the temporary files below ``folder`` whose writers are dead."""
    swept = [path for path in sorted(folder.rglob(f"{TEMPORARY}*")) if not is_being_written(path)]
    for path in swept:
        path.unlink(missing_ok=True)
    return swept


def is_being_written(path: Path) -> bool:
    """Whether a living process holds a temporary file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@lru_cache(maxsize=1 << 16)
def _sha256_of_version(path: Path, size_bytes: int, mtime_ns: int) -> str:
    return file_sha256(path)


def cached_sha256(path: Path) -> str:
    """:func:`file_sha256`, worked out once a process for as long as size and modification time stay."""
    state = path.stat()
    return _sha256_of_version(path.resolve(), state.st_size, state.st_mtime_ns)
