"""Measures where the time of unmodified code goes: functions are wrapped where they are defined, and not changed inside."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Place = tuple[Any, str, str]
"""Object, name of the attribute, stage."""
HOST = "host"


@contextmanager
def stopwatch(places: Sequence[Place]) -> Iterator[dict[str, float]]:
    """Seconds per stage; calls within a stage count for it, and the remaining time is ``host``, added at the end."""
    spent: dict[str, float] = defaultdict(float)
    inside = False
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in places]

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return function(*args, **kwargs)
            inside = True
            wait()
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                wait()
                spent[stage] += time.perf_counter() - start
                inside = False

        return call

    for owner, name, stage in places:
        setattr(owner, name, timed(getattr(owner, name), stage))
    start = time.perf_counter()
    try:
        yield spent
    finally:
        wait()
        spent[HOST] = time.perf_counter() - start - sum(spent.values())
        for owner, name, function in kept:
            setattr(owner, name, function)


def wait() -> None:
    """Wait until the GPU has finished its work."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
