"""Which storage a path lies in: an object store by its address, else files, unless another one is mounted at one of its folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..addresses import is_remote, is_web
from .local import LocalStorage
from .protocol import Storage
from .remote import RemoteStorage
from .web import WebStorage

_local = LocalStorage()
_mounted: dict[Path, Storage] = {}


def storage_of(path: Path) -> Storage:
    """The storage that a path lies in."""
    for root, storage in _mounted.items():
        if path == root or root in path.parents:
            return storage
    if not is_remote(path):
        return _local
    scheme, bucket = (*path.parts, "")[:2]
    return (_server if is_web(path) else _bucket)(scheme.rstrip(":"), bucket)


_bucket = lru_cache(maxsize=None)(RemoteStorage)
_server = lru_cache(maxsize=None)(WebStorage)


@contextlib.contextmanager
def mounted(root: Path, storage: Storage) -> Iterator[None]:
    """Let a storage be what there is below ``root``, in this process and while the block runs."""
    _mounted[root] = storage
    try:
        yield
    finally:
        del _mounted[root]
