"""Reads shards of an object store: all that a batch needs is requested at once, neighbours together, and kept in the cache.

What was asked for ahead is held for the thread that asked, until its batch is read (:func:`asked_ahead`). Everything is checked
where it is used (:mod:`store.read.array`, :mod:`store.format.tables`), wherever it came from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from ..errors import ChangedError, DamagedStoreError
from ..format.column import Commit
from ..format.layout import table_file
from ..format.shard import open_shard
from ..format.tables import checked
from ..storage.cache import Cache, cache_here
from ..storage.mounts import storage_of
from ..storage.protocol import Opened
from ..storage.remote import RemoteStorage
from ..storage.remote_opened import fill
from ..storage.requests import at_once, begun, turn

MOST = 8 << 20
"""Bytes of a request for neighbours: several large ones at once are faster than a very large one."""
GAP = 1 << 17
"""Neighbours up to this many bytes apart share a request: that many bytes arrive in the time that a further request takes."""
WHOLE = 4 << 20
"""A table of up to this many bytes is read by the request that opens it."""


class Far(Protocol):
    """What this module needs to know of a shard of an array."""

    path: Path
    commit: Commit
    cached: bool

    def extent(self, position: int) -> tuple[int, int]:
        """Where in the file an image begins and ends; the file is opened for that."""
        ...

    def request(self, start: int, end: int) -> memoryview:
        """These bytes of the file, in one request; fewer where it is another version now."""
        ...


class Piece(NamedTuple):
    """An image of a shard of an array."""

    shard: Far
    position: int

    def name(self) -> str:
        """Its name in the cache."""
        return Cache.name(self.shard.path, self.shard.commit.seal, str(self.position))


_held = threading.local()


@contextmanager
def asked_ahead(pieces: Callable[[], Iterable[Piece]]) -> Iterator[None]:
    """Request all bytes of these images when the block begins; reads of them in this thread and block then use these bytes.

    Threads take turns, in the order in which they come here, to determine their images and request them: the batch that comes
    first in a stream gets its bytes first.
    """
    with turn():
        wait = begin(list(dict.fromkeys(pieces())))
    _held.pieces = wait()
    try:
        yield
    finally:
        del _held.pieces


@contextmanager
def at_hand(piece: Piece) -> Iterator[memoryview]:
    """All chunks of an image with their checksums, held while the block runs; fewer where the file is another version now."""
    held = _held.__dict__.setdefault("pieces", {})
    if piece in held:
        yield held[piece]
        return
    held[piece] = begin([piece])()[piece]
    try:
        yield held[piece]
    finally:
        held.pop(piece, None)


def forget(piece: Piece) -> None:
    """Drop the held and cached bytes of an image, because they do not fit their checksum."""
    _held.__dict__.setdefault("pieces", {}).pop(piece, None)
    cache = _cache_of(piece.shard)
    if cache is not None:
        cache.wait()
        cache.remove(piece.name())


def begin(pieces: Sequence[Piece]) -> Callable[[], dict[Piece, memoryview]]:
    """Ask for the bytes of images, from the cache or by one request per neighbourhood; return a function that waits for them."""
    found = {}
    if any(_cache_of(piece.shard) for piece in pieces):
        cached = zip(pieces, at_once(_from_cache, pieces), strict=True)
        found = {piece: data for piece, data in cached if data is not None}
    answers = begun(_request, neighbours([piece for piece in pieces if piece not in found]))

    def wait() -> dict[Piece, memoryview]:
        for part in answers():
            found.update(part)
        return found

    return wait


def neighbours(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """The images in groups that one request reads each, in the order in which the first image of each group is wanted."""
    pieces = list(pieces)
    wanted = {piece: number for number, piece in enumerate(pieces)}
    ordered = sorted(pieces, key=lambda piece: (str(piece.shard.path), piece.position))
    runs = [[piece] for piece in ordered[:1]]
    for last, piece in pairwise(ordered):
        start, end = piece.shard.extent(piece.position)
        run, near = runs[-1], last.shard is piece.shard and start - last.shard.extent(last.position)[1] <= GAP
        if near and end - run[0].shard.extent(run[0].position)[0] <= MOST:
            run.append(piece)
        else:
            runs.append([piece])
    return sorted(runs, key=lambda run: min(wanted[piece] for piece in run))


def _from_cache(piece: Piece) -> memoryview | None:
    start, end = piece.shard.extent(piece.position)
    cache = _cache_of(piece.shard)
    return None if cache is None else cache.read(piece.name(), end - start)


def _request(run: list[Piece]) -> dict[Piece, memoryview]:
    shard, cache = run[0].shard, _cache_of(run[0].shard)
    extents = [shard.extent(piece.position) for piece in run]
    first = extents[0][0]
    data = shard.request(first, extents[-1][1])
    found = {piece: data[start - first : end - first] for piece, (start, end) in zip(run, extents, strict=True)}
    if cache is not None and len(data) == extents[-1][1] - first:
        for piece, part in found.items():
            cache.write_soon(piece.name(), part)
    return found


def _cache_of(shard: Far) -> Cache | None:
    return cache_here() if shard.cached else None


class HeldFile:
    """A file whose bytes are in memory."""

    def __init__(self, data: pa.Buffer, token: str) -> None:
        self.data, self.size, self.token = memoryview(data).cast("B"), data.size, token

    def readv(self, pieces: Sequence[memoryview], offset: int) -> int:
        """As :meth:`store.storage.protocol.Opened.readv`."""
        return fill(pieces, self.data[offset:])


def table_of(folder: Path, commit: Commit) -> pa.Buffer:
    """All bytes of a committed shard of a table, checked: from the cache, or from the store, and then kept in the cache.

    Raises:
        DamagedStoreError, ChangedError: as :func:`store.format.tables.read_table`.
    """
    path, cache, name = _table(folder, commit)
    cached = None if cache is None else cache.open(name)
    if cache is not None and cached is not None:
        try:
            return checked(cached, path, folder, commit)
        except (ChangedError, DamagedStoreError):
            cache.remove(name)
    return _read_and_keep(open_shard(path, commit, _open_whole), folder, commit)


def _open_whole(path: Path) -> Opened:
    storage = storage_of(path)
    assert isinstance(storage, RemoteStorage)
    return storage.open(path, WHOLE)


def open_table(folder: Path, commit: Commit, known: str | None) -> Opened:
    """The file of a committed shard of a table, to read parts of it: the copy in the cache, or all of it in memory.

    Args:
        known: the token of a version whose parts are known; if the object is still that version, it is not read as a whole.

    Raises:
        DamagedStoreError, ChangedError: as :func:`store.format.tables.read_table`.
    """
    path, cache, name = _table(folder, commit)
    cached = None if cache is None else cache.open(name)
    if cached is not None:
        return cached
    opened = open_shard(path, commit)
    return opened if opened.token == known else HeldFile(_read_and_keep(opened, folder, commit), opened.token)


def _read_and_keep(opened: Opened, folder: Path, commit: Commit) -> pa.Buffer:
    path, cache, name = _table(folder, commit)
    data = checked(opened, path, folder, commit)
    if cache is not None:
        cache.write(name, memoryview(data))
    return data


def forget_table(folder: Path, commit: Commit) -> bool:
    """Remove a table that is damaged in the cache; return whether it was there."""
    _, cache, name = _table(folder, commit)
    return cache is not None and cache.remove(name)


def _table(folder: Path, commit: Commit) -> tuple[Path, Cache | None, str]:
    path = folder / table_file(commit.shard)
    return path, cache_here(), Cache.name(path, commit.seal, "table")
