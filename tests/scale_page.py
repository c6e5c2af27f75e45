"""``python -m tests.scale_page`` writes the tables of docs/scale.md again, from the commands that stand in the page."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import shlex
import sys
import textwrap
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/scale.md"
BLOCK = re.compile(
    r"^```\n(?P<command>python cli\.py (?:.*\\\n)*.*\n)```\n\n(?P<table>(?:^\|.*\n)+\n(?:^(?:- |  ).*\n)+)",
    re.MULTILINE,
)
"""A code block with one command, and the table and list that it makes."""
WIDTH = 112
"""Characters in a line of the list."""
MACHINES = (("rtx-3090", 1), ("rtx-3090", 8), ("h200", 8), ("h200", 64))
USD_PER_HOUR = {"rtx-3090": 0.3, "h200": 3.5}


def written(text: str) -> str:
    """The page with its tables made by the commands in front of them."""
    return BLOCK.sub(lambda match: f"```\n{match['command']}```\n\n{table(match['command'])}", text)


def table(command: str) -> str:
    """What a command of the page says for each of :data:`MACHINES`: a table, and a list of what takes longer to say."""
    found = [run(command, card, workers) for card, workers in MACHINES]
    one = found[0]
    machines = [f"{each['workers']} x {each['card'].removeprefix('NVIDIA ')}" for each in found]
    rows = [
        ["", *machines],
        ["---"] * (len(found) + 1),
        ["time", *(_time(each["hours"]) for each in found)],
        ["GPU hours", *(_rounded(each["gpu_hours"]) for each in found)],
        ["USD", *(_rounded(each["usd"]["work"]) for each in found)],
    ]
    breaks: dict[str, list[str]] = {}
    for machine, each in zip(machines, found, strict=True):
        breaks.setdefault(_first(each["breaks"]), []).append(machine)
    largest = sorted(one["columns"], key=lambda each: -each["bytes"])[:3]
    sizes = ", ".join(f"`{each['column']}` {_bytes(each['bytes'])}" for each in largest)
    requests = one["requests"]
    said = [
        *(f"Breaks first on {_names(names)}: {what}." for what, names in breaks.items()),
        f"On disk: {_bytes(one['bytes'])}; the largest are {sizes}.",
        f"Requests: {_count(requests['writes'])} that write or list, {_count(requests['reads'])} that read; "
        f"{_count(requests['reads_per_epoch'])} in an epoch.",
    ]
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([*lines, "", *(textwrap.fill(f"- {each}", WIDTH, subsequent_indent="  ") for each in said)]) + "\n"


def _names(machines: list[str]) -> str:
    return "all four" if len(machines) == len(MACHINES) else " and ".join(machines)


def run(command: str, card: str, workers: int) -> dict[str, Any]:
    """What a command says as JSON, on other machines than it names."""
    words = shlex.split(re.sub(r" --gpu \S+| --workers \S+", "", command.replace("\\\n", " ")))[2:]
    words += [
        "--gpu",
        card,
        "--workers",
        str(workers),
        "--set",
        f"prices.usd_per_gpu_hour={USD_PER_HOUR[card]}",
        "--json",
    ]
    said, before = io.StringIO(), sys.argv
    sys.argv = ["cli.py", *words]
    try:
        with contextlib.redirect_stdout(said):
            code = importlib.import_module("cli").main()
    finally:
        sys.argv = before
    assert code == 0, words
    return dict(json.loads(said.getvalue()))


def _time(hours: float) -> str:
    return f"{hours / 24:.1f} days" if hours >= 48 else f"{hours:.1f} h" if hours >= 2 else f"{hours * 60:.0f} min"


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _bytes(value: float) -> str:
    return f"{value / 1e12:.1f} TB" if value >= 1e12 else f"{value / 1e9:.1f} GB"


def _count(value: float) -> str:
    return f"{value / 1e6:.1f} million" if value >= 1e6 else f"{value:.0f}"


def _first(breaks: list[dict[str, Any]]) -> str:
    return "; ".join(each["what"] for each in breaks[:2]) or "nothing"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
