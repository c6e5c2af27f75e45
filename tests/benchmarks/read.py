"""``make bench-read``: compares this store's reader with its peers, on two cores. docs/results.md has the results."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks import cell as cells
from tests.benchmarks import data, faults, gate, machine, report
from tests.benchmarks.entries import ENTRIES, OURS, competitors
from tests.benchmarks.processes import cell

COLD = ("shuffled", "embeddings_text")
"""Profiles that are measured with a cold page cache, too."""
PACKAGES = ["numpy", "torch", "pyarrow", "google-crc32c"]


def main() -> None:
    """Write the records in every format, let every loader through the gate, then measure."""
    options = parse()
    root = options.folder / str(options.count)
    root.mkdir(parents=True, exist_ok=True)
    cores = sorted(os.sched_getaffinity(0))[:2]
    names = [name for name in ENTRIES if not options.only or any(part in name for part in options.only)]
    say(f"{len(names)} entries, {options.count} records ({1.28e-3 * options.count:.1f} GB), cores {cores}")
    gate.canonical(root, data.Records(options.count))
    failed = prepare(names, root, options.count, cores)
    failed |= passes(names, failed, root, options.count, cores)
    names = [name for name in names if name not in failed]
    results = measure(names, root, options, cores)
    found = detect(names, options.folder / "tiny", cores) if options.faults else {}
    memory = cell(cells.flat, cores, entry=OURS, root=str(root), profile="shuffled", epochs=10) if OURS in names else {}
    packages = PACKAGES + [ENTRIES[name].package for name in competitors() if name not in failed]
    document = {
        "machine": machine.describe(root),
        "versions": machine.versions(list(dict.fromkeys(packages))),
        "records": options.count,
        "seconds": options.seconds,
        "repeats": options.repeats,
        "failed": failed,
        "results": results,
        "faults": found,
        "memory_mb": memory.get("memory_mb", []),
    }
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report.read_report(document))


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few records, 1 s a cell, one repeat")
    parser.add_argument("--count", type=int, help="records (default 1024; quick: 128)")
    parser.add_argument("--seconds", type=float, help="a cell (default and quick: 1)")
    parser.add_argument("--repeats", type=int, help="warm measurements of a cell (default 2; quick: 1)")
    parser.add_argument("--only", nargs="+", metavar="PART", help="entries whose name holds one of these")
    parser.add_argument("--profiles", nargs="+", default=list(data.PROFILES), choices=data.PROFILES)
    parser.add_argument("--no-faults", dest="faults", action="store_false", help="leave the corruption list out")
    parser.add_argument("--no-cold", dest="cold", action="store_false", help="leave the cold page cache out")
    parser.add_argument("--folder", type=Path, default=Path("data/bench"), help="for the records (about 12 GB)")
    parser.add_argument("--json", type=Path, help="all figures into this file")
    options = parser.parse_args()
    defaults = {"count": (1024, 128), "seconds": (1.0, 1.0), "repeats": (2, 1)}
    for name, values in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.quick])
    return options


def say(text: str) -> None:
    """Progress, next to the results."""
    print(text, file=sys.stderr, flush=True)


def prepare(names: list[str], root: Path, count: int, cores: list[int], seed: int = 0) -> dict[str, str]:
    """Write what is not there yet; entry -> why it could not be."""
    failed = {}
    for name in names:
        folder = root / ENTRIES[name].data
        if folder.exists() or name in failed:
            continue
        writer = next(other for other, entry in ENTRIES.items() if entry.data == ENTRIES[name].data)
        aside = root / f"{folder.name}.part"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        answer = cell(cells.write, cores, entry=writer, folder=str(aside), count=count, seed=seed)
        if "failed" in answer:
            failed[name] = answer["failed"]
        else:
            aside.rename(folder)
        say(f"wrote {folder.name}: {answer}")
    return failed


def passes(names: list[str], failed: dict[str, str], root: Path, count: int, cores: list[int]) -> dict[str, str]:
    """Every loader through the gate, unclocked; entry -> why it does not pass."""
    found = {}
    for name in names:
        if name in failed:
            continue
        profiles = list(data.PROFILES)
        answer = cell(cells.let_through, cores, entry=name, root=str(root), profiles=profiles, count=count, seed=0)
        if wrong := {profile: why for profile, why in answer.items() if why}:
            found[name] = "; ".join(f"{profile}: {why}" for profile, why in wrong.items())
        say(f"gate, {name}: {found.get(name, 'passed')}")
    return found


def measure(names: list[str], root: Path, options: argparse.Namespace, cores: list[int]) -> list[dict[str, Any]]:
    """All cells, one after the other and repeated (A B A B), so that a slow minute affects all of them."""
    found = []
    conditions = [("warm", options.repeats), *([("cold", max(1, options.repeats // 2))] if options.cold else [])]
    for condition, repeats in conditions:
        for repeat in range(repeats):
            for profile in options.profiles if condition == "warm" else sorted({*COLD} & {*options.profiles}):
                for name in names if repeat % 2 == 0 else reversed(names):
                    cold = condition == "cold"
                    left = (machine.evict if cold else machine.warm)(root / ENTRIES[name].data)
                    how = {"root": str(root), "profile": profile, "seconds": options.seconds, "cold": cold}
                    answer = cell(cells.timed, cores, entry=name, **how)
                    key = {"entry": name, "profile": profile, "condition": condition, "repeat": repeat}
                    found.append({**key, **answer, **({} if left is None else {"left_resident": left})})
                    rate = f"{answer['records_s']:.0f} records/s" if "records_s" in answer else str(answer)
                    say(f"{condition} {repeat + 1}, {profile}, {name}: {rate}")
    return found


def detect(names: list[str], root: Path, cores: list[int]) -> dict[str, dict[str, str]]:
    """Entry -> fault -> verdict; loaders that differ in threads alone are not asked twice."""
    shutil.rmtree(root, ignore_errors=True)
    good, older, bad = (root / part for part in ("good", "older", "bad"))
    for folder in (good, older, bad):
        folder.mkdir(parents=True)
    expected = gate.canonical(root, data.Records(faults.COUNT))["whole"]
    found: dict[str, dict[str, str]] = {}
    asked = [name for name in names if "thread" not in name]
    prepare(asked, good, faults.COUNT, cores)
    prepare(asked, older, faults.COUNT, cores, seed=1)
    for name in asked:
        found[name] = {}
        for fault in faults.FAULTS:
            folders = {"good": str(good), "older": str(older), "bad": str(bad)}
            answer = cell(cells.damaged, cores, timeout_s=30, entry=name, fault=fault, **folders)
            found[name][fault] = faults.verdict(answer, expected)
            say(f"faults, {name}, {fault}: {found[name][fault]} {answer.get('raised', answer.get('failed', ''))[:100]}")
    return found


if __name__ == "__main__":
    main()
