"""What a fork must not cut through: the store's one lock, which a fork waits for, and attributes that are worked out once.

A child gets a copy of every lock as it stands, but not the threads that would release it. So the store has one lock, held
for moments only, and never while a file is read or a table decoded. A fork takes it first: no child is born with it held,
or with half of a change that it guards.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ..internals import arrow_with_system_memory

T = TypeVar("T")

LOCK = threading.RLock()
"""Guards what threads share. No module is imported under it: one that registers hooks of its own would do so in mid-fork."""

if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)
    os.register_at_fork(after_in_child=arrow_with_system_memory)


class Lazy(Generic[T]):
    """A property that is worked out at its first use.

    Unlike ``functools.cached_property`` (before Python 3.12) it takes no lock, so threads do not wait for each other, and
    a child that was forked meanwhile does not wait for ever. Two threads may both work it out.
    """

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make
        self.__doc__ = make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        if instance is None:
            return self  # type: ignore[return-value]
        value = instance.__dict__[self._name] = self._make(instance)
        return value
