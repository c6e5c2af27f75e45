"""Progress on stderr: a bar on a terminal, else one line per minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

QUIET_SECONDS = 60.0
_Item = TypeVar("_Item")


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Give the function that is called with the number of finished units."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=title, unit=unit, file=sys.stderr) as bar:
            yield lambda count: (bar.update(count), None)[1]
        return
    done, began = 0, time.monotonic()
    last = began

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        now = time.monotonic()
        if now - last >= QUIET_SECONDS:
            last = now
            rate = done / (now - began)
            rest = f", {rate:.2f} {unit}s/s, {left((total - done) / rate)} left" if rate else ""
            print(f"{title}: {done} of {total} {unit}s{rest}", file=sys.stderr, flush=True)

    yield advance
    print(f"{title}: {done} of {total} {unit}s", file=sys.stderr, flush=True)


def tracked(items: Iterable[_Item], title: str, total: int, unit: str) -> Iterator[_Item]:
    """The items, with :func:`progress` counting those that are finished."""
    with progress(title, total, unit) as advance:
        for item in items:
            yield item
            advance(1)


def left(seconds: float) -> str:
    """A duration in its two largest units of hours, minutes and seconds."""
    hours, rest = divmod(round(max(seconds, 0.0)), 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
