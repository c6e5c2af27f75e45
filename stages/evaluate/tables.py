"""Results as Markdown for people and as numbers for DVC: all targets, short and long queries, existing and empty targets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.bootstrap import interval, replicates
from stages.evaluate.metrics import METRICS, Samples, Sums, value
from stages.evaluate.protocol_figures import figures_of, headings
from stages.evaluate.protocols import PROTOCOLS
from stages.evaluate.published import MARK, Published

GROUPS: Mapping[str, tuple[str, Callable[[Samples], NDArray[np.bool_]]]] = MappingProxyType(
    {
        "all": ("All targets", lambda samples: np.ones(len(samples), bool)),
        "short": ("Short queries", lambda samples: ~samples.is_sentence),
        "long": ("Long queries", lambda samples: samples.is_sentence),
        "existing": ("Existing targets", lambda samples: samples.exists),
        "empty": ("Empty targets", lambda samples: ~samples.exists),
    }
)
"""Name -> title and which samples belong to it."""

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "miou_per_sample": "mean IoU (LISA's gIoU)",
        "ciou": "cIoU",
        "nciou": "ncIoU",
        "giou_hull": "hull gIoU",
        "n_acc": "N-acc",
        "t_acc": "T-acc",
        "refusal": "mean of N-acc and T-acc",
        "see": "existence accuracy (see)",
        "said_rej": "said [REJ]",
        "precision": "precision",
        "recall": "recall",
        "f1": "F1",
        "accuracy": "accuracy",
        **{
            f"elisa_{name}": f"elisa_{name}"
            for name in ("ciou", "giou", "iou", "precision", "recall", "f1", "accuracy")
        },
        **headings(),
    }
)
"""Metric -> heading of its column, in the order of the tables."""

_TABLES = (
    ("Segmentation", ("miou_per_sample", "ciou", "nciou", "giou_hull")),
    ("Existence, by the mask", ("n_acc", "t_acc", "refusal", "see", "said_rej")),
    ("Selection", ("precision", "recall", "f1", "accuracy")),
    ("Segmentation as ELISA's released code computes it", ("elisa_ciou", "elisa_giou", "elisa_iou")),
    (
        "Selection as ELISA's released code computes it",
        ("elisa_precision", "elisa_recall", "elisa_f1", "elisa_accuracy"),
    ),
    *(
        (f"Protocol {name}, as {protocol.source} computes it", tuple(figures_of(name)))
        for name, protocol in PROTOCOLS.items()
    ),
)

Results = Mapping[str, Mapping[str, Mapping[str, "Estimate"]]]
"""Group -> system -> metric -> estimate; groups without samples and metrics that a system lacks are not there."""


def summarise(systems: Mapping[str, Samples], resamples: int, seed: int, protocol: str | None = None) -> Results:
    """Every metric of every system and group, with its 95 % bootstrap interval over images.

    With a protocol, its figures; groups that contain all samples are left out.
    """
    figures = METRICS if protocol is None else figures_of(protocol)
    results: dict[str, dict[str, dict[str, Estimate]]] = {}
    for group, (_, belongs) in GROUPS.items():
        for system, samples in systems.items():
            rows = samples.where(belongs(samples))
            is_all = protocol is not None and group != "all" and len(rows) == len(samples)
            if len(rows) and not is_all:
                results.setdefault(group, {})[system] = estimates(rows, figures, resamples, seed)
    return results


def estimates(
    samples: Samples, figures: Mapping[str, Callable[[Samples], Sums]], resamples: int, seed: int
) -> dict[str, Estimate]:
    """The figures that can be computed from the samples, with their intervals."""
    sums = {name: figure(samples) for name, figure in figures.items()}
    sums = {name: parts for name, parts in sums.items() if parts[1].any()}
    if not sums:
        return {}
    numerator, denominator = (np.stack([parts[k] for parts in sums.values()], axis=1) for k in (0, 1))
    drawn = replicates(numerator, denominator, samples.image_index, resamples, seed)
    found = {
        # A denominator in pixels is not a number of samples.
        name: Estimate(value(parts), *interval(drawn[:, column]), int((parts[1] > 0).sum()))
        for column, (name, parts) in enumerate(sums.items())
    }
    if "n_acc" in found and "t_acc" in found:
        both = [list(sums).index(name) for name in ("n_acc", "t_acc")]
        mean = (found["n_acc"].value + found["t_acc"].value) / 2
        low, high = interval(drawn[:, both].mean(axis=1))
        found["refusal"] = Estimate(mean, low, high, found["n_acc"].samples + found["t_acc"].samples)
    return {name: found[name] for name in TITLES if name in found}


def as_json(results: Results) -> dict[str, Any]:
    """The figures of :func:`summarise` as nested numbers, 0 to 1: ``[group][system][metric]`` -> value, low, high, samples."""
    return {
        group: {
            system: {
                metric: {
                    **{key: _number(getattr(found, key)) for key in ("value", "low", "high")},
                    "samples": found.samples,
                }
                for metric, found in metrics.items()
            }
            for system, metrics in systems.items()
        }
        for group, systems in results.items()
    }


def as_markdown(results: Results, quoted: Sequence[Published] = ()) -> str:
    """The figures as Markdown tables, in percent with 95 % intervals; ``quoted`` rows come below, marked as published."""
    lines: list[str] = []
    for group, systems in results.items():
        lines += [f"## {GROUPS[group][0]}", ""]
        own_quotes = [row for row in quoted if row.group == group]
        for title, metrics in _TABLES:
            # A figure that does not apply to a group, such as T-acc of empty targets, is in no system's metrics.
            shown = [name for name in metrics if any(name in found for found in systems.values())]
            # A paper may print figures that no system has here, such as those of choosing among annotated instances.
            shown = shown or [name for name in metrics if any(name in row.percent for row in own_quotes)]
            if shown:
                lines += [f"### {title}", "", *_table(shown, systems, own_quotes), ""]
    return "\n".join(lines)


def _table(shown: list[str], systems: Mapping[str, Mapping[str, Estimate]], quoted: list[Published]) -> list[str]:
    lines = [line(["system", *(TITLES[name] for name in shown)]), line(["---", *("---:" for _ in shown)])]
    for system, found in systems.items():
        if any(name in found for name in shown):
            lines.append(
                line([as_text(system), *(found[name].in_percent() if name in found else "" for name in shown)])
            )
    for row in quoted:
        if any(name in row.percent for name in shown):
            where = ", ".join(part for part in (row.source, row.setting) if part)
            cells = (f"{row.percent[name]:g}" if name in row.percent else "" for name in shown)
            lines.append(line([as_text(f"{row.system} ({MARK}: {where})"), *cells]))
    return lines


def line(cells: Iterable[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def as_text(name: str) -> str:
    """A name escaped for Markdown, so that it is shown letter by letter: nothing in it makes a cell, a line, a tag or emphasis."""
    return re.sub(r"[\\`*<|\[]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", one_line(name))


def one_line(text: str) -> str:
    """A text as one line, without unprintable characters."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))


def _number(figure: float) -> float | None:
    return None if math.isnan(figure) else round(figure, 6)


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % interval; ``samples``: how many count in it."""

    value: float
    low: float
    high: float
    samples: int

    def in_percent(self) -> str:
        """``52.3 [48.1, 56.0]``."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"
