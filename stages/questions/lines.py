"""Append-only files of JSON objects, one per line. A kill can leave only the last line incomplete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.names import type_name
from stages.questions.errors import JournalError
from store.storage.files import NO_LOCKS, flock, named

_BLOCK_BYTES = 1 << 16


class Lines:
    """An append-only file of JSON objects, one per line.

    Once ``append`` has returned, its lines survive a kill and a loss of power.

    An incomplete last line left by a killed process is not read, and is removed when the file is opened for writing.

    Args:
        write: create it if it is missing, and hold its lock until ``close``; else read it as it is now, as empty if it is
            missing.

    Raises:
        JournalError: another process has it open for writing, or its file system has no locks.
    """

    def __init__(self, path: Path, write: bool) -> None:
        self.path, self._write = path, write
        there = path if write or path.exists() else Path(os.devnull)
        self._descriptor = os.open(there, os.O_RDWR | os.O_CREAT if write else os.O_RDONLY, 0o666)
        try:
            if write:
                self._lock()
            self.end = self._after_last_newline()
            self._cut()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, which frees its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def scan(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every object with the byte offset of its line.

        A last line that is not a JSON object was damaged by a loss of power, and is dropped.

        Raises:
            JournalError: another line is not a JSON object.
        """
        offset = 0
        with self.path.open("rb") if self.end else open(os.devnull, "rb") as file:  # noqa: PTH123
            for number, line in enumerate(file, start=1):
                if offset >= self.end:
                    return
                try:
                    yield offset, _object(line)
                except ValueError as error:
                    if offset + len(line) < self.end:
                        raise JournalError(
                            f"{self.path}: line {number} is {line[:60]!r}, expected a JSON object; a kill tears only the last "
                            "line, so the file was damaged: restore it from a copy, or move its folder away to ask everything again"
                        ) from error
                    self.end = offset
                    self._cut()
                    return
                offset += len(line)

    def read(self, offset: int) -> dict[str, Any]:
        """Return the object whose line begins at a byte offset."""
        line, size = b"", 1 << 12
        while not line.endswith(b"\n"):
            with named(self.path):
                line = os.pread(self._descriptor, size, offset)
            if b"\n" not in line and len(line) < size:
                raise JournalError(f"{self.path}: no line at byte {offset}; the file was shortened while it was in use")
            line, size = line[: line.find(b"\n") + 1], 4 * size
        return _object(line)

    def append(self, values: Sequence[Mapping[str, Any]]) -> list[int]:
        """Append objects with one write, wait until they are on the disk, and return the byte offsets of their lines.

        If that fails, nothing is appended.
        """
        lines = [json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n" for value in values]
        offsets, end = [], self.end
        for line in lines:
            offsets.append(end)
            end += len(line)
        try:
            _write(self._descriptor, b"".join(lines), self.end, self.path)
            with named(self.path):
                os.fsync(self._descriptor)
        except OSError:
            self._cut()  # half a line in front of the next one would damage the file
            raise
        self.end = end
        return offsets

    def _cut(self) -> None:
        if self._write and os.fstat(self._descriptor).st_size > self.end:
            os.ftruncate(self._descriptor, self.end)

    def _lock(self) -> None:
        try:
            flock(self._descriptor, self.path, wait=False)
        except BlockingIOError as error:
            raise JournalError(
                f"{self.path}: another process is asking, and two would ask the same requests; wait until it has ended, or stop it"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            raise JournalError(
                f"{self.path}: this file system has no locks, which keep two processes from asking the same; expected a "
                "folder on a local disk"
            ) from error

    def _after_last_newline(self) -> int:
        end = os.lseek(self._descriptor, 0, os.SEEK_END)
        while end > 0:
            begin = max(end - _BLOCK_BYTES, 0)
            found = os.pread(self._descriptor, end - begin, begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
        return 0


def _object(line: bytes) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"found {type_name(value)}, expected an object")
    return value


def _write(descriptor: int, data: bytes, offset: int, path: Path) -> None:
    rest = memoryview(data)
    while rest:  # a write may stop early
        with named(path):
            count = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[count:], offset + count
