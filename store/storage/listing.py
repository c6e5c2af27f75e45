"""What there is in a folder. Only "gone" means gone: whatever else keeps a folder from being listed is an error."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Let an OSError say which file it is about: of a write, an fsync or a read that fails the system names none."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def state_of(path: Path) -> os.stat_result | None:
    """The state of a file, folder or link itself; None when it is not there.

    Raises:
        OSError: it cannot be told, e.g. permission denied, a stale handle or an input/output error.
    """
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_there(path: Path) -> bool:
    """Whether there is a file, a folder or a link. Raises as :func:`state_of`."""
    return state_of(path) is not None


def is_plain_file(path: Path) -> bool:
    """Whether it is a regular file, and no link to one. Raises as :func:`state_of`."""
    state = state_of(path)
    return state is not None and stat.S_ISREG(state.st_mode)


def is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one. Raises as :func:`state_of`."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link that leads to itself
            return False
        raise


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, sorted by name; nothing when it is gone.

    Raises:
        OSError: it cannot be listed; the error names it.
    """
    try:
        with named(folder), os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def folders(folder: Path) -> list[Path]:
    """The folders (or links to folders) in a folder, sorted. Raises as :func:`entries`."""
    return [folder / entry.name for entry in entries(folder) if is_folder(folder / entry.name)]


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder from ``folder`` down with the names of its folders and of everything else, sorted.

    Links are no folders, and are not followed. The caller may take names out of the folders, as with :func:`os.walk`.
    Raises as :func:`entries`.
    """
    below: list[str] = []
    others: list[str] = []
    for entry in entries(folder):
        (below if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
    yield folder, below, others
    for name in below:
        yield from walk(folder / name)


def files_below(folder: Path) -> list[Path]:
    """Everything below a folder that is no folder, sorted: files and links. Raises as :func:`entries`."""
    return sorted(path / name for path, _, others in walk(folder) for name in others)
