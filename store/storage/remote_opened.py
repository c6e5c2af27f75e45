"""An object of an object store that is open for reading, and the tokens that tell its versions from each other."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .protocol import RefusedError

Ask = Callable[[Path, Callable[[Any, Any, str], Any]], Any]

TAIL = 1 << 15
"""How many of its last bytes are asked for when an object is opened."""
_NO_ETAG = "modified "
"""Prefix of the token of an object without an ETag."""


class RemoteOpened:
    """An object that is open for reading, with its last bytes, which came with the same request: these are all of a small object,
    and contain the record of a shard. Each :meth:`readv` of earlier bytes is one request, for the version that was opened.

    Args:
        found: what the store said of the object: size, ETag, version.
        tail: its last bytes.
        ask: :meth:`store.storage.remote.RemoteStorage.ask`.
    """

    __slots__ = ("ask", "path", "size", "tail", "token")

    def __init__(self, path: Path, found: Any, tail: memoryview, ask: Ask) -> None:
        self.path, self.tail, self.ask = path, tail, ask
        self.size, self.token = found["size"], token_of(found)

    def readv(self, pieces: Sequence[memoryview], offset: int) -> int:
        """As :meth:`store.storage.protocol.Opened.readv`; 0 where the object is another version now, or gone."""
        end = min(self.size, offset + sum(map(len, pieces)))
        if end <= offset:
            return 0
        at = self.size - len(self.tail)
        if offset < at:
            parts = [self.get(offset, min(end, at))]
            if len(parts[0]) == at - offset:
                parts.append(self.tail[: end - at])
        else:
            parts = [self.tail[offset - at : end - at]]
        done = 0
        for part in parts:
            done += fill(pieces, part, done)
        return done

    def get(self, offset: int, end: int) -> memoryview:
        """The bytes from ``offset`` to ``end``, in one request; none where the object is another version now, or gone."""
        options: dict[str, Any] = {"range": (offset, end)}
        if not self.token.startswith(_NO_ETAG):
            options["if_match"] = condition_of(self.token)["e_tag"]
        try:
            data = self.ask(self.path, lambda obstore, client, key: obstore.get(client, key, options=options).bytes())
        except (FileNotFoundError, RefusedError):
            return memoryview(b"")
        if len(data) > end - offset:
            raise OSError(errno.EIO, f"found {len(data)} bytes, asked for {end - offset}", str(self.path))
        return memoryview(data)

    def drop_tail(self) -> None:
        """Forget the last bytes: many shards are open at a time, and theirs are seldom asked for twice."""
        self.tail = memoryview(b"")


def fill(pieces: Sequence[memoryview], data: memoryview, skip: int = 0) -> int:
    """Fill the pieces, after their first ``skip`` bytes, with as much of the data as there is; return how many bytes that was."""
    done = 0
    for piece in pieces:
        room = piece[skip:]
        skip = max(0, skip - len(piece))
        part = data[done : done + len(room)]
        room[: len(part)] = part
        done += len(part)
    return done


def token_of(found: Any) -> str:
    """What tells two versions of an object from each other: its ETag, and the version, which Google's conditions ask for."""
    if found["e_tag"] is None:  # at some web servers
        return f"{_NO_ETAG}{found['last_modified']} {found['size']}"
    return f"{found['e_tag']}\n{found['version'] or ''}"


def condition_of(token: str) -> dict[str, str]:
    """The condition that the object is still this version, as obstore takes it."""
    etag, _, version = token.partition("\n")
    return {"e_tag": etag, "version": version} if version else {"e_tag": etag}
