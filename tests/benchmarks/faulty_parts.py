"""Parts that go wrong, for the tests of ``make check-gpu``, and a program that runs some of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.gpu import report
from tests.benchmarks.gpu.part import Goal, Part
from tests.benchmarks.gpu.run import Order, run

_HERE = "tests.benchmarks.faulty_parts"


def counted(folder: str, name: str = "counted", value: float = 12.0) -> dict[str, Any]:
    """A figure; a line in a file says that it was measured once more."""
    with (Path(folder) / name).open("a") as file:
        file.write("x")
    return {"times": value, "unit": "none"}


def makes(folder: str) -> dict[str, Any]:
    """A folder that another part needs."""
    made = Path(folder) / "made"
    made.mkdir(exist_ok=True)
    return counted(folder, "makes") | {"made": str(made)}


def takes(folder: str, earlier: dict[str, Any]) -> dict[str, Any]:
    """What :func:`makes` made and found."""
    return {"there": (Path(folder) / "made").is_dir(), "before": earlier["makes"]["times"]}


def fails() -> dict[str, Any]:
    raise KeyError("no such | tensor")


def fails_once(folder: str) -> dict[str, Any]:
    """Fails the first time only, as if the disk had been full for a while."""
    counted(folder, "tries")
    if (Path(folder) / "tries").read_text() == "x":
        raise OSError("no space left on device")
    return {"times": 1.0}


def runs_out() -> dict[str, Any]:
    class OutOfMemoryError(RuntimeError):
        pass

    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def sleeps(folder: str) -> dict[str, Any]:
    (Path(folder) / "pid").write_text(str(os.getpid()))
    time.sleep(60)
    return {}


def dies() -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


PARTS = {
    part.name: part
    for part in (
        Part("counted", f"{_HERE}:counted", "a figure", goals={"times": Goal(at_least=10, aim=20)}, seconds=1),
        Part("missed", f"{_HERE}:counted", "a figure too low", {"value": 3.0, "name": "missed"},
             goals={"times": Goal(at_least=10)}),
        Part("makes", f"{_HERE}:makes", "something"),
        Part("takes", f"{_HERE}:takes", "it", after=("makes",)),
        Part("fails", f"{_HERE}:fails", "nothing"),
        Part("needs fails", f"{_HERE}:counted", "nothing", {"name": "needs"}, after=("fails",)),
        Part("fails once", f"{_HERE}:fails_once", "a figure at last"),
        Part("runs out", f"{_HERE}:runs_out", "nothing"),
        Part("sleeps", f"{_HERE}:sleeps", "nothing", seconds=1),
        Part("dies", f"{_HERE}:dies", "nothing"),
        Part("lacks", f"{_HERE}:counted", "nothing", packages=("no_such_package",)),
        Part("large", f"{_HERE}:counted", "nothing", gpu_gb=40),
        Part("long", f"{_HERE}:counted", "nothing", {"name": "long"}, seconds=100),
    )
}  # fmt: skip


def main() -> int:
    """Run the parts that the arguments name; the first one is JSON, what :class:`Order` takes. Prints the table."""
    words = json.loads(sys.argv[1])
    order = Order(
        "cuda", {"device": "a card", "memory_gb": 24}, Path(words.pop("json")), Path(words.pop("folder")), **words
    )
    chosen = [PARTS[name] for name in sys.argv[2:]]
    document, left = run(order, list(PARTS.values()), chosen, lambda text: print(text, file=sys.stderr, flush=True))
    print(report.markdown(document, chosen))
    return report.verdict(document, chosen, left)


if __name__ == "__main__":
    sys.exit(main())
