"""``make bench-train``: an epoch of each system from the store, from JSONL, and with vision models that run in every step.

(a) from the store; (b) from ELISA-style JSONL; (c1) re-running in each step what the original runs (ELISA: CLIP; LLM-Seg: CLIP and
DINOv2; LISA: CLIP and SAM's encoder); (c2) re-running all the store holds, SAM's everything mode included. Model, weights,
samples, optimiser and step are the same; sides take turns, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.config import InputError
from tests.benchmarks import machine
from tests.benchmarks.processes import cell
from tests.benchmarks.training import first_batch, real_size
from tests.benchmarks.training.flops import counted
from tests.benchmarks.training.jsonl import write_jsonl
from tests.benchmarks.training.samples import write_samples
from tests.benchmarks.training.setting import SIDES, Setting, open_setting, too_small
from tests.benchmarks.training.sources import LINES, SAMPLES
from tests.benchmarks.training.step import timed
from tests.benchmarks.training.tables import report_first_batch, report_system

PACKAGES = ("torch", "transformers", "peft", "segment-anything", "open-clip-torch", "numpy", "pyarrow")
SYSTEMS = ("elisa", "llmseg", "lisa")
COUNTED_STEPS = 3
NO_CUDA = "not measured: no CUDA device"
EXAMPLES = """examples:
  make bench-train
  make bench-train BENCH_OPTIONS="--quick"
  python -m tests.benchmarks.train --systems lisa --sides a c1 --steps 10 --rounds 5
  python -m tests.benchmarks.train --device cuda --real-size --json train.json
  python -m tests.benchmarks.train --systems --images 100000 --shard-images 32      # the first batch alone
