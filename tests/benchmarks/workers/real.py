"""Real processes that sleep where a model would compute: what the virtual clock is checked against."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.compute import compute_stages
from pipeline.dask.executor import DaskExecutor
from pipeline.executors import Executor, LocalExecutor
from pipeline.graph import EXTRACTED
from pipeline.params_file import load_settings
from tests.benchmarks import stand_ins

ROOT = Path(__file__).resolve().parents[3]


FOR_GOOD = contextlib.ExitStack()


def sleep_in_stages(shard: Mapping[str, float]) -> None:
    """From now on stages sleep in this process, for this many seconds per shard. Runs on Dask's workers, too.

    Torch is imported, as the pipeline asks it for the device: that belongs to loading models, of which there are none here.
    """
    import torch  # noqa: F401

    FOR_GOOD.enter_context(stand_ins.installed(work=lambda stage, image: time.sleep(shard[stage])))


def on_dask(params: Path, workers: int, shard: Mapping[str, float], threads: int) -> float:
    """Seconds of ``extract`` on this many workers of a LocalCluster, from the planning on."""
    from distributed import Client, LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=threads, host="127.0.0.1", dashboard_address="127.0.0.1:0"
    ) as cluster:
        with Client(cluster) as client:
            client.run(sleep_in_stages, dict(shard))
        settings = load_settings(params, [f"run.scheduler={cluster.scheduler_address}"])
        with contextlib.ExitStack() as stack:
            executor = DaskExecutor(settings, stack)
            list(executor.map(len, [""]))  # connected
            while executor._crew is not None and len(executor._crew.usable()) < workers:
                time.sleep(0.1)  # until all were asked what they are
            return _extract(params, executor)


def in_parts(params: Path, workers: int, shard: Mapping[str, float]) -> float:
    """Seconds of as many processes with ``--part``, from the planning of the first to the end of the last."""
    command = [sys.executable, "-m", "tests.benchmarks.workers.real", str(params)]
    texts = [f"{stage}={seconds}" for stage, seconds in shard.items()]
    children = [
        subprocess.Popen(
            [*command, f"{number}/{workers}", *texts], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            stderr=subprocess.DEVNULL,
        )
        for number in range(workers)
    ]  # fmt: skip
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    start = time.perf_counter()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "done\n", child.args
    seconds = time.perf_counter() - start
    for child in children:
        child.communicate()
    return seconds


def _extract(params: Path, executor: Executor, part: tuple[int, int] | None = None) -> float:
    settings = load_settings(params)
    start = time.perf_counter()
    compute_stages(settings, EXTRACTED, settings.splits, executor, part=part)
    return time.perf_counter() - start


def main() -> None:
    """One part: says when it is ready, begins when it is told, and says when it is done."""
    params, part, *shard = sys.argv[1:]
    number, count = map(int, part.split("/"))
    sleep_in_stages({stage: float(seconds) for stage, seconds in (text.split("=") for text in shard)})
    print("ready", flush=True)
    sys.stdin.readline()
    _extract(Path(params), LocalExecutor(), (number, count))
    print("done", flush=True)


if __name__ == "__main__":
    main()
