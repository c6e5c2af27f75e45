"""What there is in a folder. Only "gone" means gone: whatever else keeps a folder from being listed is an error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from ..addresses import is_remote
from .mounts import storage_of
from .protocol import FILE, FOLDER, Entry, Stat
from .remote import RemoteStorage
from .requests import at_once


def state_of(path: Path) -> Stat | None:
    """What a file, folder or link itself is; None when it is not there.

    Raises:
        OSError: it cannot be told, e.g. permission denied, a stale handle or an input/output error.
    """
    return storage_of(path).stat(path)


def is_there(path: Path) -> bool:
    """Whether there is a file, a folder or a link. Raises as :func:`state_of`."""
    return state_of(path) is not None


def is_plain_file(path: Path) -> bool:
    """Whether it is a regular file, and no link to one. Raises as :func:`state_of`."""
    state = state_of(path)
    return state is not None and state.kind == FILE


def files_there(paths: Sequence[Path]) -> list[bool]:
    """Whether each path is a regular file, or a link to one; an object store is asked about all of them at once."""
    return at_once(_is_file, paths) if any(map(is_remote, paths)) else [path.is_file() for path in paths]


def _is_file(path: Path) -> bool:
    state = storage_of(path).stat(path, follow=True)
    return state is not None and state.kind == FILE


def is_folder(path: Path) -> bool:
    """Whether it is a folder, or a link to one. Raises as :func:`state_of`."""
    state = storage_of(path).stat(path, follow=True)
    return state is not None and state.kind == FOLDER


def entries(folder: Path) -> list[Entry]:
    """What a folder holds, sorted by name; nothing when it is gone.

    Raises:
        OSError: it cannot be listed; the error names it.
    """
    return storage_of(folder).list(folder)


def entries_of(folders: Sequence[Path]) -> list[list[Entry]]:
    """:func:`entries` of several folders; an object store is asked about all of them at once."""
    return at_once(entries, folders) if any(map(is_remote, folders)) else [entries(folder) for folder in folders]


def folders(folder: Path) -> list[Path]:
    """The folders (or links to folders) in a folder, sorted. Raises as :func:`entries`."""
    return [folder / entry.name for entry in entries(folder) if entry.folder or is_folder(folder / entry.name)]


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Every folder from ``folder`` down with the names of its folders and of everything else, sorted.

    Links are not folders, and are not followed. The caller may take names out of the folders, as with :func:`os.walk`.
    Raises as :func:`entries`.
    """
    storage = storage_of(folder)
    yield from _walk(folder, _listed(storage.files_below(folder)) if isinstance(storage, RemoteStorage) else entries)


def _walk(folder: Path, look: Callable[[Path], list[Entry]]) -> Iterator[tuple[Path, list[str], list[str]]]:
    below: list[str] = []
    others: list[str] = []
    for entry in look(folder):
        (below if entry.folder else others).append(entry.name)
    yield folder, below, others
    for name in below:
        yield from _walk(folder / name, look)


def _listed(files: Iterable[Path]) -> Callable[[Path], list[Entry]]:
    """:func:`entries` of each folder above these files, without a request per folder."""
    found: defaultdict[Path, set[Entry]] = defaultdict(set)
    for path in files:
        entry = Entry(path.name, False)
        for folder in path.parents:
            if entry in found[folder]:
                break
            found[folder].add(entry)
            entry = Entry(folder.name, True)
    return lambda folder: sorted(found[folder])


def files_below(folder: Path) -> list[Path]:
    """All files and links below a folder, sorted. Raises as :func:`entries`."""
    storage = storage_of(folder)
    if isinstance(storage, RemoteStorage):
        return sorted(storage.files_below(folder))
    return sorted(path / name for path, _, others in walk(folder) for name in others)
