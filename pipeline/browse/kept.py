"""What is kept in memory between two requests, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """Values by key, as many as fit into ``limit_bytes``; those that were used longest ago go first. Threads may share it."""

    def __init__(self, limit_bytes: int, size_of: Callable[[T], int]) -> None:
        self.limit_bytes, self.nbytes = limit_bytes, 0
        self._size_of = size_of
        self._values: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of a key, made if it is not at hand. One that is larger than the limit is made each time."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = make()
        size = self._size_of(value)
        with self._lock:
            if size <= self.limit_bytes and key not in self._values:
                self._values[key] = value
                self.nbytes += size
            while self.nbytes > self.limit_bytes:
                _, old = self._values.popitem(last=False)
                self.nbytes -= self._size_of(old)
        return value
