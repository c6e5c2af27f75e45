"""Runs parts, each in a process of its own, and writes the result of each into one JSON file as soon as it is there.

Started again, it goes on with the parts that are missing, that failed, or whose code, arguments or libraries have changed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu.part import Found, Part
from tests.benchmarks.processes import cell

ROOT = Path(__file__).resolve().parents[3]
OK, FAILED, NO_MEMORY, TOO_LONG, DIED = "ok", "failed", "out of memory", "took too long", "died"
SKIPPED, LEFT = "skipped", "not yet measured"
PARAMS = ("params.yaml", "params/reasonseg.yaml")
"""Files that decide what is measured and that Python does not import."""
Record = dict[str, Any]


@dataclass(frozen=True)
class Order:
    """What is to be done.

    Args:
        device: cuda; or cpu, for a rehearsal.
        machine: what the figures depend on: ``device``, ``memory_gb`` and versions.
        json: where the results are.
        folder: where parts put what later parts read.
        limit_s: the longest that a part may take.
        budget_s: no part is started that would not end within it.
        again: also measure parts that already have results.
    """

    device: str
    machine: Mapping[str, Any]
    json: Path
    folder: Path
    limit_s: float
    budget_s: float = float("inf")
    again: bool = False

    @property
    def rehearsal(self) -> bool:
        """Whether no GPU is there."""
        return self.device == "cpu"


def run(
    order: Order, every: Sequence[Part], chosen: Sequence[Part], say: Callable[[str], None]
) -> tuple[dict[str, Any], list[str]]:
    """Run the chosen parts that are not done, and those that they need.

    Returns:
        The document, and the names of chosen parts for which ``budget_s`` left no time.

    Args:
        every: all parts that there are, with those that ``chosen`` ones need.
    """
    document = read(order.json) or new_document(order)
    document["machine"] = dict(order.machine)
    write(order.json, document)
    begun, names = time.monotonic(), {part.name: part for part in every}
    tried: set[str] = set()
    code = code_version()

    def one(part: Part) -> None:
        for name in part.after:
            if name not in tried and not there(names[name], document, order):
                one(names[name])
        tried.add(part.name)
        left_s = order.budget_s - (time.monotonic() - begun)
        record = refused(part, order, document, left_s) or measure(part, order, document, min(order.limit_s, left_s))
        if record["status"] == TOO_LONG and left_s < order.limit_s:
            record = {"status": LEFT, "why": "--budget ended while it ran"}
        if record["status"] != LEFT:  # what was measured before stays
            document["parts"][part.name] = {**record, "code": code}
            write(order.json, document)
        took = f" in {record['seconds']:.0f} s" if "seconds" in record else ""
        say(f"{part.name}: {record['status']}{took}" + (f": {record['why']}" if record.get("why") else ""))

    for number, part in enumerate(chosen, 1):
        if part.name in tried or (not order.again and done(part, document, order)):
            continue
        say(f"[{number}/{len(chosen)}] {part.name}: {part.about}")
        one(part)
    return document, [part.name for part in chosen if not settled(part, document, order)]


def settled(part: Part, document: Mapping[str, Any], order: Order) -> bool:
    """Whether there is nothing more to find out about a part: it is done, or it was tried and says why it is not."""
    status = document["parts"].get(part.name, {"status": LEFT})["status"]
    return done(part, document, order) if status == OK else status != LEFT


def code_version() -> str:
    """The commit, and whether files differ from it; "unknown" outside of a clone."""
    answers = [
        subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
    ]
    if any(each.returncode for each in answers):
        return "unknown"
    commit, changed = (each.stdout.strip() for each in answers)
    return f"{commit} with changes" if changed else commit


def new_document(order: Order) -> dict[str, Any]:
    """A new document without results."""
    return {"rehearsal": order.rehearsal, "machine": dict(order.machine), "parts": {}}


def refused(part: Part, order: Order, document: Mapping[str, Any], left_s: float) -> Record | None:
    """Why a part is not run; None where it can be."""
    if order.rehearsal and part.tiny is None:
        return {"status": SKIPPED, "why": "needs CUDA itself"}
    lacking = [name for name in part.packages if importlib.util.find_spec(name) is None]
    if lacking:
        return {"status": SKIPPED, "why": f"needs {', '.join(lacking)} (pip install {' '.join(lacking)})"}
    memory_gb = order.machine.get("memory_gb", 0.0)
    if not order.rehearsal and part.gpu_gb > memory_gb:
        why = f"needs {part.gpu_gb:g} GB of the GPU's memory, found {memory_gb:.0f}"
        return {"status": SKIPPED, "why": why}
    for name in part.after:
        before = document["parts"].get(name, {"status": LEFT})
        if before["status"] != OK:
            return {"status": before["status"] if before["status"] in (LEFT, SKIPPED) else FAILED,
                    "why": f"needs {name!r}: {before['status']}"}  # fmt: skip
    takes_s = 0 if order.rehearsal else document["parts"].get(part.name, {}).get("seconds", part.seconds)
    if takes_s >= left_s:
        return {"status": LEFT, "why": f"takes about {takes_s:g} s, {max(0, left_s):.0f} s of --budget are left"}
    return None


def done(part: Part, document: Mapping[str, Any], order: Order) -> bool:
    """Whether a part's figures are of this code, these arguments and these libraries."""
    record = document["parts"].get(part.name, {})
    return bool(
        record.get("status") == OK
        and record["arguments"] == arguments(part, order)
        and record["machine"] == dict(order.machine)
        and record["sources"] == digests(record["sources"])
    )


