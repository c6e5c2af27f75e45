"""A small object that tells whether two processes see the same store, though they call it by the same path."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from store.addresses import is_remote
from store.storage.files import TEMPORARY
from store.storage.listing import is_there
from store.storage.mounts import storage_of
from store.storage.objects import read_object, replace_object


@contextlib.contextmanager
def probe_of(store: Path) -> Iterator[Path | None]:
    """A new object in the store, or next to where the store will be, while the block runs; None where it cannot be written.

    Its content is its own name, so that no other object is taken for it.
    """
    folder = store if is_remote(store) else next(path for path in (store, *store.parents) if is_there(path))
    path = folder / f"{TEMPORARY}probe-{uuid.uuid4().hex}"
    try:
        replace_object(path, path.name.encode(), durable=False)
    except OSError:  # whoever writes there next says why
        yield None
        return
    try:
        yield path
    finally:
        with contextlib.suppress(OSError):
            storage_of(path).delete(path)


def sees(path: Path) -> bool:
    """Whether this process sees the object."""
    try:
        return read_object(path, 1000) == path.name.encode()
    except OSError:
        return False
