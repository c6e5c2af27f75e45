"""``make bench-bucket``: reading a store in a bucket through a slow, narrow link (:mod:`tests.benchmarks.link`).

The records are those of ``make bench-read``, in shards of 32 as extraction makes them. Every cell is a process of its own.
docs/results.md has the results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import data, machine
from tests.benchmarks.link import BUCKET, linked
from tests.benchmarks.peers import ours
from tests.benchmarks.processes import cell
from tests.benchmarks.report import table

STORE = f"s3://{BUCKET}"
STEP = 6
"""Records of a step of LISA's size: 7.7 MB; two images with SAM's features (2.1 MB) and CLIP's tokens (1.2 MB) have 6.6 MB."""
STEP_S = 0.3
"""Seconds that a step of 2 images computes; with 7 billion weights on one RTX 3090 it takes longer."""


class InShards(data.Records):
    """The records in shards of 32 images."""

    @property
    def in_a_file(self) -> int:
        """How many go into a shard."""
        return 32


def main() -> None:
    """Write the records, then read them through the link."""
    options = parse()
    folder = options.folder / str(options.count)
    if not folder.exists():
        aside = folder.with_suffix(".part")
        shutil.rmtree(aside, ignore_errors=True)
        ours.write(aside, InShards(options.count))
        aside.rename(folder)
    machine.warm(folder)
    cores, cache = sorted(os.sched_getaffinity(0))[:2], options.folder / "cache"
    found: dict[str, list[dict[str, Any]]] = {}
    with linked(folder, options.latency_ms, options.mb_s) as served:
        for _ in range(options.repeats):
            shutil.rmtree(cache, ignore_errors=True)
            for name, (do, task) in CELLS.items():
                environment = {**served.environment(), "ELISA_CACHE": str(cache) if "cache" in name else ""}
                served.counts()
                answer = cell(do, cores, environment=environment, **task)
                found.setdefault(name, []).append({**answer, **served.counts()})
                print(f"{name}: {found[name][-1]}", file=sys.stderr, flush=True)
    print(report(found, options, folder))


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1024, help="records of 1.28 MB (default 1024)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=20, help="of each request (default 20)")
    parser.add_argument("--mb-s", type=float, default=200, help="of the link (default 200)")
    parser.add_argument(
        "--folder", type=Path, default=Path("data/bench/bucket"), help="for the records (1.3 GB) and a cache"
    )
    return parser.parse_args()


def plain(environment: dict[str, str]) -> dict[str, Any]:
    """The link alone: ranges of 1 MB by the same client, 32 at once."""
    os.environ.update(environment)
    import obstore
    from obstore.store import from_url

    client = from_url(STORE, client_options={"allow_http": True})
    key = f"{ours.place('image_features/patches')}/c/0/0/0"
    start = time.perf_counter()
    with ThreadPoolExecutor(32) as pool:
        sizes = pool.map(lambda _: len(obstore.get(client, key, options={"range": (0, 1 << 20)}).bytes()), range(400))
        total = sum(sizes)
    return {"mb_s": total / 1e6 / (time.perf_counter() - start)}


def epochs(
    environment: dict[str, str], names: list[str], epochs: int = 1, batch_size: int = data.BATCH, **how: Any
) -> dict[str, Any]:
    """Open, and read whole epochs: seconds to the first batch, records and megabytes a second of all."""
    os.environ.update(environment)
    import pyarrow.parquet  # noqa: F401  # imports are not what is measured

    from store import open_split

    start = time.perf_counter()
    split = open_split(STORE, *ours.SPLIT)
    opened = time.perf_counter() - start
    stream, count, first = split.stream({name: ours.NAMES[name] for name in names}, batch_size, **how), 0, 0.0
    began = time.perf_counter()
    for _ in range(epochs):
        for batch in stream:
            count += len(batch["image_index"])
            first = first or time.perf_counter() - start
    seconds = time.perf_counter() - began
    arrays = sum(name in ("patches", "masks") for name in names)
    return {
        "open_s": opened,
        "first_s": first,
        "records_s": count / seconds,
        "seconds": seconds,
        "parts": count * arrays,
    }


def steps(environment: dict[str, str]) -> dict[str, Any]:
    """Steps that compute for :data:`STEP_S`: the part of the time in which they wait for a batch, after the first."""
    os.environ.update(environment)
    from store import open_split

    stream = open_split(STORE, *ours.SPLIT).stream(ours.NAMES, STEP, shuffle=True)
    batches, waited = iter(stream), 0.0
    next(batches)
    start = time.perf_counter()
    for _ in range(60):
        asked = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - asked
        time.sleep(STEP_S)
    return {"waits": waited / (time.perf_counter() - start)}


WHOLE = list(ours.NAMES)
CELLS: dict[str, tuple[Callable[..., dict[str, Any]], dict[str, Any]]] = {
    "the link alone": (plain, {}),
    "whole records, shuffled": (epochs, {"names": WHOLE, "shuffle": True}),
    "whole records, in order": (epochs, {"names": WHOLE}),
    "mask embeddings and text, shuffled": (epochs, {"names": ["masks", "text"], "shuffle": True}),
    "a LISA-sized step": (steps, {}),
    "whole records, shuffled, into the cache": (epochs, {"names": WHOLE, "shuffle": True}),
    "whole records, shuffled, from the cache": (epochs, {"names": WHOLE, "shuffle": True, "seed": 1}),
}


def report(found: dict[str, list[dict[str, Any]]], options: argparse.Namespace, folder: Path) -> str:
    """The figures as Markdown."""

    def middle(name: str, key: str) -> float:
        return median(each[key] for each in found[name])

    link = middle("the link alone", "mb_s")
    rows = []
    for name, answers in found.items():
        if any("failed" in answer for answer in answers):
            rows.append([name, str(answers[-1].get("failed")), *[""] * 6])
        elif "seconds" in answers[0]:
            rate = median(each["bytes"] / 1e6 / each["seconds"] for each in answers)
            requests = median(each["of_arrays"] / each["parts"] for each in answers)
            times = [f"{middle(name, key):.2f}" for key in ("open_s", "first_s")]
            at_once = max(each["at_once"] for each in answers)
            share = f"{rate / link:.0%}" if "from the cache" not in name else ""
            rows.append(
                [
                    name,
                    f"{middle(name, 'records_s'):.0f}",
                    f"{rate:.0f}",
                    share,
                    *times,
                    f"{requests:.2f}",
                    str(at_once),
                ]
            )
    machine_ = ", ".join(f"{key} {value}" for key, value in machine.describe(folder).items())
    header = (
        "",
        "records/s",
        "MB/s",
        "of the link",
        "opened, s",
        "first batch, s",
        "requests per record and array",
        "at once",
    )
    waits = found["a LISA-sized step"]
    return "\n\n".join(
        [
            f"Machine: {machine_}. {options.count} records; {options.latency_ms:g} ms per request, {options.mb_s:g} MB/s; medians "
            f"of {options.repeats}. The link alone: {link:.0f} MB/s.",
            table(header, rows),
            f"A LISA-sized step ({STEP} records, {STEP_S} s) waits for data: "
            + ", ".join(f"{each['waits']:.1%}" if "waits" in each else str(each) for each in waits),
        ]
    )


if __name__ == "__main__":
    main()
