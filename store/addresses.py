"""Addresses of stores: ``s3://bucket/prefix``, ``https://host/prefix``, which pathlib writes with one slash.

Which storage an address belongs to is one line of :data:`STORAGES`. How to add one: docs/add_a_storage.md.
"""

from __future__ import annotations

import re
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple


class Scheme(NamedTuple):
    """One line of :data:`STORAGES`."""

    place: str
    """Module in store/storage and class: a :class:`store.storage.protocol.Storage`, constructed with the scheme and with what
    follows it in the address (a bucket or host)."""
    far: bool = False
    """Whether every call takes a network round trip. If so, readers request everything that a batch needs at once and keep it in
    the cache, and the class is a :class:`store.storage.remote.RemoteStorage`."""
    web: bool = False
    """Whether the storage can only be read, and cannot list what it holds."""


STORAGES: dict[str, Scheme] = {
    "s3": Scheme("remote:RemoteStorage", far=True),  # Amazon S3 and storages that speak its protocol
    "gs": Scheme("remote:RemoteStorage", far=True),  # Google Cloud Storage
    "az": Scheme("remote:RemoteStorage", far=True),  # Azure Blob Storage
    "https": Scheme("web:WebStorage", far=True, web=True),
    "http": Scheme("web:WebStorage", far=True, web=True),
}
"""The scheme of an address -> its storage. A path without a scheme is a local one."""
SCHEMES = tuple(scheme for scheme, line in STORAGES.items() if not line.web)
"""Schemes of storages in which a store can be written."""
WEB = tuple(scheme for scheme, line in STORAGES.items() if line.web)
"""Schemes of web servers, where a store can be read but not written."""
FAR = tuple(scheme for scheme, line in STORAGES.items() if line.far)
"""Schemes of storages in which every call takes a network round trip."""
_SHORTENED = re.compile(rf"(?<![\w/])({'|'.join(STORAGES)}):/(?=[^/\s])")


def is_remote(path: Path | str) -> bool:
    """Whether a path is an address, not a local path."""
    return _has_scheme(path, STORAGES)


def is_far(path: Path | str) -> bool:
    """Whether a path is an address where every call takes a round trip."""
    return _has_scheme(path, FAR)


def is_web(path: Path | str) -> bool:
    """Whether a path is an address at a web server."""
    return _has_scheme(path, WEB)


def _has_scheme(path: Path | str, schemes: Container[str]) -> bool:
    root = str(path).partition("/")[0]  # called for every path, and Path.parts takes ten times as long
    return root[-1:] == ":" and root[:-1] in schemes


def below(root: Path, name: str) -> Path:
    """The path of a folder that is named relative to ``root``, or by its address."""
    return Path(name) if is_remote(name) else root / name


def as_address(text: str) -> str:
    """A text, with both slashes restored in its addresses."""
    return _SHORTENED.sub(r"\1://", text)
