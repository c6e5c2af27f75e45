"""sha256 of source files, kept between commands, so that a picture need not be read again to see whether it changed.

A digest is kept with the file's size, times and inode, and counts for as long as these stay. Each folder of source files has
one log below the cache folder, with a line for each file, to which every process appends. It needs no lock: a line that is
incomplete after a kill, a full disk or another writer does not match its checksum, and a lost line only means that one file is
read again. The cache is no part of a store, and may be removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from store.addresses import is_remote
from store.storage.files import file_sha256
from store.storage.mounts import storage_of
from store.storage.objects import object_sha256
from store.storage.protocol import Stat

State = os.stat_result | Stat
"""The state of a file, or of an object in a bucket, which changes when its content does."""

SETTLED_NS = 2_000_000_000
"""A file that changed less than this before it was read may change again and keep the same time, so its digest is not kept."""
_SPARE_LINES = 1000


@dataclass
class _Log:
    """Digests of the files of one folder. known: name -> version and sha256, as they are in a line; fresh: lines to append."""

    path: Path
    known: dict[str, str]
    fresh: list[bytes] = field(default_factory=list)


class Digests:
    """Digests of files, kept below ``folder``. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._logs: dict[str, _Log] = {}
        self._one_at_a_time = threading.Lock()

    def known(self, path: str, state: State) -> str | None:
        """sha256 (hex) of a file, if its digest is known.

        Args:
            path: an absolute path, or one in an object store. state: its current state.
        """
        folder, _, name = path.rpartition("/")
        version = _version(state)
        entry = (self._logs.get(folder) or self._open(folder)).known.get(name)
        return entry[len(version) :] if entry is not None and entry.startswith(version) else None

    def sha256(self, path: str, state: State) -> str:
        """:meth:`known`, or else the sha256 computed by reading the file now."""
        known = self.known(path, state)
        if known is not None:
            return known
        began_ns = time.time_ns()
        found = sha256_of(path)
        settled = isinstance(state, Stat) or began_ns - state.st_ctime_ns > SETTLED_NS
        if settled and _is_still(path, state):
            folder, _, name = path.rpartition("/")
            log, version = self._open(folder), _version(state)
            log.known[name] = version + found
            if "\n" not in name:
                log.fresh.append(_line(f"{version}{found}\t{name}"))
        return found

    def keep(self) -> None:
        """Append what was found since the last call to the logs. Where the cache cannot be written, nothing is kept."""
        for log in [*self._logs.values()]:
            with self._one_at_a_time:
                lines, log.fresh = log.fresh, []
            if lines:
                with contextlib.suppress(OSError):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    with log.path.open("ab", buffering=0) as file:
                        file.write(b"\n" + b"\n".join(lines) + b"\n")  # it may follow half a line

    def _open(self, folder: str) -> _Log:
        with self._one_at_a_time:
            if folder not in self._logs:
                name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]
                path = self.folder / f"{name}.log"
                self._logs[folder] = _Log(path, _read(path))
            return self._logs[folder]


@lru_cache(maxsize=8)
def digests_in(folder: Path) -> Digests:
    """The digests that are kept below a folder; one instance for each folder in a process."""
    return Digests(folder)


def sha256_of(path: str) -> str:
    """sha256 (hex) of a file's bytes, or of an object's."""
    return object_sha256(Path(path)) if is_remote(path) else file_sha256(Path(path))


def _version(state: State) -> str:
    if isinstance(state, Stat):
        return f"{state.size} {hashlib.sha256(state.token.encode()).hexdigest()} "
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} "


def _is_still(path: str, state: State) -> bool:
    """Whether a file still has the state that it had before it was read."""
    if isinstance(state, Stat):
        return storage_of(Path(path)).stat(Path(path)) == state
    with contextlib.suppress(OSError):
        return _version(Path(path).stat()) == _version(state)
    return False


def _line(entry: str) -> bytes:
    data = entry.encode("utf-8", "surrogateescape")
    return b"%08x %s" % (zlib.crc32(data), data)


def _read(path: Path) -> dict[str, str]:
    """The content of a log; for a file with several lines, the last one counts. A log of mostly old lines is written again."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return {}
    known = {}
    for line in lines:
        check, _, data = line.partition(b" ")
        if check == b"%08x" % zlib.crc32(data):
            entry, tab, name = data.decode("utf-8", "surrogateescape").partition("\t")
            if tab:
                known[name] = entry
    if len(lines) > 2 * len(known) + _SPARE_LINES:
        again = b"\n".join(_line(f"{entry}\t{name}") for name, entry in known.items()) + b"\n"
        temporary = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            temporary.write_bytes(again)
            temporary.replace(path)
    return known
