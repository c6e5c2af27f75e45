"""``make check-gpu``: everything that only a GPU can show, in parts of at most three minutes, as one table.

Each part is a process of its own, and its result is written at once: started again, the command goes on with parts that are
missing or failed, or whose code has changed. Exit code 0: all goals are reached; 1: some are not, or a part failed; 2: no GPU, or
a wrong option; 75: some parts are not measured yet, run it again.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from stages.names import did_you_mean
from tests.benchmarks import machine
from tests.benchmarks.gpu import report
from tests.benchmarks.gpu.part import Part
from tests.benchmarks.gpu.parts import parts
from tests.benchmarks.gpu.run import ROOT, Order, read, run
from tests.benchmarks.processes import cell
from tests.third_party import THIRD_PARTY

FOLDER = ROOT / "data/check_gpu"
PACKAGES = ("torch", "triton", "torchvision", "segment-anything", "transformers", "bitsandbytes", "numpy")
LIMIT_S = 180
USAGE = 2
EXAMPLES = """examples:
  make check-gpu
  make check-gpu GPU_OPTIONS=--rehearse                      # no GPU: the same parts with tiny models on the CPU
  make check-gpu GPU_OPTIONS="--budget 600"                  # a machine that is lent for ten minutes
  make check-gpu GPU_OPTIONS="--only 'ViT-H' kernel --again"
  make check-gpu GPU_OPTIONS=--list
  make check-gpu GPU_OPTIONS=--table                         # of what was measured before; measures nothing
