"""What writers left that were killed: temporary files, and in an object store the small objects that try something out."""

from __future__ import annotations

from pathlib import Path

from .files import TEMPORARY, is_being_written, may_be_starting, remove_if_dead
from .listing import entries, is_there
from .mounts import storage_of
from .remote import RemoteStorage


def is_left(path: Path) -> bool:
    """Whether the writer of a temporary file is dead; in an object store, whether it is a day old, as nothing else tells there.

    Raises:
        OSError: it cannot be told, e.g. because this process has too many files open.
    """
    storage = storage_of(path)
    if isinstance(storage, RemoteStorage):
        return storage.is_abandoned(path)
    return not is_being_written(path)


def is_certainly_left(path: Path) -> bool:
    """:func:`is_left`, and it is still there, and no writer is about to begin it. Raises as that does."""
    return is_left(path) and not may_be_starting(path) and is_there(path)


def remove_left(path: Path) -> bool:
    """Remove a temporary file that :func:`is_left`; whether this did."""
    storage = storage_of(path)
    if isinstance(storage, RemoteStorage):
        return storage.is_abandoned(path) and storage.delete(path)
    return is_there(path) and remove_if_dead(path)


def remove_left_in(folder: Path) -> None:
    """:func:`remove_left` of what is directly in a folder; :meth:`Storage.sweep` looks at all that is below one."""
    for entry in entries(folder):
        if not entry.folder and entry.name.startswith(TEMPORARY):
            remove_left(folder / entry.name)