"""


def main() -> None:
    """Measure, print the tables."""
    options = parse()
    cores = sorted(os.sched_getaffinity(0))
    cores = cores if options.device == "cuda" else cores[:2]
    document: dict[str, Any] = {
        "machine": machine.describe(Path()),
        "versions": machine.versions(list(PACKAGES)),
        "cores": len(cores),
        "device": options.device,
    }
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        try:
            setting = chosen(options, Path(folder), cores, document)
            if setting is not None:
                document["systems"] = {
                    name: measure(setting, name, options, Path(folder) / name, cores) for name in options.systems
                }
            if options.first_batch:
                document["first batch"] = measure_first_batch(options, Path(folder) / "many", cores)
        except InputError as error:
            sys.exit(f"bench-train: {error}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report(document))


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", nargs="*", choices=SYSTEMS, default=SYSTEMS, help="default: all three")
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=list(SIDES), help="default: all; (a) is always measured"
    )
    parser.add_argument("--steps", type=int, help="measured in a round, the same on every side (default 6; quick 1)")
    parser.add_argument(
        "--warm-up", type=int, help="steps before them: every shard's tables are read by then (default 6; quick 1)"
    )
    parser.add_argument("--rounds", type=int, help="so often the sides take turns (default 3; quick 1)")
    parser.add_argument("--quick", action="store_true", help="one step, one round, a small first batch: does it run?")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="whose store is read (default: the demo)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--real-size", action="store_true",
                        help="with cuda: LLaVA-Gemma 2B, CLIP-L/14-336, DINOv2-L and SAM ViT-H, with random weights")  # fmt: skip
    parser.add_argument("--no-first-batch", dest="first_batch", action="store_false", help="leave the large store out")
    parser.add_argument("--images", type=int, help="of the large store (default 100 000; quick 512)")
    parser.add_argument("--shard-images", type=int, default=256, help="its images per shard (default 256)")
    parser.add_argument(
        "--folder", type=Path, help="where temporary files go (default: the system's; real size: 25 GB)"
    )
    parser.add_argument("--json", type=Path, help="all figures into this file")
    options = parser.parse_args()
    if options.real_size and options.device != "cuda":
        parser.error("--real-size: found --device cpu, expected --device cuda")
    defaults = {"steps": (6, 1), "warm_up": (6, 1), "rounds": (3, 1), "images": (100_000, 512)}
    for name, values in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, values[options.quick])
    if options.steps < 1 or options.warm_up < 1 or options.rounds < 1:
        parser.error("--steps, --warm-up, --rounds: expected 1 or more")
    options.sides = [side for side in SIDES if side == "a" or side in options.sides]
    return options


def say(text: str) -> None:
    """Progress, next to the results."""
    print(text, file=sys.stderr, flush=True)


def chosen(options: argparse.Namespace, folder: Path, cores: list[int], document: dict[str, Any]) -> Setting | None:
    """What is measured; None where nothing is, because there is no GPU. Notes in the document what it is."""
    if not options.systems:
        return None
    # in a process of its own: one that has looked for a GPU cannot fork into some that use it
    gpu = cell(real_size.gpu_name, cores)["name"] if options.device == "cuda" else ""
    if options.device == "cuda" and not gpu:
        document["setting"] = NO_CUDA
        return None
    document["gpu"] = gpu
    if not options.real_size:
        document["setting"] = f"{options.params}, {gpu or 'CPU'}"
        return open_setting(options.params, options.device, options.set)
    needed = real_size.BATCH_SIZE * (options.warm_up + options.steps)
    say(f"real size: making weights and a store of {needed} images")
    document["setting"] = f"{real_size.REAL}, {needed} images, {gpu}"
    return real_size.prepare(real_size.REAL, folder / "real", options.device, needed, cores, options.set)


def measure(setting: Setting, name: str, options: argparse.Namespace, folder: Path, cores: list[int]) -> dict[str, Any]:
    """All sides of a system."""
    folder.mkdir()
    say(f"{name}: writing samples and JSONL")
    count = options.warm_up + options.steps
    found = checked(
        cell(write_samples, cores, 3600, setting=setting, system=name, count=count, path=str(folder / SAMPLES))
    )
    if "b" in options.sides:
        found |= checked(cell(write_jsonl, cores, 3600, setting=setting, system=name, path=str(folder / LINES)))
    task: dict[str, Any] = {"setting": setting, "system": name, "folder": str(folder), "threads": len(cores)}
    cells: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for turn in range(options.rounds):
        for side in options.sides if turn % 2 == 0 else reversed(options.sides):
            answer = cell(timed, cores, 3600, side=side, warm_up=options.warm_up, steps=options.steps, **task)
            cells[side].append(answer)
            say(f"{name}, {SIDES[side]}, round {turn + 1}: {answer.get('failed', 'done')}")
    for side in SIDES:
        if side not in options.sides:
            cells[side].append({"failed": "not asked for"})
    say(f"{name}: counting FLOPs")
    good = [side for side in options.sides if not any("failed" in answer for answer in cells[side])]
    steps = min(COUNTED_STEPS, options.steps)
    found["flops"] = checked(cell(counted, cores, 3600, sides=good, steps=steps, **task)) if "a" in good else {}
    found["towers"] = checked(cell(real_size.tower_sizes, cores, setting=setting, system=name))
    model = cells["a"][0].get("parameters", 0)
    return {**found, "cells": cells, "no ratio": too_small(model, found["towers"]) if model else ""}


def checked(answer: dict[str, Any]) -> dict[str, Any]:
    """What a cell answered; InputError with its reason when it failed."""
    if "failed" in answer:
        raise InputError(answer["failed"])
    return answer


def measure_first_batch(options: argparse.Namespace, folder: Path, cores: list[int]) -> dict[str, Any]:
    """Make the large store, then open it several times, with a warm and with a cold page cache."""
    from pipeline.params_file import load_settings

    say(f"first batch: making a store of {options.images} images")
    made = cell(
        first_batch.make, cores, 1800, folder=str(folder), images=options.images, shard_images=options.shard_images
    )
    found = {"images": options.images, "shard_images": options.shard_images, **made}
    settings = load_settings(options.params, options.set)
    runs: dict[str, list[dict[str, Any]]] = {"warm": [], "cold": []}
    for name, repeats in (("warm", 2 * options.rounds - 1), ("cold", options.rounds)):
        for _ in range(repeats if "failed" not in made else 0):
            first_batch.prepare_cache(folder, cold=name == "cold")
            runs[name].append(checked(cell(first_batch.first, cores, settings=settings, folder=str(folder))))
    shutil.rmtree(folder, ignore_errors=True)
    return found | {"runs": runs}


def report(document: dict[str, Any]) -> str:
    """Markdown."""
    said = document.get("setting", "no system")
    parts = [f"{said}; {document['cores']} cores; {document['machine']}; {document['versions']}"]
    parts += [report_system(name, found) for name, found in document.get("systems", {}).items()]
    if "first batch" in document:
        parts.append(report_first_batch(document["first batch"]))
    if document["device"] == "cpu" and document.get("systems"):
        parts.append("Real sizes: only with a GPU, --device cuda --real-size.")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
