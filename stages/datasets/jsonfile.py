"""Reads annotation files in JSON: finds their encoding, and checks the types of values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.images import ImageFailure, inside, read_file
from stages.names import type_name

MAX_JSON_BYTES = 2**26
"""Largest size of a file that annotates one image."""
MAX_SET_BYTES = 2**33
"""Largest size of a file that annotates a whole data set: LVIS has 1.1 GB."""
_NEIGHBOURS = re.compile(rb"[\x80-\xff]{2}")
"""In Western text a letter beyond ASCII stands alone; in other encodings (GBK, Shift-JIS, cp1251, ...) most are adjacent."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def read_json(
    root: Path,
    relative: str,
    encoding: str | None = None,
    max_bytes: int = MAX_JSON_BYTES,
    each: Callable[[dict[str, Any]], Any] | None = None,
) -> tuple[Any, str]:
    """Parse a JSON file; return its value and the encoding it was read in.

    ``each`` is called with every object as soon as it is parsed, inner ones first, and its result replaces the object. So a
    large file takes no more memory than what is kept of it.

    It is read in UTF-8 (with a byte order mark or without), or else in ``encoding`` (the data set's ``encoding`` in the
    params), or else, if no two neighbouring bytes are beyond ASCII, in cp1252, like a part of the published ReasonSeg. cp1252
    has a character for nearly every byte, so without that condition it would accept other encodings.

    Raises:
        ImageFailure: there is no such file, it has another encoding, or it is not JSON.
    """
    text, found = _decode(read_file(inside(root, relative), max_bytes), encoding)
    try:
        return json.loads(text, object_hook=each), found
    except (ValueError, RecursionError) as error:
        raise ImageFailure(f"not JSON: {error}") from error


def _decode(data: bytes, encoding: str | None) -> tuple[str, str]:
    tried = ["UTF-8"]
    if b"\0" not in data:  # JSON has no zero bytes in UTF-8, but does in UTF-16 and UTF-32
        try:
            return data.decode("utf-8-sig"), "utf-8"
        except UnicodeDecodeError:
            pass
    if encoding is not None:
        try:
            return data.decode(encoding), encoding
        except UnicodeError:
            tried.append(encoding)
    elif b"\0" not in data and not _NEIGHBOURS.search(data):
        try:
            return data.decode("cp1252"), "cp1252"
        except UnicodeDecodeError:
            tried.append("cp1252")
    raise ImageFailure(
        f"text is not {' or '.join(tried)}; name its encoding, such as gbk, in encoding of the data set in the params"
    )


def field(record: Any, key: str, kind: type) -> Any:
    """Value of a key that must be there and of this type."""
    if not isinstance(record, dict):
        raise ImageFailure(f"found {type_name(record)}, expected an object with {key!r}")
    if key not in record:
        raise ImageFailure(f"key {key!r} is missing (found: {', '.join(map(repr, sorted(record))) or 'none'})")
    if not isinstance(record[key], kind):
        raise ImageFailure(f"{key!r} is {type_name(record[key])}, expected {kind.__name__}")
    return record[key]


def text(value: Any, what: str) -> str:
    """A string that can be written as UTF-8."""
    if not isinstance(value, str):
        raise ImageFailure(f"{what} is {type_name(value)}, expected str")
    if not value.isascii() and _SURROGATE.search(value):
        raise ImageFailure(f"{what} has half of a surrogate pair, which is no character")
    return value
