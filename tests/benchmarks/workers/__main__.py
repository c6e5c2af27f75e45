"""``python -m tests.benchmarks.workers``: how much faster many workers are than one, on a virtual clock, and what they wait for.

Planning, publishing and messages are measured on this machine first; a shard takes what ``extract --plan`` says of COCO's
pictures with ``params/reasonseg.yaml``. With ``--check`` the clock is compared with 2, 4 and 8 real processes that sleep.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Settings
from pipeline.params_file import load_settings
from pipeline.scale.profiles import profiles
from tests.benchmarks import machine
from tests.benchmarks.report import table
from tests.benchmarks.workers import real
from tests.benchmarks.workers.measure import measure
from tests.benchmarks.workers.setting import HOP_S, costs_on, make_store
from tests.benchmarks.workers.simulate import Costs, Kind, simulate

ROOT = Path(__file__).resolve().parents[3]
SLEPT = {"masks": 4.0, "embed": 2.0, "match": 0.0}
"""Seconds of a shard of the real processes: long next to what two cores need to run eight of them."""
ROUNDS = 6


def main() -> None:
    """Measure, simulate, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=ROOT / "params/reasonseg.yaml", help="whose networks")
    parser.add_argument("--gpu", nargs="+", default=["rtx-3090", "h200"], help="cards of the profiles")
    parser.add_argument("--workers", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--set", action="append", default=[], help="as of cli.py, such as store=s3://bucket/store")
    parser.add_argument("--shards", type=int, default=3_697, help="of a split (default: COCO's, of 32 images)")
    parser.add_argument("--folder", type=Path, help="for the stores (default: a temporary folder)")
    parser.add_argument("--check", action="store_true", help="compare the clock with 2, 4 and 8 real processes")
    parser.add_argument("--json", type=Path, help="all figures into this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-workers-", dir=options.folder) as temporary:
        folder = Path(temporary)
        document: dict[str, Any] = {"machine": machine.describe(folder), "measured": measure(folder / "measured")}
        if options.check:
            document["check"] = check(folder / "check", document["measured"])
        else:
            params = make_store(folder / "simulated", options.shards)
            wanted = load_settings(options.params, options.set)
            document["simulated"] = {
                card: grow(params, costs_on(wanted, profiles(), card), options.workers) for card in options.gpu
            }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report(document))


def grow(params: Path, costs: Costs, workers: list[int], seed: int = 0) -> list[dict[str, Any]]:
    """One worker of the local executor, then as many as are asked for on Dask and in parts, as rows of a table."""
    settings, rows = load_settings(params), []
    alone: float | None = None
    for kind, count in [("local", 1), *((kind, count) for count in workers for kind in ("dask", "part"))]:
        with emptied(settings):
            ran = simulate(settings, kind, count, costs, seed, threads=2)  # type: ignore[arg-type]
        alone = alone or ran.seconds
        rows.append(
            {"executor": kind, "workers": count, "seconds": ran.seconds, "times": alone / ran.seconds, **ran.shares}
        )
        print(rows[-1], file=sys.stderr)
    return rows


@contextmanager
def emptied(settings: Settings) -> Iterator[None]:
    """The store unchanged; what the block adds to it is removed again."""
    store, kept = settings.store_path, settings.store_path.with_name("kept")
    shutil.copytree(store, kept)
    try:
        yield
    finally:
        shutil.rmtree(store)
        kept.rename(store)


def check(folder: Path, measured: dict[str, float]) -> list[dict[str, Any]]:
    """Seconds of real processes next to those of the clock, which knows what was measured."""
    costs = Costs(
        shard=SLEPT,
        publish=dict.fromkeys(SLEPT, measured["publish_ms"] / 1e3),
        plan=measured["plan_ms"] / 1e3 / 2,
        task=measured["task_ms"] / 1e3,
        hop=HOP_S,
    )
    rows = []
    for workers in (2, 4, 8):
        params = make_store(folder / str(workers), workers * ROUNDS)
        settings = load_settings(params)
        pairs: list[tuple[Kind, Callable[[], float]]] = [
            ("dask", lambda params=params, workers=workers: real.on_dask(params, workers, SLEPT, threads=2)),
            ("part", lambda params=params, workers=workers: real.in_parts(params, workers, SLEPT)),
        ]
        for kind, run in pairs:
            with emptied(settings):
                ran = simulate(settings, kind, workers, costs, threads=2)
            with emptied(settings):
                seconds = run()
            rows.append({"executor": kind, "workers": workers, "clock": ran.seconds, "processes": seconds})
            print(rows[-1], file=sys.stderr)
    return rows


def report(document: dict[str, Any]) -> str:
    """The tables."""
    lines = [", ".join(f"{key} {value}" for key, value in document["machine"].items())]
    lines.append(table(("measured here", ""), [[name, f"{value:.3g}"] for name, value in document["measured"].items()]))
    for card, rows in document.get("simulated", {}).items():
        cells = [
            [
                row["executor"],
                str(row["workers"]),
                f"{row['seconds'] / 3600:.2f}",
                f"{row['times']:.2f}",
                *(f"{100 * row.get(what, 0.0):.1f}" for what in ("computing", "loading", "looking", "waiting")),
            ]
            for row in rows
        ]
        titles = (card, "workers", "hours", "times one", "computing, %", "loading", "looking", "waiting")
        lines.append(table(titles, cells))
    if "check" in document:
        cells = [
            [
                row["executor"],
                str(row["workers"]),
                *(f"{seconds:.2f}" for seconds in (row["processes"], row["clock"], row["clock"] / row["processes"])),
            ]
            for row in document["check"]
        ]
        lines.append(table(("executor", "workers", "processes, s", "clock, s", "clock / processes"), cells))
    return "\n\n".join(lines)


if __name__ == "__main__":
    main()
