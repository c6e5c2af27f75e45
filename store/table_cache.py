"""Decoded shards of tables: a bounded number of bytes a process, and shards that all loader workers share."""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from .fields import Accessor, accessor

DEFAULT_BYTES = 1 << 30

Key = tuple[str, int, tuple[str, ...] | None]
"""Place of the column, shard, fields (None: all)."""


class DecodedShard:
    """A decoded table; its fields' accessors are made when they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self._accessors: dict[str, Accessor] = {}

    def field(self, name: str) -> Accessor:
        """Row number -> value."""
        if name not in self._accessors:
            column = self.table.column(name)
            whole = (
                column.chunk(0)
                if column.num_chunks == 1
                else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
            )
            self._accessors[name] = accessor(whole)
        return self._accessors[name]


class TableCache:
    """Keeps what was decoded last, up to ``limit_bytes``.

    What is :meth:`share`d lies in a file without a name: processes started from this one, by fork, spawn or forkserver,
    read the same memory, and nothing is left when they are killed.
    """

    def __init__(self, limit_bytes: int = DEFAULT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.own_bytes = self.shared_bytes = 0
        self._own: OrderedDict[Key, DecodedShard] = OrderedDict()
        self._shared: dict[Key, DecodedShard] = {}
        self._extents: dict[Key, tuple[int, int]] = {}
        self._file = -1
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of decoded tables that this process sees, the shared ones among them."""
        return self.own_bytes + self.shared_bytes

    def get(self, key: Key, decode: Callable[[], pa.Table]) -> DecodedShard:
        """The decoded shard; ``decode`` is called if it is not at hand."""
        with self._lock:
            if (found := self._known(key)) is not None:
                return found
            shard = DecodedShard(decode())
            self._own[key] = shard
            self.own_bytes += shard.table.nbytes
            while self.own_bytes > self.limit_bytes and len(self._own) > 1:
                self.own_bytes -= self._own.popitem(last=False)[1].table.nbytes
            return shard

    def share(self, key: Key, decode: Callable[[], pa.Table]) -> bool:
        """Decode into shared memory; False when that would exceed the limit, then nothing is kept."""
        with self._lock:
            if key in self._extents:
                return True
            sink = pa.BufferOutputStream()
            table = decode()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table.combine_chunks())
            data = sink.getvalue()
            if self.shared_bytes + data.size > self.limit_bytes:
                return False
            if self._file < 0:
                self._file = _nameless_file()
            start = -(-os.fstat(self._file).st_size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
            written = 0
            while written < data.size:
                written += os.pwrite(self._file, memoryview(data)[written:], start + written)
            self._extents[key] = (start, data.size)
            self.shared_bytes += data.size
            return True

    def _known(self, key: Key) -> DecodedShard | None:
        if key in self._own:
            self._own.move_to_end(key)
            return self._own[key]
        if key in self._extents and key not in self._shared:
            start, size = self._extents[key]
            memory = mmap.mmap(self._file, size, prot=mmap.PROT_READ, offset=start)
            self._shared[key] = DecodedShard(pa.ipc.open_stream(pa.py_buffer(memory)).read_all())
        return self._shared.get(key)

    def __getstate__(self) -> dict[str, Any]:
        from multiprocessing import context, reduction  # slow to import, and only loaders with workers need it

        state: dict[str, Any] = {"limit_bytes": self.limit_bytes}
        if (
            self._file >= 0 and context.get_spawning_popen() is not None
        ):  # a worker is being started, not a file written
            state |= {"file": reduction.DupFd(self._file), "extents": self._extents, "shared_bytes": self.shared_bytes}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        TableCache.__init__(self, state["limit_bytes"])
        if "file" in state:
            self._file, self._extents = state["file"].detach(), state["extents"]
            self.shared_bytes = state["shared_bytes"]

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            os.close(self._file)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("elisa-store-tables")
    from tempfile import TemporaryFile

    with TemporaryFile() as file:
        return os.dup(file.fileno())
