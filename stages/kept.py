"""What commands keep in the cache folder for later ones: each a JSON object in its own file, with the key it is valid for.

A file is written whole and begins with the digest of its content, so that an incomplete or foreign file is not read. The cache
is no part of a store, and may be removed at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any


def kept(path: Path, key: Any) -> dict[str, Any] | None:
    """What :func:`keep` wrote for this key; None if there is no such file, it is incomplete, or it was kept for another key."""
    try:
        check, _, data = path.read_bytes().partition(b"\n")
        if check.decode("ascii", "replace") != hashlib.sha256(data).hexdigest():
            return None
        found = json.loads(data)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("key") == key else None


def keep(path: Path, key: Any, values: dict[str, Any]) -> None:
    """Write values as JSON. If the cache cannot be written, nothing is kept."""
    data = json.dumps({"key": key, **values}).encode()
    temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
        temporary.replace(path)
