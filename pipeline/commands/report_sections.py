"""The plots and tables of a split's page, from the figures to the words next to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.commands.evaluate import RESAMPLES, SEED
from pipeline.commands.normalize import heat_map, pictured
from pipeline.config import InputError, Settings
from pipeline.summary import report_folder
from stages.evaluate.metrics import Samples
from stages.evaluate.tables import TITLES, summarise
from stages.means import Embedded, embedded
from stages.names import SplitRef
from stages.report.page import Missing, Plot, Section, Table, data_uri
from stages.report.plots import Curve, iou_histograms, recall_curves, training_curves
from stages.report.recall import ORDERS, proposal_recall
from store import Split
from store.errors import StoreError

CURVES = ("loss", "learning_rate", "grad_norm")
"""The curves of DVCLive that are drawn."""
METRICS = ("miou_per_sample", "ciou", "giou_hull", "n_acc", "t_acc", "f1")
KEPT = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Values of K in the table of AR@K."""


def answers_section(systems: Mapping[str, Samples], place: str, files: dict[str, bytes]) -> Iterator[Section]:
    """Metrics and IoU histograms; nothing where nothing was scored. ``files`` gets the PNG, which is in ``place``."""
    if not any(len(samples) for samples in systems.values()):
        return
    found = summarise(systems, RESAMPLES, SEED)["all"]
    rows = [
        [name, *(metrics[metric].in_percent() if metric in metrics else "" for metric in METRICS)]
        for name, metrics in found.items()
    ]
    files["iou"] = iou_histograms(systems)
    means = "; ".join(f"{name}: mean {samples.iou.mean():.3f}" for name, samples in systems.items())
    plot = Plot(data_uri("png", files["iou"]), f"Histograms of the questions' IoU. {means}.", f"{place}/iou.png")
    text = [
        "In percent, with 95 % bootstrap intervals over images. The oracle knows the answer and takes the best single proposal, "
        "or refuses: the best that a system which chooses one proposal could reach. Baselines, short and long queries: "
        "python cli.py evaluate.",
        "IoU of a question whose answer is not in the image: 1 when nothing is predicted, else 0. Ignored pixels do not count.",
    ]
    yield Section("answers", "Answers", text, Table(["system", *(TITLES[metric] for metric in METRICS)], rows), [plot])


def recall_section(split: Split, embedded: int, place: str, files: dict[str, bytes]) -> Iterator[Section]:
    """AR@K of each proposer whose masks are open. ``embedded``: this many of the largest are candidates."""
    opened = {name: split.of_proposer(name) for name in split.proposers}
    recalls = {name: proposal_recall(each) for name, each in opened.items() if each.has("masks")}
    if not recalls:
        return
    instances, most = (max(getattr(recall, name) for recall in recalls.values()) for name in ("instances", "most"))
    if not instances:
        yield Section("proposals", "Proposals", ["The split has no annotated instances that proposals could find."])
        return
    kept = sorted({number for number in (*KEPT, embedded) if number < most} | {most})
    rows = [
        [proposer, name, *(f"{100 * recall.at(order, number):.1f}" for number in kept)]
        for proposer, recall in recalls.items()
        for order, name in ORDERS.items()
    ]
    text = [
        f"How many of the {instances} instances are found when each image keeps K proposals: recall, mean over the IoU "
        "thresholds 0.50:0.05:0.95 (COCO's AR@K), in percent. "
        f"No image has more than {most} proposals; "
        + (f"the {embedded} largest are embedded." if embedded < most else "all are embedded.")
    ]
    text += [
        f"{recall.without} instances are in images whose masks by {proposer} failed, and count as not found."
        for proposer, recall in recalls.items()
        if recall.without
    ]
    files["recall"] = recall_curves(recalls, embedded)
    alt = "AR@K against K: " + "; ".join(f"{row[0]}, {row[1]}: {row[-1]} % with all proposals" for row in rows)
    plot = Plot(data_uri("png", files["recall"]), alt, f"{place}/recall.png")
    yield Section(
        "proposals", "Proposals", text, Table(["proposer", "order", *(f"AR@{k}" for k in kept)], rows), [plot]
    )


def similarity_section(settings: Settings, split: SplitRef, missing: list[Missing]) -> Iterator[Section]:
    """The heat maps that ``normalize`` drew; what is not there is added to ``missing``. It draws no heat maps of borrowed masks."""
    if settings.holder(split.dataset) is not None:
        return
    folder = report_folder(settings, split.dataset)
    figures = folder / "normalize.json"
    known = json.loads(figures.read_text(encoding="utf-8")) if figures.is_file() else {}
    plots = []
    for mean, own in ((mean, own) for mean in settings.means for own in embedded(settings.of(split.dataset))):
        file = heat_map(mean, split.split, own.name)
        found = known.get(mean, {}).get(own.name, {}).get(split.split, {})
        why = "" if (folder / file).is_file() else "not drawn"
        if not why and found.get("of") != _pictured(settings, split, mean, own):
            why = "left out: drawn from other embeddings, or with another mean, than the store has now"
        if why:
            which = own.name if len(settings.means) == 1 else f"{own.name}, mean {mean}"
            missing.append(Missing(f"similarity of {which}", f"{why}; run: {settings.command('normalize')}"))
            continue
        told = ", ".join(
            f"mean pairwise cosine {found[when]:.3f} {when} centring" for when in ("before", "after") if when in found
        )
        alt = f"Cosines of the mask embeddings of {own.name} as embedded and minus the train mean {mean}. {told}"
        plots.append(Plot(data_uri("png", (folder / file).read_bytes()), alt, file))
    if plots:
        text = [
            "Cosine of every pair of mask embeddings, before and after the train mean is subtracted (python cli.py normalize)."
        ]
        yield Section("similarity", "Similarity of the masks", text, plots=plots)


def _pictured(settings: Settings, split: SplitRef, mean: str, own: Embedded) -> list[str] | None:
    try:
        return pictured(settings, split, mean, own)
    except (StoreError, InputError):
        return None


def training_section(folders: Mapping[str, Path], place: str, files: dict[str, bytes]) -> Iterator[Section]:
    """The curves of trainings. ``folders``: name of a run -> its folder."""
    curves: dict[str, dict[str, Curve]] = {}
    for name, folder in folders.items():
        found = {metric: _curve(folder / "curves/plots/metrics" / f"{metric}.tsv") for metric in CURVES}
        for metric, curve in found.items():
            if curve[0]:
                curves.setdefault(metric, {})[name] = curve
    if curves:
        ordered = {metric: curves[metric] for metric in CURVES if metric in curves}
        files["training"] = training_curves(ordered)
        ends = [f"{name} ends at {curve[1][-1]:.3g}" for name, curve in ordered.get("loss", {}).items()]
        alt = f"Training curves: {', '.join(ordered)}. Loss: {'; '.join(ends)}."
        text = ["Losses of different systems are sums of different parts and cannot be compared."]
        plot = Plot(data_uri("png", files["training"]), alt, f"{place}/training.png")
        yield Section("training", "Training", text, plots=[plot])


def _curve(path: Path) -> Curve:
    """Steps and values of one of DVCLive's tables; none where there is no file."""
    if not path.is_file():
        return [], []
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    whole = [row for row in rows if len(row) == 2 and all(row)]  # a run that was killed may leave half a line
    return [float(step) for step, _ in whole], [float(value) for _, value in whole]
