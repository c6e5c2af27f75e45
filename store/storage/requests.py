"""Many requests to an object store at once, in threads of this process: most of a request's time is waiting for its answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from ..addresses import is_far
from ..forks import LOCK

S = TypeVar("S")
T = TypeVar("T")

IN_FLIGHT = 64
"""How many requests a process may have in flight, not counting one in each thread that asks for something itself."""

_pools: dict[int, ThreadPoolExecutor] = {}
"""The threads that ask, by process: a forked process does not have its parent's."""
_turns: dict[int, threading.Lock] = {}
_of_pool = threading.local()


def at_once(ask: Callable[[S], T], things: Iterable[S]) -> list[T]:
    """Call ``ask`` with each thing, :data:`IN_FLIGHT` at once, begun in their order; return the answers in that order.

    Raises:
        What ``ask`` raised first, in that order, when all of them are done.
    """
    return begun(ask, things)()


def begun(ask: Callable[[S], T], things: Iterable[S]) -> Callable[[], list[T]]:
    """Begin :func:`at_once`; return a function that waits for the answers.

    When called from one of the request threads, it makes one request after the other: these threads must not wait for each other.
    """
    listed = list(things)
    if len(listed) < 2 or getattr(_of_pool, "inside", False):
        return lambda: [ask(thing) for thing in listed]
    try:
        waiting = [_pool().submit(ask, thing) for thing in listed]
    except RuntimeError:  # the interpreter is ending, and starts nothing any more
        return lambda: [ask(thing) for thing in listed]

    def answers() -> list[T]:
        errors = [each.exception() for each in waiting]
        for error in errors:
            if error is not None:
                raise error
        return [each.result() for each in waiting]

    return answers


def call_all(path: Path, calls: Sequence[Callable[[], T]]) -> list[T]:
    """The results of calls that do not depend on each other: made at once where ``path`` is far away, else in turn.

    Raises:
        As :func:`at_once` where they are made at once. In turn: what the first failing call raises; later calls are not made.
    """
    return at_once(lambda call: call(), calls) if is_far(path) else [call() for call in calls]


def turn() -> threading.Lock:
    """A lock for threads that begin many requests: the first to take it gets its answers first."""
    with LOCK:
        return _turns.setdefault(os.getpid(), threading.Lock())


def _pool() -> ThreadPoolExecutor:
    process = os.getpid()
    with LOCK:
        if process not in _pools:
            _pools[process] = ThreadPoolExecutor(IN_FLIGHT, "elisa-store-request", _mark)
        return _pools[process]


def _mark() -> None:
    _of_pool.inside = True
