"""Functions that run in a process of their own (:mod:`tests.benchmarks.processes`); each returns values that JSON can hold."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import data, faults, gate
from tests.benchmarks.entries import ENTRIES


def write(entry: str, folder: str, count: int, seed: int) -> dict[str, Any]:
    """Write the records as the entry wants them."""
    module, records = ENTRIES[entry].load(), data.Records(count, seed)
    start = time.perf_counter()
    module.write(Path(folder), records)
    return {"seconds": time.perf_counter() - start}


def let_through(entry: str, root: str, profiles: list[str], count: int, seed: int) -> dict[str, Any]:
    """Profile -> why it fails, or an empty text."""
    expected, found = gate.canonical(Path(root), data.Records(count, seed)), {}
    for profile in profiles:
        try:
            loader = ENTRIES[entry].loader(Path(root), profile)
            gate.check(loader, profile, expected)
            found[profile] = ""
        except Exception as error:  # noqa: BLE001 - a peer may raise anything, and the table says what
            found[profile] = f"{type(error).__name__}: {error}"[:300]
    return found


def timed(entry: str, root: str, profile: str, seconds: float, cold: bool) -> dict[str, Any]:
    """Records and bytes per second, times between batches, time to the first one, and memory that the loader takes.

    Warm: an epoch is read first (or half a second of it), then as many as fit into ``seconds``. Cold: one epoch at most, after its
    first batch. Every loader's time includes touching each page and the loop itself.
    """
    torch.set_num_threads(1)
    ENTRIES[entry].load()  # imports are not measured
    before = memory_bytes()
    start = time.perf_counter()
    loader = ENTRIES[entry].loader(Path(root), profile)
    batches = iter(loader) if cold else forever(loader)
    touch(next(batches))
    first = time.perf_counter() - start
    if not cold:
        warm_up(batches, int(Path(root).name), 0.5)
    taken, total, count, peak = [], 0, 0, memory_bytes()
    began = last = time.perf_counter()
    for number, batch in enumerate(batches, 1):
        count += len(batch["text"])
        total += touch(batch)
        now = time.perf_counter()
        taken.append(now - last)
        last = now
        if number % 64 == 0:
            peak = max(peak, memory_bytes())
        if last - began > seconds:
            break
    taken.sort()
    return {
        "records_s": count / (last - began),
        "bytes_s": total / (last - began),
        "p50_ms": 1e3 * taken[len(taken) // 2],
        "p99_ms": 1e3 * taken[min(len(taken) - 1, int(0.99 * len(taken)))],
        "batches": len(taken),
        "first_batch_ms": 1e3 * first,
        "memory_mb": max(0, max(peak, memory_bytes()) - before) / 1e6,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def forever(loader: Any) -> Iterator[Any]:
    """Epoch after epoch."""
    while True:
        yield from loader


def warm_up(batches: Iterator[Any], count: int, seconds: float) -> None:
    """Read this many records, or for so long."""
    until = time.perf_counter() + seconds
    while count > 0 and time.perf_counter() < until:
        count -= touch_count(next(batches))


def touch_count(batch: dict[str, Any]) -> int:
    """Records of a batch, touched."""
    touch(batch)
    return len(batch["text"])


def touch(batch: dict[str, Any]) -> int:
    """Read a number of every page, so that nothing is put off, and count the batch's bytes (without padding)."""
    for name in ("patches", "masks"):
        if name in batch:
            batch[name].reshape(-1)[::2048].view(dtype=batch[name].dtype).sum()
    rles = sum(sum(map(len, found)) for found in batch.get("rles", ()))
    count = len(batch["text"])
    return count * data.size_bytes(0, 0, "patches" in batch) + rles + sum(map(len, batch["text"]))


def memory_bytes() -> int:
    """Memory of this process and its children that is not a file's pages (those are the page cache)."""
    total = 0
    pids = [os.getpid()]
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            for task in Path(f"/proc/{pid}/task").iterdir():
                pids += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        total += 1024 * int(fields.get("RssAnon", "0 kB").split()[0])
        if pid == os.getpid():
            total += 1024 * int(fields.get("RssShmem", "0 kB").split()[0])
    return total


def flat(entry: str, root: str, profile: str, epochs: int) -> dict[str, Any]:
    """Memory in MB after each of some epochs."""
    loader, found = ENTRIES[entry].loader(Path(root), profile), []
    for _ in range(epochs):
        for batch in loader:
            touch(batch)
        del batch
        found.append(memory_bytes() / 1e6)
    return {"memory_mb": found}


def damaged(entry: str, fault: str, good: str, older: str, bad: str) -> dict[str, Any]:
    """Apply a fault to a copy of the entry's files and read them in order: the digests of the records, or the error."""
    found, folder = ENTRIES[entry], Path(bad) / ENTRIES[entry].data
    module = found.load()
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(Path(good) / found.data, folder)
    try:
        faults.damage(fault, folder, Path(older) / found.data, module.index_byte(folder))
    except ValueError as error:
        return {"not_done": str(error)}
    try:
        return {"digests": gate.digests(found.loader(Path(bad), "sequential"), "sequential")}
    except Exception as error:  # noqa: BLE001 - a peer may raise anything, and that is the answer
        return {"raised": f"{type(error).__name__}: {error}"[:300]}
