"""A bounded folder of this machine for what was read from an object store, so that a second epoch need not ask for it again.

It holds pieces of shards, each in a file whose name is a digest of the object's address, the shard's seal, and which piece it is:
it cannot be out of date. Nothing in it is trusted: readers check every piece against the commit, as if it came from the store, and
remove one that does not fit.

Processes share a cache. A file appears whole (by a rename), an open one stays readable when it is removed, and one process at a
time writes or removes. A piece that was used within :data:`KEPT_S` is not removed to make room for another: when an epoch is
larger than the cache, one part of it stays there, rather than each piece being replaced just before it is needed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import FileIO
from pathlib import Path

from ..errors import StoreError
from .files import TEMPORARY, flock
from .local import OpenFile

FOLDER, LIMIT = "ELISA_CACHE", "ELISA_CACHE_BYTES"
"""Environment variables: where the cache is (empty: no cache), and how many bytes it may take."""
DEFAULT_BYTES = 10 * 2**30
KEPT_S = 24 * 3600
"""A piece that was used within this many seconds is not removed to make room for another."""
LEFT_FREE = 2**30
"""Bytes of the disk that the cache leaves free."""
_MOST_WAITING = 64 * 2**20
"""How many bytes may wait to be written."""
_LOOKED_S = 60
"""For this many seconds a full cache is not searched again for what could make room."""
_ROOM = 0.9
"""Making room reduces the cache to this part of its limit, so that it is seldom necessary."""


def cache_here() -> Cache | None:
    """The cache of this machine, as the environment has it now; None without a cache, or if it cannot be made."""
    return _cache(os.environ.get(FOLDER), os.environ.get(LIMIT), os.environ.get("XDG_CACHE_HOME"))


@lru_cache(maxsize=8)
def _cache(folder: str | None, limit: str | None, base: str | None) -> Cache | None:
    if folder == "":
        return None
    try:
        size = DEFAULT_BYTES if limit is None else int(limit)
    except ValueError:
        raise StoreError(f"found {LIMIT}={limit!r} in the environment, expected a number of bytes") from None
    try:
        where = Path(folder) if folder else Path(base or Path.home() / ".cache") / "elisa-store"
        where.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Cache(where, size) if size > 0 and os.access(where, os.W_OK) else None
    except (OSError, RuntimeError):  # a read-only disk, no home
        return None


class Cache:
    """Pieces of shards in a folder, ``limit`` bytes of them at most. Threads and processes may share it."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self._full_until = 0.0
        self._waiting_bytes, self._lock = 0, threading.Lock()
        self._writer: ThreadPoolExecutor | None = None

    @staticmethod
    def name(path: Path, seal: str, piece: str) -> str:
        """The name of a piece of the shard with that seal, of the object at ``path``."""
        return hashlib.sha256(f"{path}\0{seal}\0{piece}".encode()).hexdigest()

    def open(self, name: str) -> OpenFile | None:
        """A piece as an open file, which stays whatever becomes of the cache; None where it is not there."""
        path = self._path(name)
        try:
            found = OpenFile(path)
            os.utime(path)
        except OSError:
            return None
        return found

    def read(self, name: str, size: int) -> memoryview | None:
        """The bytes of a piece; None where it is not there, or has another size."""
        found = self.open(name)
        if found is None or found.size != size:
            return None
        data = memoryview(bytearray(size))
        return data if found.readv([data], 0) == size else None

    def write_soon(self, name: str, data: memoryview) -> None:
        """:meth:`write` in a thread, so that nobody waits for the disk; not at all where the disk cannot keep up."""
        with self._lock:
            if self._waiting_bytes + len(data) > _MOST_WAITING or time.monotonic() < self._full_until:
                return
            self._waiting_bytes += len(data)
            self._writer = self._writer or ThreadPoolExecutor(1, "elisa-store-cache")
        with contextlib.suppress(RuntimeError):  # the interpreter is ending
            self._writer.submit(self._write_waiting, name, data)

    def _write_waiting(self, name: str, data: memoryview) -> None:
        try:
            self.write(name, data)
        finally:
            with self._lock:
                self._waiting_bytes -= len(data)

    def wait(self) -> None:
        """Wait until everything given to :meth:`write_soon` is written."""
        if self._writer is not None:
            self._writer.submit(lambda: None).result()

    def write(self, name: str, data: bytes | memoryview) -> None:
        """Keep a piece, if there is room. After an error of the disk, which is only a warning, nothing more is kept."""
        if time.monotonic() < self._full_until:
            return
        path = self._path(name)
        temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
        try:
            with self._locked() as count:
                if path.exists():
                    return
                if not self._has_room(count, len(data)):
                    self._full_until = time.monotonic() + _LOOKED_S
                    return
                path.parent.mkdir(exist_ok=True, mode=0o700)
                try:
                    temporary.write_bytes(data)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
        except (OSError, StoreError) as error:
            self._full_until = float("inf")
            warnings.warn(f"{self.folder}: nothing more is kept in the cache: {error}", stacklevel=2)

    def remove(self, name: str) -> bool:
        """Remove a piece that turned out to be damaged; return whether it was there."""
        path = self._path(name)
        with contextlib.suppress(OSError, StoreError), self._locked() as count:
            used, size = self._noted(count), path.stat().st_size
            path.unlink()
            _note(count, max(0, used - size))
            return True
        return False

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / name

    @contextlib.contextmanager
    def _locked(self) -> Iterator[FileIO]:
        """Keep other processes from writing or removing pieces while the block runs; gives the file with the number of bytes."""
        path = self.folder / "bytes"
        with path.open("a+b", buffering=0) as count:
            flock(count.fileno(), path)
            yield count

    def _has_room(self, count: FileIO, size: int) -> bool:
        """Note bytes that are about to be written, after making room for them; False without room."""
        used = self._noted(count)
        if used + size > self.limit:
            used = self._make_room(size)
        room = used + size <= self.limit and shutil.disk_usage(self.folder).free >= size + LEFT_FREE
        _note(count, used + size if room else used)
        return room

    def _noted(self, count: FileIO) -> int:
        count.seek(0)
        text = count.read(32)
        return int(text) if text.isdigit() else sum(size for _, size, _ in self._files())

    def _files(self) -> list[tuple[float, int, Path]]:
        """When each file was used last, its size, and where it is."""
        found = []
        for folder in self.folder.iterdir():
            if len(folder.name) == 2 and folder.is_dir():
                for entry in os.scandir(folder):
                    with contextlib.suppress(FileNotFoundError):
                        state = entry.stat(follow_symlinks=False)
                        found.append((state.st_mtime, state.st_size, Path(entry.path)))
        return found

    def _make_room(self, size: int) -> int:
        """Remove what was not used for long, the oldest first; return how many bytes are left."""
        files = sorted(self._files())
        total, before = sum(size for _, size, _ in files), time.time() - KEPT_S
        for used, own, path in files:
            if total + size <= _ROOM * self.limit or used > before:
                break
            path.unlink(missing_ok=True)
            total -= own
        return total


def _note(count: FileIO, size: int) -> None:
    count.truncate(0)
    count.write(str(size).encode())
