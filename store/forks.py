"""What a fork must not interrupt: the store's one lock, Arrow's work in memory, and attributes that are computed once.

A child gets a copy of every lock as it stands, but not the threads that would release it. So the store has one lock, held
for moments only, and never while a file is read or a table decoded. A fork acquires it first, so that no child starts with
the lock held, or with half of a change that it guards. Arrow's allocator has locks of its own; a fork waits for the threads
that may hold them (:func:`arrow_at_work`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from .internals import arrow_with_system_memory

T = TypeVar("T")

LOCK = threading.RLock()
"""Guards what threads share. No module is imported while it is held, because a module may register fork hooks when it is
imported, and a fork may be under way then."""

_changed = threading.Condition(LOCK)
_at_work: set[int] = set()
_forking = False


@contextmanager
def arrow_at_work() -> Iterator[None]:
    """Make forks in other threads wait while the block runs: for code that allocates with Arrow, and neither reads files nor waits.

    Arrow's C++ code allocates with mimalloc, also in a child. If a thread of the parent held one of mimalloc's locks at the
    fork, the child waits for it forever: this happened to one in ten children that were forked while the parent read its first
    tables.
    """
    own, entered = threading.get_ident(), False
    try:
        with LOCK:
            if own not in _at_work:
                while _forking:
                    _changed.wait()
                entered = True
                _at_work.add(own)
        yield
    finally:
        if entered:
            with LOCK:
                _at_work.discard(own)
                _changed.notify_all()


def _before() -> None:
    global _forking
    LOCK.acquire()
    _forking = True
    while _at_work - {threading.get_ident()}:
        _changed.wait()


def _after_in_parent() -> None:
    global _forking
    _forking = False
    _changed.notify_all()
    LOCK.release()


def _after_in_child() -> None:
    arrow_with_system_memory()
    _at_work.intersection_update({threading.get_ident()})
    _after_in_parent()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


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
