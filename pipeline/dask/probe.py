"""A small file that tells whether two processes see the same store, which the same path alone does not prove.

In a folder it is a temporary file like any other, locked while its process lives: a file that a kill left is recognised, and
removed by the next process. In an object store, which has no locks, it is left for a day.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from store.addresses import is_remote
from store.storage.files import TEMPORARY, temporary_file
from store.storage.leftovers import remove_left_in
from store.storage.listing import is_there
from store.storage.mounts import storage_of
from store.storage.objects import read_object, replace_object

_CONTENT = b"Whoever reads this under this name sees the same store.\n"


@contextlib.contextmanager
def probe_of(store: Path) -> Iterator[Path | None]:
    """A new file in the store, or in the folder where the store will be, while the block runs; None where none can be written.

    Probes that killed processes left are removed.
    """
    folder = store if is_remote(store) else next(path for path in (store, *store.parents) if is_there(path))
    with contextlib.ExitStack() as stack:
        path = None
        with contextlib.suppress(OSError):  # whoever writes there next says why
            remove_left_in(folder)
            path = stack.enter_context(_object_in(folder) if is_remote(folder) else _file_in(folder))
        yield path


@contextlib.contextmanager
def _file_in(folder: Path) -> Iterator[Path]:
    with temporary_file(folder, [_CONTENT]) as (path, _, _):
        yield path


@contextlib.contextmanager
def _object_in(folder: Path) -> Iterator[Path]:
    path = folder / f"{TEMPORARY}probe-{uuid.uuid4().hex}"
    replace_object(path, _CONTENT, durable=False)
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            storage_of(path).delete(path)


def renew(path: Path) -> None:
    """Write the probe again if it is gone: in an object store, another process removes it as a leftover after a day."""
    if is_remote(path) and not sees(path):
        with contextlib.suppress(OSError):
            replace_object(path, _CONTENT, durable=False)


def sees(path: Path) -> bool:
    """Whether this process sees the file."""
    try:
        return read_object(path, 1000) == _CONTENT
    except OSError:
        return False
