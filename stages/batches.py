"""How much to compute at once: what is fastest on the device, and half of it where memory runs out."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from filelock import FileLock
from platformdirs import user_cache_path

Item = TypeVar("Item")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)

CACHE = user_cache_path("elisa-feature-store")
"""Where sizes are remembered: outside of any clone, since they belong to the machine."""
_GAIN = 0.97
"""A doubled batch has to need less than this share of the time an item, or it is memory spent on noise."""
_PATIENCE = 2
_CALLS = 3
_AT_LEAST_S = 0.4


@dataclass
class BatchSize:
    """A number of items computed together; it is halved, and stays so, when the GPU's memory runs out."""

    size: int

    def over(self, count: int, work: Callable[[slice], Result]) -> list[Result]:
        """``work`` on slices that cover ``count`` items in order.

        Raises:
            torch.OutOfMemoryError: there is no room for a single item.
        """
        done, results = 0, []
        while done < count:
            batch = slice(done, min(done + self.size, count))
            try:
                results.append(work(batch))
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size = max(1, min(self.size, batch.stop - batch.start) // 2)
                torch.cuda.empty_cache()
                _log.warning("GPU out of memory: going on with batches of %d", self.size)
                continue
            done = batch.stop
        return results


def groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items in turn, the last one perhaps shorter."""
    source = iter(items)
    while group := list(islice(source, size)):
        yield group


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The same items, each fetched while the one before it is at work."""
    source = iter(items)
    for item in source:
        for following in source:
            yield item
            item = following
        yield item


def suited(what: str, device: torch.device | str, step: Callable[[int], object], most: int) -> int:
    """How many items to compute together: measured the first time on this machine, and from then on remembered.

    The number of items decides the last bits of what is computed. So a machine measures once for all its processes, and what
    was chosen is kept in a file (:data:`CACHE`); remove it after a change of hardware that has kept its name.

    Args:
        what: the model and the kind of item; with the device's name and torch's version, the key in the file.
        step: computes that many items.
        most: the largest number to try.
    """
    device = torch.device(device)
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    key = f"{what}; {name}; torch {torch.__version__}"
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / "batch_sizes.lock"):
            file = CACHE / "batch_sizes.json"
            known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
            if key not in known:
                known[key] = fastest(step, most)
                new = file.with_suffix(".new")
                new.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
                new.replace(file)
            return known[key]
    except (OSError, json.JSONDecodeError) as error:
        _log.warning("cannot remember batch sizes in %s (%s): measuring %s for this run alone", CACHE, error, what)
        return fastest(step, most)


def fastest(step: Callable[[int], object], most: int) -> int:
    """The power of two up to ``most`` that takes the least time an item; doubling ends when it no longer helps.

    Two sizes are compared in turns: a machine that runs slower for a while does so for both.
    """
    step(1)  # what is compiled or allocated once is not counted
    best, size, worse = 1, 2, 0
    while size <= most and worse < _PATIENCE:
        try:
            before, now = _seconds(step, best, size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        if now / size < _GAIN * before / best:
            best, worse = size, 0
        else:
            worse += 1
        size *= 2
    return best


def _seconds(step: Callable[[int], object], *sizes: int) -> list[float]:
    """Of each size the shortest of some calls: at least three, and in all as many as take 0.4 s."""
    least, calls, begun = [float("inf")] * len(sizes), 0, time.perf_counter()
    while calls < _CALLS or time.perf_counter() - begun < _AT_LEAST_S:
        for number, size in enumerate(sizes):
            start = time.perf_counter()
            step(size)
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()
            least[number] = min(least[number], time.perf_counter() - start)
        calls += 1
    return least
