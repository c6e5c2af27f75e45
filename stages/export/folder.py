"""The folder of an export: empty at first, continued if the same export was stopped, finished once ``export.json`` exists.

``unfinished.jsonl`` records the progress: a line that says which export it is, then one for each finished unit (a run of
images). Files have temporary names until they are complete.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stages.nearby import free_name
from store.storage.files import (
    NO_LOCKS,
    TEMPORARY,
    flock,
    make_folder,
    publish,
    remove_if_dead,
    sync_folder,
    temporary_file,
)

DONE, BEGUN = "export.json", "unfinished.jsonl"
_BLOCK_BYTES = 1 << 20
_GROUP_FILES = 64
"""Number of files that are open at a time."""


class ExportError(ValueError):
    """The folder cannot be used; says what was found in it and what was expected."""


class Output:
    """The folder of an export that is being written.

    done: how many units are finished. Every file gets its final name when it is complete.
    """

    def __init__(self, folder: Path, done: int) -> None:
        self.folder, self.done = folder, done

    def write(self, name: str, blocks: Iterable[bytes]) -> int:
        """Write a file below the folder, in place of one that a stopped run left; return its size in bytes.

        Args:
            name: relative, POSIX; it comes from data only where :func:`stages.export.names.file_name` or ``below`` made it.
        """
        path = self.folder / name
        make_folder(path.parent)
        with temporary_file(path.parent, _joined(blocks)) as (temporary, size, _):
            publish(temporary, path)
        return size

    def write_files(self, files: Mapping[str, bytes]) -> int:
        """Write many small files; return their total size in bytes. They are flushed in groups, which takes a third of the time."""
        paths = {self.folder / name: data for name, data in files.items()}
        folders = dict.fromkeys(path.parent for path in paths)
        for folder in folders:
            make_folder(folder)
        left = list(paths.items())
        while left:
            group, left = left[:_GROUP_FILES], left[_GROUP_FILES:]
            _write_group(group)
        for folder in folders:
            sync_folder(folder)
        return sum(map(len, files.values()))

    def link(self, name: str, target: Path) -> None:
        """Make a symbolic link to a file elsewhere."""
        path = self.folder / name
        make_folder(path.parent)
        path.unlink(missing_ok=True)
        path.symlink_to(target.resolve())

    def add(self, unit: Mapping[str, Any]) -> None:
        """Record that a unit is finished. Call it after the unit's files are written."""
        with (self.folder / BEGUN).open("a", encoding="utf-8") as file:
            file.write(_line(unit))
        self.done += 1

    def units(self) -> Iterator[dict[str, Any]]:
        """The record of every unit, in order."""
        with (self.folder / BEGUN).open(encoding="utf-8") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write ``export.json``, which marks the export as complete."""
        for path in self.folder.rglob(f"{TEMPORARY}*"):  # left by a run that was killed
            remove_if_dead(path)
        self.write(DONE, [(json.dumps(summary, indent=1, ensure_ascii=False) + "\n").encode()])
        (self.folder / BEGUN).unlink()


@contextlib.contextmanager
def begun(folder: Path, head: Mapping[str, Any]) -> Iterator[Output]:
    """Open the folder of an export, empty or with what an earlier call of the same export finished.

    Args:
        head: which export it is, a JSON value.

    Raises:
        ExportError: there is something else in the folder, a finished export, or another process at work. Nothing was changed.
    """
    require_usable(folder, head)
    make_folder(folder)
    path = folder / BEGUN
    with path.open("a+b") as file:
        _lock(file.fileno(), path)
        file.seek(0)
        *lines, rest = file.read().split(b"\n")
        if rest:  # half a line, as a kill may leave
            file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            file.write(_line(head).encode())
            file.flush()
        yield Output(folder, max(0, len(lines) - 1))


def _write_group(group: Sequence[tuple[Path, bytes]]) -> None:
    """Write files under temporary names, flush all of them, then give them their names."""
    waiting: dict[Path, Path] = {}
    try:
        with contextlib.ExitStack() as stack:
            opened = []
            for path, data in group:
                temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
                waiting[temporary] = path
                file = stack.enter_context(temporary.open("xb"))
                file.write(data)
                file.flush()
                opened.append(file.fileno())
            for descriptor in opened:
                os.fsync(descriptor)
        for temporary in list(waiting):
            temporary.replace(waiting.pop(temporary))
    finally:
        for temporary in waiting:
            temporary.unlink(missing_ok=True)


def _lock(descriptor: int, path: Path) -> None:
    try:
        flock(descriptor, path, wait=False)
    except BlockingIOError as error:
        raise ExportError(f"another process is at work in {path.parent}; expected another folder, or wait") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise


def require_usable(folder: Path, head: Mapping[str, Any]) -> None:
    """Raise ExportError unless a folder is not there, is empty, or was begun by the same export."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise ExportError(
            f"{folder} is a file, expected a folder that is empty or not there yet, such as {free_name(folder)}"
        )
    names = sorted(path.name for path in folder.iterdir())
    if not names:
        return
    if DONE in names and BEGUN not in names:
        raise ExportError(f"{folder} holds a finished export; expected another folder, or remove it")
    if BEGUN not in names:
        shown = ", ".join(names[:3]) + ("" if len(names) <= 3 else f" and {len(names) - 3} more")
        raise ExportError(
            f"{folder} holds {shown}; expected a folder that is empty or not there yet, such as {free_name(folder)}"
        )
    with (folder / BEGUN).open("rb") as file:
        found = file.readline()
    if not found.endswith(b"\n"):  # a kill while it was written
        if not _line(head).encode().startswith(found):
            raise ExportError(f"{folder} holds an export that cannot be read; expected another folder, or remove it")
    elif found != _line(head).encode():
        raise ExportError(
            f"{folder} holds an unfinished export of something else ({_difference(found, head)}); expected another folder, or "
            "remove it"
        )


def _difference(found: bytes, head: Mapping[str, Any]) -> str:
    """The names of the values in which two exports differ."""
    try:
        other = json.loads(found)
    except ValueError:
        return "it cannot be read"
    if not isinstance(other, dict):
        return "it cannot be read"
    names = [name for name in dict.fromkeys((*head, *other)) if other.get(name) != json.loads(_line(head)).get(name)]
    return ", ".join(names) or "written by another version"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _joined(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in blocks of about a megabyte, as each block costs a system call."""
    waiting: list[bytes] = []
    size = 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= _BLOCK_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
