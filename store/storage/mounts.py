"""Which storage a path lies in: that of its address, else files, unless another one is mounted at one of its folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

from ..addresses import STORAGES, is_remote
from .local import LocalStorage
from .protocol import Storage

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
    return _of_scheme(scheme.rstrip(":"), bucket)


@cache
def _of_scheme(scheme: str, bucket: str) -> Storage:
    module, _, name = STORAGES[scheme].place.partition(":")
    made: Storage = getattr(import_module(f".{module}", __package__), name)(scheme, bucket)
    return made


@contextlib.contextmanager
def mounted(root: Path, storage: Storage) -> Iterator[None]:
    """Use a storage for all paths below ``root``, in this process and while the block runs."""
    _mounted[root] = storage
    try:
        yield
    finally:
        del _mounted[root]