def there(part: Part, document: Mapping[str, Any], order: Order) -> bool:
    """Whether a part that others need is done, and what it made has not gone since."""
    if not done(part, document, order):
        return False
    made = document["parts"][part.name].get("made")
    return made is None or (Path(made).exists() and Path(made).is_relative_to(order.folder))


def arguments(part: Part, order: Order) -> dict[str, Any]:
    """Of a part's function, as they stand in the JSON."""
    found: dict[str, Any] = json.loads(json.dumps(part.tiny if order.rehearsal else part.real))
    return found


def measure(part: Part, order: Order, document: Mapping[str, Any], limit_s: float) -> Record:
    """The record of a part, from a process of its own."""
    begun = time.monotonic()
    earlier = {name: document["parts"][name].get("figures", {}) for name in part.after}
    task = {"device": order.device, "folder": str(order.folder), "earlier": earlier}
    cores = sorted(os.sched_getaffinity(0))
    record: Record = cell(answer, cores, limit_s, part=part, arguments=arguments(part, order), **task)
    if "status" not in record:
        slow = record["failed"].startswith("no answer")
        lost = record["failed"] == "the process died"
        why = "killed from outside, perhaps as the machine's memory ran out" if lost else record["failed"]
        record = {"status": TOO_LONG if slow else DIED if lost else FAILED, "why": why}
    return {
        **record,
        "seconds": round(time.monotonic() - begun, 1),
        "arguments": arguments(part, order),
        "machine": dict(order.machine),
        "ended": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def answer(part: Part, arguments: Mapping[str, Any], device: str, folder: str, earlier: Mapping[str, Found]) -> Record:
    """What a part finds, in the process that measures it."""
    if torch := sys.modules.get("torch"):  # no TF32: both sides of a comparison compute in true float32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        found = part.find(arguments, device, folder, earlier)
        extra = {name: found.pop(name) for name in ("made", "timed") if name in found}
        record: Record = {"status": OK, "figures": found, **extra}
    except Exception as error:  # noqa: BLE001 - whatever it is, the others go on and the table says it
        memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
        why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        record = {"status": NO_MEMORY if memory else FAILED, "why": why, "traceback": traceback.format_exc()}
    if notes := sys.modules.get("stages.notes"):
        record["notes"] = notes.notes()
    loaded = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    own = sorted(
        str(path.relative_to(ROOT)) for path in loaded if path.is_relative_to(ROOT) and ".venv" not in path.parts
    )
    return record | {"sources": digests([*own, *PARAMS])}


def digests(files: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """File, relative to the repository -> the beginning of its sha256; empty where it is gone."""
    found = {}
    for name in files:
        path = ROOT / name
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.is_file() else ""
    return found


def read(path: Path) -> dict[str, Any] | None:
    """The document in a file; None without a file. ValueError where the file is something else."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("parts"), dict):
        raise ValueError(f"{path}: found no results of check-gpu; name another file with --json, or remove this one")
    return found


def write(path: Path, document: Mapping[str, Any]) -> None:
    """Write the whole document or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    temporary.replace(path)
