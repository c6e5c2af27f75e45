"""Whole objects: read, replaced, and JSON objects that carry their own checksum."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import DamagedStoreError
from .files import canonical_json, digest, named
from .mounts import storage_of
from .protocol import FILE, Opened, RefusedError, Stat

_BLOCK = 1 << 23
"""Bytes of an object that are read at a time: one request, where it is in an object store."""
_TRIES = 8
"""How often to try. When two writers replace the same small object again and again, one gets through each time."""


def read_range(opened: Opened, offset: int, length: int, path: Path) -> bytes:
    """``length`` bytes of an open object from ``offset`` on; fewer where it ends before that."""
    data, done = bytearray(length), 0
    view = memoryview(data)
    with named(path):
        while done < length:
            got = opened.readv([view[done:]], offset + done)
            if not got:
                break
            done += got
    return bytes(data[:done])


def blocks_of(opened: Opened, path: Path) -> Iterator[bytes]:
    """The bytes of an open object, a few megabytes at a time; fewer where it ends early, or is another version now."""
    for offset in range(0, opened.size, _BLOCK):
        yield read_range(opened, offset, min(_BLOCK, opened.size - offset), path)


def read_object(path: Path, max_bytes: int | None = None) -> bytes:
    """All bytes of an object.

    Raises:
        FileNotFoundError: it is missing.
        DamagedStoreError: it is a link, or larger than ``max_bytes``.
    """
    try:
        opened = storage_of(path).open(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedStoreError(f"{path}: found a link, expected a file") from error
        raise
    if max_bytes is not None and opened.size > max_bytes:
        raise DamagedStoreError(f"{path}: found more than {max_bytes} bytes, expected a small file")
    return read_range(opened, 0, opened.size, path)


def object_sha256(path: Path) -> str:
    """sha256 (hex) of all bytes of an object. Raises FileNotFoundError; OSError when it is replaced meanwhile."""
    opened, state, done = storage_of(path).open(path), hashlib.sha256(), 0
    for block in blocks_of(opened, path):
        state.update(block)
        done += len(block)
    if done < opened.size:
        raise OSError(errno.ESTALE, "it was replaced while it was read", str(path))
    return state.hexdigest()


def replace_object(path: Path, data: bytes, durable: bool = True) -> None:
    """Put ``data`` under ``path``, in place of whatever was there.

    ``durable``: survive a power loss; else what was there before may come back.
    """
    storage = storage_of(path)
    now: Stat | None = None  # mostly there is nothing yet, and asking first would be a request for nothing
    with storage.stage(path, [data]) as staged:
        for attempt in range(_TRIES):
            try:
                storage.put(staged, path, None if now is None else now.token, durable)
                return
            except RefusedError:
                if attempt == _TRIES - 1 or (now is not None and now.kind != FILE):
                    raise OSError(errno.EBUSY, "another writer replaces it all the time", str(path)) from None
            now = storage.stat(path)


def sealed(value: dict[str, Any]) -> bytes:
    """The bytes of a JSON object in canonical form, with its own checksum in the field ``checksum``, and a newline."""
    return canonical_json({**value, "checksum": digest(value)}) + b"\n"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object in the form of :func:`sealed`, in place of whatever was there."""
    replace_object(path, sealed(value))


def read_json(path: Path, max_bytes: int = 1 << 28) -> dict[str, Any]:
    """Read a JSON object written by :func:`write_json`.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedStoreError: its bytes are not what was written.
    """
    text = read_object(path, max_bytes)
    try:
        value = json.loads(text)
        stated = value.pop("checksum")
        # Our files contain the canonical form, which is faster to check (a large split has thousands); others may not.
        written = hashlib.sha256(_without_checksum(text, stated)).hexdigest() == stated
        actual = stated if written else digest(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedStoreError(f"{path}: found something else than a JSON object with a checksum ({error})") from error
    if stated != actual:
        raise DamagedStoreError(f"{path}: found checksum {actual}, expected {stated}")
    return value  # type: ignore[no-any-return]


def _without_checksum(text: bytes, stated: object) -> bytes:
    """What :func:`write_json` wrote, without the field ``checksum`` and the newline."""
    field = f'"checksum":"{stated}"'.encode()
    text = text.rstrip(b"\n")
    return text.replace(field + b",", b"", 1) if field + b"," in text else text.replace(b"," + field, b"", 1)
