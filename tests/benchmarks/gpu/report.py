"""The results as one Markdown table, as lines for pipeline/scale/profiles.yaml, and as an exit code."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from tests.benchmarks.gpu.part import Goal, Part
from tests.benchmarks.gpu.run import LEFT, OK, SKIPPED, Record
from tests.benchmarks.report import table

HEADER = ("part", "figure", "found", "goal", "reached")
HOLDS, MISSED, UNFINISHED = 0, 1, 75


def markdown(document: Mapping[str, Any], parts: Sequence[Part]) -> str:
    """The machine in one line, and the table."""
    rows = [
        row for part in parts for row in rows_of(part, document["parts"].get(part.name, {"status": LEFT}), document)
    ]
    return f"{heading(document)}\n\n{table(HEADER, rows)}"


def heading(document: Mapping[str, Any]) -> str:
    """What the figures depend on."""
    said = "; ".join(f"{name} {value}" for name, value in document["machine"].items() if name != "device")
    if document["rehearsal"]:
        return f"**A rehearsal on the CPU with tiny models: no figure below says anything of a GPU.** {said}."
    if not document["parts"]:
        return "Not yet measured on a GPU."
    ended = max(record.get("ended", "") for record in document["parts"].values())
    code = " and ".join(sorted({record.get("code", "unknown") for record in document["parts"].values()}))
    return f"{document['machine']['device']}; {said}; code {code}; {ended.partition(' ')[0]}."


def rows_of(part: Part, record: Record, document: Mapping[str, Any]) -> Iterator[list[str]]:
    """The rows of a part: one for each figure that has a goal, and one for all others."""
    title = f"{part.name}: {part.about}"
    if record["status"] != OK:
        goals = "; ".join(f"{name}: {goal}" for name, goal in part.goals.items())
        why = f": {record['why']}" if record.get("why") else ""
        yield [title, "", clean(f"{record['status']}{why}"), goals, "" if record["status"] in (LEFT, SKIPPED) else "no"]
        return
    figures, rehearsal = record["figures"], document["rehearsal"]
    for name, goal in part.goals.items():
        if name in figures or not rehearsal:
            yield [
                title,
                name,
                shown(figures.get(name, "not found")),
                str(goal),
                reached(goal, figures.get(name), rehearsal),
            ]
            title = ""
    others = [f"{name} {shown(value)}" for name, value in figures.items() if name not in part.goals]
    others += [f"note: {note}" for note in record.get("notes", ())]
    if others:
        yield [title, "", clean("; ".join(others)), "", ""]


def reached(goal: Goal, value: Any, rehearsal: bool) -> str:
    """A word for the table."""
    if rehearsal and not goal.everywhere:
        return "not judged"
    return "no" if not goal.reached(value) else "yes, the aim too" if goal.aimed(value) else "yes"


def shown(value: Any) -> str:
    """A figure with three significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if 0.9 < abs(value) < 1:  # a cosine, an IoU
        return f"{value:.5f}".rstrip("0").rstrip(".")
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def clean(text: str) -> str:
    """For a cell of a table."""
    return " ".join(text.replace("|", "/").split())


def verdict(document: Mapping[str, Any], chosen: Sequence[Part], left: Collection[str] = ()) -> int:
    """Exit code: every goal of the chosen parts is reached, some are not, or some parts are not measured yet.

    Args:
        left: names of parts whose figures are of other code or libraries.
    """
    code = UNFINISHED if left else HOLDS
    for part in chosen:
        record = document["parts"].get(part.name, {"status": LEFT})
        if record["status"] == OK:
            found = record["figures"]
            words = [reached(goal, found.get(name), document["rehearsal"]) for name, goal in part.goals.items()]
            if "no" in words:
                return MISSED
        elif record["status"] == LEFT:
            code = UNFINISHED
        elif record["status"] != SKIPPED:
            return MISSED
    return code


def timed_lines(document: Mapping[str, Any], card: str) -> list[dict[str, Any]]:
    """Entries of ``timed`` in pipeline/scale/profiles.yaml: what was measured of each network on this card.

    Args:
        card: its key in ``cards``.
    """
    machine = document["machine"]
    return [
        {"card": card, **line, "source": f"make check-gpu on {machine['device']}, {record['ended'].partition(' ')[0]}"}
        for record in document["parts"].values()
        if record["status"] == OK
        for line in record.get("timed", ())
    ]
