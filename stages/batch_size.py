"""How many items to compute at once: a fixed number, and half of it if the GPU's memory runs out.

The number of items in a batch decides the last bits of what is computed. So the number depends only on the kind of device and
the parameters: nothing is measured, and nothing is remembered between calls.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


def over(count: int, size: int, work: Callable[[slice], Result]) -> list[Result]:
    """Results of ``work`` on slices of ``size`` that cover ``count`` items in order; of half the size if memory runs out.

    The remaining items continue with the smaller size. The next call starts with ``size`` again, so that running out of memory
    while one column is computed does not decide the batches of another.

    Raises:
        torch.OutOfMemoryError: the memory does not suffice for a single item.
    """
    done, results = 0, []
    while done < count:
        batch = slice(done, min(done + size, count))
        try:
            results.append(work(batch))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = max(1, min(size, batch.stop - batch.start) // 2)
            torch.cuda.empty_cache()
            _say_halved(size)
            continue
        done = batch.stop
    return results


@cache
def _say_halved(size: int) -> None:
    """Say it once per process and size, for however many images it happens."""
    _log.warning("GPU out of memory: going on with batches of %d where larger ones do not fit", size)


def groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items in turn, the last one perhaps shorter."""
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, each fetched while the one before it is processed."""
    source = iter(items)
    for item in source:
        for following in source:
            yield item
            item = following
        yield item
