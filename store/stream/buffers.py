"""Batch buffers that are used again: fresh memory for every batch would cost more time in page faults than reading it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..forks import LOCK
from ..internals import unheld

U8 = npt.NDArray[np.uint8]
Allocate = Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]]
"""Shape and dtype -> an array with anything in it, C-contiguous and writable."""


class BufferPool:
    """Hands out arrays in memory that no earlier array still uses.

    An array that is still held, or any view or tensor made of it, keeps its memory. Threads may share a pool. Only for
    memory that is read through the array: code that copies from a bare address later has to hold the array until then. So
    page-locked memory does not belong here (:mod:`store.torch`).

    Args:
        keep: how many buffers of a size are kept; more are made when all are held, and forgotten.
    """

    def __init__(self, keep: int = 16) -> None:
        self._keep = keep
        self._owners: dict[int, list[U8]] = {}

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array with anything in it, C-contiguous and writable."""
        kind = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        if size == 0:
            return np.empty(shape, kind)
        with LOCK:
            owners = self._owners.setdefault(size, [])
            owner = unheld(owners)
            if owner is None:
                owner = np.empty(size, np.uint8)
                if len(owners) < self._keep:
                    owners.append(owner)
            # Views share the memory's owner, not each other, so the owner's count of references tells of them all.
            return owner.view(kind).reshape(shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"keep": self._keep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        BufferPool.__init__(self, **state)
