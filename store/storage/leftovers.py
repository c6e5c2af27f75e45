"""What killed writers left: temporary files, and in an object store the small objects with which they tried something out."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from .files import TEMPORARY, is_being_written, may_be_starting, publish, remove_if_dead, temporary_file
from .listing import entries, is_there
from .mounts import storage_of
from .remote import RemoteStorage

_OURS = re.compile(rf"{re.escape(TEMPORARY)}(probe-)?[0-9a-f]{{32}}")
"""Whole names of temporary files. In a folder that is not the store's alone, other files may have names that begin like them."""


def is_left(path: Path) -> bool:
    """Whether the writer of a temporary file is dead; in an object store, whether it is a day old: nothing else tells there.

    Raises:
        OSError: it cannot be told, e.g. because this process has too many files open.
    """
    storage = storage_of(path)
    if isinstance(storage, RemoteStorage):
        return storage.is_abandoned(path)
    return not is_being_written(path)


def is_certainly_left(path: Path) -> bool:
    """Whether a file :func:`is_left`, is still there, and no writer is about to begin it. Raises as :func:`is_left`."""
    return is_left(path) and not may_be_starting(path) and is_there(path)


def remove_left(path: Path) -> bool:
    """Remove a temporary file that :func:`is_left`; return whether this call removed it."""
    storage = storage_of(path)
    if isinstance(storage, RemoteStorage):
        return storage.is_abandoned(path) and storage.delete(path)
    return is_there(path) and remove_if_dead(path)


def remove_left_in(folder: Path) -> None:
    """:func:`remove_left` of what is directly in a folder; :meth:`Storage.sweep` looks at all that is below one.

    Files of other programs may be in the folder, too: only names that :func:`temporary_file` gives are looked at.
    """
    for entry in entries(folder):
        if not entry.folder and _OURS.fullmatch(entry.name):
            remove_left(folder / entry.name)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file on this machine, in place of whatever was there, a link included. It appears whole or not at all.

    What killed writers left in its folder is removed. For the store's own objects there is
    :func:`store.storage.objects.replace_object`.
    """
    with contextlib.suppress(OSError):  # what cannot be removed keeps nobody from writing
        remove_left_in(path.parent)
    with temporary_file(path.parent, [data]) as (temporary, _, _):
        publish(temporary, path)
