"""The figures of the training benchmark as Markdown, and whether the goals are reached."""

from __future__ import annotations

from statistics import median
from typing import Any

from tests.benchmarks.report import table
from tests.benchmarks.training.setting import SIDES

HEADER = (
    "", "steps/s", "an epoch, s", "waiting for data, ms", "of the step, %", "encoders, ms", "training, ms",
    "peak memory, MB", "on the GPU, MB", "read per step, MB", "read before, MB", "re-run, GFLOPs per step",
)  # fmt: skip
GAINS = (
    "(a) next to", "predicted by FLOPs", "predicted by seconds of the parts", "measured", "measured / predicted by FLOPs",
)  # fmt: skip
FIRST = ("ELISA, shuffled", "opening, ms", "from there to the first batch, ms", "together, ms", "under 1 s")
WAITING_PERCENT, OF_PREDICTED, OVER_EVERYTHING = 2.0, 0.9, 10.0
LOSS_TOLERANCE = 0.01
"""Largest relative difference of the first loss, as vectors of the store are rounded to float16."""


def seconds(cells: list[dict[str, Any]], part: str) -> float:
    """Median over the steps of all rounds; ``whole`` is the whole step."""
    if part == "whole":
        parts = ("waiting", "encoding", "training")
        return median(sum(of) for cell in cells for of in zip(*(cell[name] for name in parts), strict=True))
    return median(value for cell in cells for value in cell[part])


def report_system(name: str, found: dict[str, Any]) -> str:
    """Table, gains and notes of a system; sides that failed say why."""
    rows, cells = [], found["cells"]
    for side in SIDES:
        failed = next((cell["failed"] for cell in cells[side] if "failed" in cell), "")
        rows.append([SIDES[side], f"failed: {failed}"] if failed else row(side, found))
    lines = [f"**{name}**", "", table(HEADER, [[*line, *[""] * (len(HEADER) - len(line))] for line in rows]), ""]
    good = [side for side in SIDES if not any("failed" in cell for cell in cells[side])]
    if "a" in good:
        lines += [
            f"Training alone: {found['flops']['training'] / 1e9:.1f} GFLOPs per step. {agreement(cells, good)}",
            "",
        ]
        lines += (
            [f"{found['no ratio']}.", ""] if found["no ratio"] else [gains(found, good), "", goals(found, good), ""]
        )
    return "\n".join(lines).rstrip()


def row(side: str, found: dict[str, Any]) -> list[str]:
    """One line of the table."""
    cells = found["cells"][side]
    whole, waiting = seconds(cells, "whole"), seconds(cells, "waiting")
    return [
        SIDES[side],
        f"{1 / whole:.2f}",
        f"{found['batches'] * whole:.1f}",
        f"{1e3 * waiting:.1f}",
        f"{100 * waiting / whole:.1f}",
        f"{1e3 * seconds(cells, 'encoding'):.0f}",
        f"{1e3 * seconds(cells, 'training'):.0f}",
        f"{max(cell['memory_bytes'] for cell in cells) / 1e6:.0f}",
        f"{max(cell['gpu_bytes'] for cell in cells) / 1e6:.0f}",
        f"{median(cell['step_bytes'] for cell in cells) / 1e6:.2f}",
        f"{median(cell['start_bytes'] for cell in cells) / 1e6:.2f}",
        f"{found['flops'].get(side, 0) / 1e9:.1f}",
    ]


def gains(found: dict[str, Any], good: list[str]) -> str:
    """How many times faster a step from the store is: predicted twice, and measured."""
    cells, flops = found["cells"], found["flops"]
    rows = []
    for side in good[1:]:
        predicted = (flops["training"] + flops[side]) / flops["training"]
        alone = seconds(cells["a"], "training")
        by_parts = (alone + seconds(cells[side], "encoding")) / alone
        gain = seconds(cells[side], "whole") / seconds(cells["a"], "whole")
        rows.append(
            [SIDES[side], *(f"{value:.2f}x" for value in (predicted, by_parts, gain)), f"{gain / predicted:.2f}"]
        )
    return table(GAINS, rows)


def goals(found: dict[str, Any], good: list[str]) -> str:
    """The goals, and whether they are reached."""
    cells, flops = found["cells"], found["flops"]
    whole = seconds(cells["a"], "whole")
    waiting = 100 * seconds(cells["a"], "waiting") / whole
    rows = [
        [
            f"(a) waits for data under {WAITING_PERCENT:.0f} % of the step",
            f"{waiting:.2f} %",
            _yes(waiting < WAITING_PERCENT),
        ]
    ]
    if "c1" in good:
        predicted = (flops["training"] + flops["c1"]) / flops["training"]
        share = seconds(cells["c1"], "whole") / whole / predicted
        rows.append(
            [
                f"over (c1), {100 * OF_PREDICTED:.0f} % of what FLOPs predict",
                f"{100 * share:.0f} %",
                _yes(share >= OF_PREDICTED),
            ]
        )
    if "c2" in good:
        gain = seconds(cells["c2"], "whole") / whole
        rows.append([f"over (c2), {OVER_EVERYTHING:.0f}x", f"{gain:.1f}x", _yes(gain >= OVER_EVERYTHING)])
    return table(("goal", "found", "reached"), rows)


def agreement(cells: dict[str, list[dict[str, Any]]], good: list[str]) -> str:
    """Whether the first step computes the same on every side."""
    losses = {side: cells[side][0]["loss"][0] for side in good}
    worst = max(abs(loss - losses["a"]) for loss in losses.values()) / max(1e-9, abs(losses["a"]))
    said = ", ".join(f"{side} {loss:.5f}" for side, loss in losses.items())
    same = "the same" if worst <= LOSS_TOLERANCE else "NOT the same"
    return f"Loss of the first step: {said}: {same} within {LOSS_TOLERANCE:.0%}."


def report_first_batch(found: dict[str, Any]) -> str:
    """The table of the time from opening a store to the first batch."""
    if "failed" in found:
        return f"First batch: failed: {found['failed']}"
    rows = []
    for name, runs in found["runs"].items():
        spent = [median(run[part] for run in runs) for part in ("open_s", "batch_s", "whole_s")]
        rows.append([f"the page cache is {name}", *(f"{1e3 * value:.0f}" for value in spent), _yes(spent[-1] < 1)])
    size = f"{found['shard_images']} a shard, {found['files']} files, {found['bytes'] / 1e6:.0f} MB"
    return f"**First batch of {found['images']} images** ({size})\n\n{table(FIRST, rows)}"


def _yes(holds: bool) -> str:
    return "yes" if holds else "no"
