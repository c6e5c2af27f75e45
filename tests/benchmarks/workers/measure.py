"""What planning, publishing and messages take on this machine, in the units of ``pipeline/scale/profiles.yaml``."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.compute import compute_stages
from pipeline.dask.executor import DaskExecutor
from pipeline.executors import LocalExecutor
from pipeline.graph import EXTRACTED
from pipeline.params_file import load_settings
from stages.match import against_instances
from store import rle
from store.format.column import ArrayLayout, ColumnMeta, fingerprint
from store.format.schema import OK
from store.format.shard import read_commit
from store.write.writer import ShardData, begin_column, write_shard
from tests.benchmarks import stand_ins
from tests.benchmarks.workers.setting import make_store

IMAGES = 32


def measure(folder: Path, shards: int = 200) -> dict[str, float]:
    """Figures by their names in the profiles: medians where something is done several times."""
    params = make_store(folder, shards)
    publish, per_gb, check = _publishing(folder / "columns")
    settings = load_settings(params)
    with stand_ins.installed():
        compute_stages(settings, EXTRACTED, settings.splits, LocalExecutor())
        start = time.perf_counter()
        compute_stages(settings, EXTRACTED, settings.splits, LocalExecutor())
        looking = (time.perf_counter() - start) / (2 * shards)  # of two columns
    return {
        "match_us": _matching() * 1e6,
        "plan_ms": looking * 1e3,
        "publish_ms": publish * 1e3,
        "publish_s_per_gb": per_gb,
        "task_ms": _handing(params, shards) * 1e3 + check * 1e3,
    }


def _publishing(folder: Path) -> tuple[float, float, float]:
    """Seconds to publish a shard without its bytes, a gigabyte of it, and to look for its commit."""
    small, large = _writer(folder / "small", (16, 64)), _writer(folder / "large", (256, 64, 64))
    alone, whole = _median(small, 15), _median(large, 5)
    bytes_ = IMAGES * 256 * 64 * 64 * 2
    return alone, (whole - alone) / (bytes_ / 1e9), _median(lambda: read_commit(folder / "small", 0), 50)


def _writer(folder: Path, shape: tuple[int, ...]) -> Callable[[], object]:
    """A function that writes the next shard of ``IMAGES`` images."""
    meta = ColumnMeta("x", {}, fingerprint({}), IMAGES * 100, IMAGES, ArrayLayout(shape, shape[0], "float16"))
    folder.mkdir(parents=True)
    meta = begin_column(folder, meta)
    rows = list(np.random.default_rng(0).normal(size=(IMAGES, *shape)).astype(np.float16))
    counts = [shape[0]] * IMAGES
    numbers = iter(range(100))
    return lambda: write_shard(
        folder, meta, "d/x/s", next(numbers), ShardData(rows, counts, [OK] * IMAGES), {}, None, {"seconds": 1.0}
    )


def _matching() -> float:
    """Seconds to compare a mask with a region, of 640 x 480 px."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:480, :640]
    blobs = [
        ((y - draw.integers(480)) ** 2 + (x - draw.integers(640)) ** 2 < draw.integers(20, 150) ** 2) for _ in range(80)
    ]
    masks, regions = [rle.encode(each) for each in blobs[:72]], [rle.encode(each) for each in blobs[72:]]
    return _median(lambda: against_instances(masks, regions), 5) / len(masks) / len(regions)


def _handing(params: Path, tasks: int) -> float:
    """Seconds of a task on Dask that has nothing to do, while two workers wait for more."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        settings = load_settings(params, [f"run.scheduler={cluster.scheduler_address}"])
        with contextlib.ExitStack() as stack:
            executor = DaskExecutor(settings, stack)
            texts = [settings.model_dump_json() * 2] * tasks
            list(executor.map(len, texts[:20]))
            start = time.perf_counter()
            list(executor.map(len, texts))
            return (time.perf_counter() - start) / tasks


def _median(function: Callable[[], object], times: int) -> float:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return float(np.median(found))
