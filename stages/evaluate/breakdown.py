"""Figures by the size of the target, by the number of its instances and by the kind of question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.metrics import METRICS, Samples
from stages.evaluate.protocol_figures import figures_of
from stages.evaluate.tables import TITLES, Estimate, Results, as_text, estimates, line

SMALL_PX, MEDIUM_PX = 32**2, 96**2
"""COCO's sizes: below the first a target is small, below the second medium."""
MAIN = ("miou_per_sample", "ciou")
"""The common figures that are broken down; for a protocol, its first two figures."""

Groups = dict[str, NDArray[np.bool_]]


def breakdowns(
    systems: Mapping[str, Samples],
    kinds: Sequence[str],
    resamples: int,
    seed: int,
    protocol: str | None = None,
) -> dict[str, Results]:
    """Title of the breakdown -> group -> system -> figure; only breakdowns with samples in at least two groups.

    Args:
        kinds: names, numbered by ``Samples.kind``.
        protocol: None: the common figures.
    """
    known = METRICS if protocol is None else figures_of(protocol)
    main = {name: known[name] for name in (MAIN if protocol is None else tuple(known)[:2])}
    found: dict[str, dict[str, dict[str, dict[str, Estimate]]]] = {}
    for system, samples in systems.items():
        for title, groups in groups_of(samples, kinds):
            there = {name: rows for name, rows in groups.items() if rows.any()}
            if len(there) > 1:
                of_title = found.setdefault(title, {})
                for name, rows in there.items():
                    of_title.setdefault(name, {})[system] = estimates(samples.where(rows), main, resamples, seed)
    return dict(found)


def groups_of(samples: Samples, kinds: Sequence[str]) -> Iterator[tuple[str, Groups]]:
    """Title -> group -> which samples belong to it. A target without pixels has no size group, one without instances no number."""
    area, count = samples.area_px, samples.instances
    yield (
        "size of the target",
        {
            "small (below 32 x 32 px)": (area > 0) & (area < SMALL_PX),
            "medium (below 96 x 96 px)": (area >= SMALL_PX) & (area < MEDIUM_PX),
            "large": area >= MEDIUM_PX,
        },
    )
    yield "number of instances", {"1": count == 1, "2": count == 2, "3 and more": count > 2}
    yield "kind of question", {kind: samples.kind == number for number, kind in enumerate(kinds)}


def as_markdown(found: Mapping[str, Results]) -> str:
    """One table for each breakdown, a row for each group and system."""
    lines: list[str] = []
    for title, groups in found.items():
        names = dict.fromkeys(name for systems in groups.values() for own in systems.values() for name in own)
        lines += [f"## By {title}", ""]
        lines += [line([title, "system", "questions", *(TITLES[name] for name in names)])]
        lines += [line(["---", "---", "---:", *("---:" for _ in names)])]
        for group, systems in groups.items():
            for system, own in systems.items():
                count = max((estimate.samples for estimate in own.values()), default=0)
                cells = (own[name].in_percent() if name in own else "" for name in names)
                lines.append(line([as_text(group), as_text(system), str(count), *cells]))
        lines.append("")
    return "\n".join(lines)
