"""Addresses of stores: ``s3://bucket/prefix``, ``https://host/prefix``, which pathlib writes with one slash."""

from __future__ import annotations

import re
from pathlib import Path

SCHEMES = ("s3", "gs", "az")
"""Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage."""
WEB = ("https", "http")
"""Web servers: a store there can be read, and not be written."""
_SHORTENED = re.compile(rf"(?<![\w/])({'|'.join((*SCHEMES, *WEB))}):/(?=[^/\s])")


def is_remote(path: Path | str) -> bool:
    """Whether a path is an address in an object store or at a web server."""
    return _has_scheme(path, (*SCHEMES, *WEB))


def is_web(path: Path | str) -> bool:
    """Whether a path is an address at a web server."""
    return _has_scheme(path, WEB)


def _has_scheme(path: Path | str, schemes: tuple[str, ...]) -> bool:
    root = str(path).partition("/")[0]  # asked for every path there is, and Path.parts takes ten times as long
    return root[-1:] == ":" and root[:-1] in schemes


def below(root: Path, name: str) -> Path:
    """The path of a folder that is named relative to ``root``, or by its address."""
    return Path(name) if is_remote(name) else root / name


def as_address(text: str) -> str:
    """A text in which addresses have both their slashes again."""
    return _SHORTENED.sub(r"\1://", text)
