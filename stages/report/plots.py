"""Plots of a split, each a PNG file as bytes; the same figures give the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stages.evaluate.metrics import Samples
from stages.report.recall import ORDERS, Recall

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""

_BINS = np.linspace(0, 1, 11)
_TITLE_LETTERS = 30
"""Number of letters of a title that fit above a histogram."""


def iou_histograms(systems: Mapping[str, Samples]) -> bytes:
    """Histograms of each system's IoU over the questions, with questions that have no answer in the image shown separately."""
    columns = min(4, len(systems))
    rows = -(-len(systems) // columns)
    figure = _figure(3.2 * columns, 2.6 * rows + 0.4)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axis, (name, samples) in zip(axes, systems.items(), strict=False):
        parts = [samples.iou[samples.exists], samples.iou[~samples.exists]]
        axis.hist(
            parts, _BINS, stacked=True, color=["#3b6fb6", "#e08a1e"], label=["something is there", "nothing is there"]
        )
        mean = f"mean {samples.iou.mean():.3f}" if len(samples) else "no questions"
        axis.set(title=f"{textwrap.fill(name, _TITLE_LETTERS)}\n{mean}", xlabel="IoU", xlim=(0, 1))
        axis.title.set_size("medium")
    for axis in axes[len(systems) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("questions")
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
    return _png(figure)


def recall_curves(recalls: Mapping[str, Recall], embedded: int) -> bytes:
    """AR@K against K of each proposer, in both orders of its masks. ``embedded``: number of the largest masks that are embedded."""
    figure = _figure(8.4, 3.8)
    axis = figure.subplots()
    most = max(recall.most for recall in recalls.values())
    for number, (proposer, recall) in enumerate(recalls.items()):
        kept = np.arange(1, recall.most + 1)
        for (order, name), style in zip(ORDERS.items(), ("-", "--"), strict=True):
            label = f"{proposer}, {name}"
            axis.plot(
                kept, recall.average[order], style, color=f"C{number}", marker="." if most < 3 else None, label=label
            )
    if embedded < most:
        axis.axvline(embedded, color="gray", linewidth=1, label=f"embedded: the {embedded} largest")
    axis.set(xlabel="K, proposals kept of each image", ylabel="AR@K", ylim=(0, 1), xlim=(1, max(2, most)))
    if most > 10:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_title("Average recall of the instances, IoU 0.50:0.05:0.95", size="medium")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)  # inside the axes it would cover the curves
    return _png(figure)


def training_curves(curves: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """A plot per metric, from metric -> run -> curve; a run keeps its colour. Losses of different systems have different parts."""
    runs = list(dict.fromkeys(run for of_run in curves.values() for run in of_run))
    figure = _figure(4.2 * len(curves) + 1.4, 3.2)
    lines: dict[str, Any] = {}
    for axis, (metric, of_run) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
        for run, (steps, values) in of_run.items():
            how = {"color": f"C{runs.index(run)}", "marker": "." if len(steps) < 3 else None}
            (lines[run],) = axis.plot(steps, values, **how)
        axis.set(xlabel="step", yscale="log" if _all_positive(of_run) and metric == "loss" else "linear")
        axis.set_title(metric.replace("_", " "), size="medium")
        axis.grid(alpha=0.3)
    figure.legend([lines[run] for run in runs], runs, loc="outside right upper", frameon=False)
    return _png(figure)


def _all_positive(of_run: Mapping[str, Curve]) -> bool:
    return all(value > 0 for _, values in of_run.values() for value in values)


def _figure(width_inch: float, height_inch: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inch, height_inch), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