"""


def main() -> int:
    """Measure what is not measured yet, print the table."""
    options = parse()
    every = parts()
    try:
        chosen = named(every, options.only)
        if options.list:
            print(listed(chosen))
            return 0
        if options.table:
            return shown(options, every, chosen)
        return measured(options, every, chosen)
    except ValueError as error:
        print(f"check-gpu: {error}", file=sys.stderr)
        return USAGE


def parse() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="make check-gpu",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts whose names begin so (default: all)")
    parser.add_argument("--list", action="store_true", help="name the parts, with what each takes and needs")
    parser.add_argument("--table", action="store_true", help="print the table of what is in the JSON file")
    parser.add_argument("--again", action="store_true", help="measure the parts again that are done")
    parser.add_argument(
        "--budget", type=float, default=float("inf"), metavar="SECONDS", help="start no part that would not end by then"
    )
    parser.add_argument(
        "--limit",
        type=float,
        default=LIMIT_S,
        metavar="SECONDS",
        help=f"the longest that a part may take (default {LIMIT_S})",
    )
    parser.add_argument("--json", type=Path, help="the results (default: data/check_gpu/<name of the GPU>.json)")
    parser.add_argument(
        "--folder", type=Path, help="for temporary files, up to 25 GB, and kept there (default: the system's, removed)"
    )
    parser.add_argument(
        "--rehearse", action="store_true", help="tiny models on the CPU; results go to a file of their own"
    )
    return parser.parse_args()


def named(every: Sequence[Part], wanted: Sequence[str] | None) -> tuple[Part, ...]:
    """The parts whose names begin with one of ``wanted``; all for None. ValueError for a name that no part has."""
    names = [part.name for part in every]
    for one in wanted or ():
        if not any(name.casefold().startswith(one.casefold()) for name in names):
            raise ValueError(f"--only: found {one!r}{did_you_mean(one, names, 0.4)}; --list names the parts")
    begin = tuple(one.casefold() for one in wanted or ("",))
    return tuple(part for part in every if part.name.casefold().startswith(begin))


def listed(chosen: Sequence[Part]) -> str:
    """A line for each part."""
    lines = [f"{part.seconds:4.0f} s {part.gpu_gb:3.0f} GB  {part.name}: {part.about}" for part in chosen]
    return "\n".join([*lines, f"{sum(part.seconds for part in chosen):4.0f} s on an H200, all together"])


def shown(options: argparse.Namespace, every: Sequence[Part], chosen: Sequence[Part]) -> int:
    """Print the table of a file, empty if nothing was measured yet; the exit code.

    Raises:
        ValueError: there are files of several cards, and none is named.
    """
    here = [path for path in sorted(FOLDER.glob("*.json")) if (path.stem == "rehearsal") == options.rehearse]
    files = [options.json] if options.json else here
    if len(files) > 1:
        names = " and ".join(path.name for path in files)
        raise ValueError(f"--table: found {names} in {FOLDER}, expected one; name the file with --json")
    document = (read(files[0]) if files else None) or {"rehearsal": False, "machine": {}, "parts": {}}
    print(report.markdown(document, chosen))
    return report.verdict(document, chosen)


def measured(options: argparse.Namespace, every: Sequence[Part], chosen: Sequence[Part]) -> int:
    """Run what is not done, print the table and write the profile."""
    begun, cores = time.monotonic(), sorted(os.sched_getaffinity(0))
    found = cell(look, cores, rehearse=options.rehearse)
    if why := found.get("none") or found.get("failed"):
        raise ValueError(why)
    preload(options.rehearse)
    slug = re.sub(r"\W+", "-", found["device"].casefold()).strip("-")
    path = options.json or FOLDER / f"{'rehearsal' if options.rehearse else slug}.json"
    same_machine(path, options.rehearse, found["device"])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the part at work ends, too
    with tempfile.TemporaryDirectory(prefix="check-gpu-") as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        budget_s = options.budget - (time.monotonic() - begun)
        order = Order(
            "cpu" if options.rehearse else "cuda", found, path, folder, options.limit, budget_s, options.again
        )
        try:
            document, left = run(order, every, chosen, say)
        except KeyboardInterrupt:
            say(f"stopped; what was measured is in {path}, and the same command goes on")
            return report.UNFINISHED
    print(report.markdown(document, chosen))
    if not options.rehearse:
        write_profile(document, path)
    say(f"results: {path}")
    return report.verdict(document, chosen, left)


def look(rehearse: bool) -> dict[str, Any]:
    """The machine; ``{"none": why}`` where there is no CUDA device.

    For a process of its own: one that has looked for a GPU cannot fork into some that use it.
    """
    import torch

    from stages.device import why_no_gpu

    info: dict[str, Any] = {"device": "no GPU, a rehearsal"}
    if not rehearse:
        if not torch.cuda.is_available():
            why = f"expected a CUDA device, but {why_no_gpu()}; the same parts with tiny models on the CPU: "
            return {"none": f"{why}make check-gpu GPU_OPTIONS=--rehearse"}
        card = torch.cuda.get_device_properties(0)
        driver = Path("/proc/driver/nvidia/version")
        version = re.search(r"\d+\.\d+(\.\d+)?", driver.read_text()) if driver.exists() else None
        info = {"device": card.name, "memory_gb": round(card.total_memory / 1e9, 1),
                "capability": f"{card.major}.{card.minor}", "driver": version[0] if version else "unknown",
                "CUDA": torch.version.cuda}  # fmt: skip
    about = machine.describe(Path())
    return info | {name: about[name] for name in ("CPU", "cores", "Python")} | machine.versions(list(PACKAGES))


def preload(rehearse: bool) -> None:
    """Import what nearly every part does, so that each is forked with it. None of it looks for a GPU (a test says so).

    Nothing of ours is imported: the files that a part imports say what its figures depend on.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # if a later version of one does, torch asks NVML, not CUDA
    if rehearse:
        os.environ["TRITON_INTERPRET"] = "1"  # is read when Triton is imported
    for name in THIRD_PARTY:
        importlib.import_module(name)


def same_machine(path: Path, rehearse: bool, device: str) -> None:
    """ValueError where the file's figures are of another card, or where a rehearsal's and a card's would mix."""
    document = read(path)
    if document is None:
        return
    before = document["machine"].get("device")
    if document["rehearsal"] != rehearse or before != device:
        raise ValueError(f"{path}: found figures of {before}, expected {device}; name another file with --json")


def write_profile(document: dict[str, Any], path: Path) -> None:
    """The networks that were timed, as lines for pipeline/scale/profiles.yaml."""
    from pipeline.scale.profiles import profiles

    device = document["machine"]["device"]
    titles = {card: each.title for card, each in profiles().cards.items()}
    card = next((card for card, title in titles.items() if device.startswith(title)), "a-new-entry-of-cards")
    if lines := report.timed_lines(document, card):
        where = path.with_suffix(".timed.yaml")
        where.write_text(
            "# for `timed` in pipeline/scale/profiles.yaml\n" + yaml.safe_dump(lines, sort_keys=False), "utf-8"
        )
        say(f"for `timed` in pipeline/scale/profiles.yaml: {where}")


def say(text: str) -> None:
    """Progress, next to the results."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
