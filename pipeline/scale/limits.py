"""What breaks first: what an extraction needs, compared with what is acceptable."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.config import Settings
from pipeline.graph import EXTRACTED
from pipeline.scale.predict import Prediction
from pipeline.scale.profiles import Profiles
from store.addresses import is_remote

MEMORY_GB, DISK_TB, CORES, FILE_GB = 8.0, 2.0, 8.0, 2.0
"""Memory that a command may take, size of a disk, cores of a machine per card, and size of a shard, which is in memory while it is
made."""
LOOKING, LOOKING_S, INDEX_H, DVC_H = 0.05, 600.0, 12.0, 1.0
"""The share of the time for looking at the store, from this many seconds on; hours of ``index`` on one core; hours in which DVC
digests the columns."""
WAITING = 0.1
"""The part of the time in which a worker waits until its shards are published."""
ROUNDS = 8
"""Fewer shards per worker than this leave workers idle at the end of each stage."""


@dataclass(frozen=True)
class Limit:
    """A limit that is exceeded: ``times`` the limit, what it is in words, and what to do."""

    times: float
    what: str
    advice: str


def limits(settings: Settings, profiles: Profiles, found: Prediction) -> list[Limit]:
    """The limits that are exceeded, the worst first."""
    host, size = profiles.host, settings.shard_images
    shards = sum(column.shards for column in found.columns if column.stage in EXTRACTED)
    memory = found.images * host.memory_kb.value / 1e6
    index = sum(each.images * each.megapixels for each in found.work) * host.index_ms.value / 3.6e6
    largest = max(found.columns, key=lambda column: column.bytes / column.images)
    file = largest.bytes / largest.images * size / 1e9
    digested = found.bytes / 1e9 / host.md5_gb_per_s.value / 3600
    handing = sum(each.shards for each in found.work) * len(EXTRACTED) * host.task_ms.value / 1000
    on_disk = not is_remote(settings.store_path)
    slow = found.looking / found.seconds / LOOKING
    waiting = sum(part.seconds for part in found.parts if part.name.startswith("waiting until")) / (found.busy or 1.0)
    every = [
        Limit(
            memory / MEMORY_GB,
            f"a command needs {memory:.0f} GB of memory",
            "cut the images into several stores, each with its own params file",
        ),
        Limit(
            min(slow, found.looking / LOOKING_S),
            f"looking at {shards} shards of columns takes {_time(found.looking)}",
            f"take larger shards: shard_images {_power_of_two(size * slow)}",
        ),
        Limit(
            index / INDEX_H,
            f"index takes {index:.0f} h on one core",
            "run index --part I/N in as many processes as there are cores",
        ),
        Limit(
            on_disk * found.bytes / 1e12 / DISK_TB,
            f"the columns take {found.bytes / 1e12:.1f} TB, {largest.name} alone {largest.bytes / 1e12:.1f}",
            "store to a bucket or a shared file system, or leave out columns that no system reads",
        ),
        Limit(
            file / FILE_GB,
            f"a shard of {largest.name} has {file:.1f} GB, which a worker holds in memory",
            f"take smaller shards: shard_images {max(1, int(size * FILE_GB / file)) if file else size}",
        ),
        Limit(
            found.cores / CORES,
            f"a worker needs {found.cores:.0f} cores to decode images",
            "give each worker more cores, or store smaller images",
        ),
        Limit(
            waiting / WAITING,
            f"workers wait {100 * waiting:.0f} % of their time until shards are published",
            f"take larger shards, which need no more requests each: shard_images {_power_of_two(size / (1 - waiting))}",
        ),
        Limit(
            found.workers * ROUNDS / max(found.shards, 1),
            f"{found.workers} workers share {found.shards} shards",
            "take fewer workers, or smaller shards from the beginning",
        ),
        Limit(
            handing / found.seconds,
            f"handing out tasks on Dask takes {_time(handing)} of one process",
            "use --part I/N, which needs no Dask",
        ),
        Limit(
            on_disk * digested / DVC_H,
            f"DVC digests {digested:.1f} h when it keeps the columns, and its cache takes as much disk again",
            "let DVC track the receipts alone (docs/running.md, section DVC)",
        ),
    ]
    return sorted((one for one in every if one.times >= 1), key=lambda one: -one.times)


def _time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.0f} min"


def _power_of_two(value: float) -> int:
    """The next power of two."""
    return 1 << math.ceil(math.log2(max(value, 1.0)))
