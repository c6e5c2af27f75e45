"""A progress bar on stderr where a person looks, one line a minute where none does."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_QUIET_SECONDS = 60.0


@contextmanager
def progress(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Give the function that is called with the number of finished units."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=title, unit=unit, file=sys.stderr) as bar:
            yield lambda count: (bar.update(count), None)[1]
        return
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last >= _QUIET_SECONDS:
            last = time.monotonic()
            print(f"{title}: {done} of {total} {unit}s", file=sys.stderr, flush=True)

    yield advance
    print(f"{title}: {done} of {total} {unit}s", file=sys.stderr, flush=True)
