"""A file without a name, which this process and those started from it read as memory."""

from __future__ import annotations

import mmap
import os
from typing import Any

import pyarrow as pa

from ..internals import sendable
from .open_files import with_room


class SharedFile:
    """A file that only grows, at its end. It is gone with the last process that has it open.

    It is mapped as a whole, not a part at a time: a mapping holds a file descriptor, and there are many shards.
    """

    def __init__(self) -> None:
        self._descriptor = with_room(_nameless_file)
        self._regions: list[tuple[int, pa.Buffer]] = []

    def reserve(self, size: int) -> int:
        """Where ``size`` bytes may be written: the file is made longer by as much."""
        start = -(-os.fstat(self._descriptor).st_size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        os.ftruncate(self._descriptor, start + size)
        return start

    def write(self, data: pa.Buffer, start: int) -> None:
        """Write data where space was reserved for it."""
        written = 0
        while written < data.size:
            written += os.pwrite(self._descriptor, memoryview(data)[written:], start + written)

    def read(self, start: int, size: int) -> pa.Buffer:
        """The bytes that were written there, without a copy."""
        mapped = 0
        for first, region in self._regions:
            if first <= start and start + size <= first + region.size:
                return region.slice(start - first, size)
            mapped = first + -(-region.size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        rest = os.fstat(self._descriptor).st_size - mapped
        memory = with_room(lambda: mmap.mmap(self._descriptor, rest, prot=mmap.PROT_READ, offset=mapped))
        self._regions.append((mapped, pa.py_buffer(memory)))
        return self.read(start, size)

    def __getstate__(self) -> dict[str, Any]:
        return {"descriptor": sendable(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._descriptor, self._regions = state["descriptor"].detach(), []

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("elisa-store-tables")
    from tempfile import TemporaryFile

    with TemporaryFile() as file:
        return os.dup(file.fileno())
