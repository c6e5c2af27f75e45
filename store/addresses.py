"""Addresses of stores: ``s3://bucket/prefix``, which pathlib writes with one slash."""

from __future__ import annotations

import re
from pathlib import Path

SCHEMES = ("s3", "gs", "az")
"""Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage."""
_SHORTENED = re.compile(rf"(?<![\w/])({'|'.join(SCHEMES)}):/(?=[^/\s])")


def is_remote(path: Path | str) -> bool:
    """Whether a path is an address in an object store."""
    return Path(path).parts[:1] in {(f"{scheme}:",) for scheme in SCHEMES}


def as_address(text: str) -> str:
    """A text in which addresses have both their slashes again."""
    return _SHORTENED.sub(r"\1://", text)
