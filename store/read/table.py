"""Decoded tables, shard by shard or by row group: a bounded number of bytes per process, and shards that all loader workers share.

Their values come straight from Arrow's buffers: numpy views and strings, without a Python object per number.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..forks import LOCK, arrow_at_work
from .shared_file import SharedFile

DEFAULT_BYTES = 1 << 30

Accessor = Callable[[int], Any]
_Span = Callable[[int, int], Any]


class Key(NamedTuple):
    """What was decoded: which shard of the column at a place, which fields (None: all), which row group (None: all)."""

    place: str
    shard: int
    fields: tuple[str, ...] | None
    group: int | None = None


class DecodedShard:
    """A decoded table, or a row group of it; its fields' accessors are made when they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._accessors: dict[str, Accessor] = {}

    def field(self, name: str) -> Accessor:
        """Row number -> value."""
        if name not in self._accessors:
            column = self.table.column(name)
            with arrow_at_work():
                whole = (
                    column.chunk(0)
                    if column.num_chunks == 1
                    else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
                )
                self._accessors[name] = accessor(whole)
        return self._accessors[name]


class TableCache:
    """Keeps what was decoded last, up to ``limit_bytes``. Threads may share a cache.

    What is :meth:`share`d lies in a file without a name: processes started from this one, by fork, spawn or forkserver,
    read the same memory, and nothing is left when they are killed.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.own_bytes = self.shared_bytes = 0
        self._own: OrderedDict[Key, DecodedShard] = OrderedDict()
        self._shared: dict[Key, DecodedShard] = {}
        self._decoding: dict[tuple[int, Key], _Decoding] = {}
        self._files: dict[int, SharedFile] = {}
        self._extents: dict[Key, tuple[int, int, int]] = {}
        self._given_up: set[tuple[str, tuple[str, ...] | None]] = set()

    @property
    def nbytes(self) -> int:
        """Bytes of decoded tables that this process sees, the shared ones among them."""
        return self.own_bytes + self.shared_bytes

    def fits(self, key: Key) -> bool:
        """Whether to decode whole shards of these fields: yes until such a shard had to make room for others; after that, only if
        this shard is at hand already."""
        if not self._given_up:
            return True
        with LOCK:
            return (key.place, key.fields) not in self._given_up or self._known(key) is not None

    def get(self, key: Key, decode: Callable[[], pa.Table]) -> DecodedShard:
        """The decoded shard; ``decode`` is called if it is not at hand.

        Threads decode different shards at once. When several ask for the same one, the first decodes and the others wait.
        """
        with LOCK:
            if (found := self._known(key)) is not None:
                return found
            place = (os.getpid(), key)  # a child does not wait for what a thread of its parent decodes
            other = self._decoding.get(place)
            if other is None:
                own = self._decoding[place] = _Decoding()
        if other is not None:
            other.done.wait()
            return other.shard or self.get(key, decode)
        try:
            shard = own.shard = DecodedShard(decode())
            with LOCK:
                self._own[key] = shard
                self.own_bytes += shard.table.nbytes
                while self.own_bytes > self.limit_bytes and len(self._own) > 1:
                    oldest, given_up = self._own.popitem(last=False)
                    self.own_bytes -= given_up.table.nbytes
                    self._given_up.add((oldest.place, oldest.fields))
            return shard
        finally:
            del self._decoding[place]
            own.done.set()

    def share(self, key: Key, decode: Callable[[], pa.Table]) -> bool:
        """Decode into shared memory; False when that would exceed the limit, then nothing is kept."""
        if key in self._extents:
            return True
        table = decode()
        with arrow_at_work():
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table.combine_chunks())
            data = sink.getvalue()
        with LOCK:
            if self.shared_bytes + data.size > self.limit_bytes:
                return False
            self.shared_bytes += data.size
            # Each process writes into a file of its own, or a child and its parent would write to one place.
            process = os.getpid()
            file = self._files.get(process) or self._files.setdefault(process, SharedFile())
            start = file.reserve(data.size)
        file.write(data, start)
        with LOCK:
            self._extents[key] = (process, start, data.size)
        return True

    def clear(self) -> None:
        """Forget everything. What somebody still holds stays alive until they let go of it."""
        with LOCK:
            self._own.clear()
            self._shared.clear()
            self._extents.clear()
            self._files.clear()
            self._given_up.clear()
            self.own_bytes = self.shared_bytes = 0

    def _known(self, key: Key) -> DecodedShard | None:
        if key in self._own:
            self._own.move_to_end(key)
            return self._own[key]
        if key in self._extents and key not in self._shared:
            process, start, size = self._extents[key]
            self._shared[key] = DecodedShard(pa.ipc.open_stream(self._files[process].read(start, size)).read_all())
        return self._shared.get(key)

    def __getstate__(self) -> dict[str, Any]:
        from multiprocessing import context  # slow to import, and only loaders with workers need it

        if context.get_spawning_popen() is None:  # it is pickled for a file, not for a worker that is being started
            return {"limit_bytes": self.limit_bytes}
        with LOCK:
            extents = dict(self._extents)
        shared = sum(size for _, _, size in extents.values())
        return {"limit_bytes": self.limit_bytes, "files": self._files, "extents": extents, "shared_bytes": shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        TableCache.__init__(self, state["limit_bytes"])
        self._files, self._extents = state.get("files", {}), state.get("extents", {})
        self.shared_bytes = state.get("shared_bytes", 0)


class _Decoding:
    """A shard that a thread is decoding; ``shard`` stays None if that fails."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.shard: DecodedShard | None = None


def accessor(values: pa.Array) -> Accessor:
    """A function from row number to value.

    list of numbers: read-only array [k]; list of fixed-size lists: array [k, size]; list of strings: list of str; list of
    lists: list of arrays; string: str or None; number: numpy scalar. Same values as ``to_pylist()``.
    """
    span = _span(values)
    return lambda row: span(row, row + 1)[0]


def _span(values: pa.Array) -> _Span:
    """A function from ``first, end`` to the values between them, as one array or list."""
    kind = values.type
    if pa.types.is_string(kind) and values.null_count == 0:
        return _strings(values)
    if pa.types.is_list(kind) and values.null_count == 0:
        offsets, inner = values.offsets.to_pylist(), _span(values.values)
        return lambda first, end: [inner(offsets[row], offsets[row + 1]) for row in range(first, end)]
    if pa.types.is_fixed_size_list(kind) and values.null_count == 0:
        size, flat = kind.list_size, _span(values.flatten())
        if isinstance(flat(0, 0), np.ndarray):
            return lambda first, end: flat(first * size, end * size).reshape(-1, size)
    elif pa.types.is_primitive(kind) and values.null_count == 0:
        numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=not pa.types.is_boolean(kind))
        return lambda first, end: numbers[first:end]
    return lambda first, end: values.slice(first, end - first).to_pylist()


def _strings(values: pa.Array) -> _Span:
    _, where, data = values.buffers()
    offsets: list[int] = (
        np.frombuffer(where, np.int32)[values.offset : values.offset + len(values) + 1].tolist() if len(values) else [0]
    )
    text = memoryview(data) if data is not None else memoryview(b"")
    return lambda first, end: [str(text[offsets[row] : offsets[row + 1]], "utf-8") for row in range(first, end)]
