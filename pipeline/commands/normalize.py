"""The verb ``normalize``: the train means, the centred columns of every split, and the similarity report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.compute import compute_stage
from pipeline.config import Settings
from pipeline.executors import Executor
from pipeline.look import Look
from pipeline.plan import plan_reduction, plan_stages
from pipeline.preflight import require_upstream, require_writable
from pipeline.reduce import reduce_stage
from pipeline.summary import report_folder, write_report_file
from pipeline.tally import StageSummary
from pipeline.trained import open_mean
from pipeline.upstream import place_of
from stages.center import center
from stages.means import Embedded, embedded, mean_column
from stages.names import SplitRef
from stages.report.choose import spread
from stages.report.similarity import cosines, draw_heat_maps, mean_pairwise
from stages.train.run_digest import column_digest
from store.format.schema import OK
from store.read.column import open_column
from store.storage.files import make_folder

STAGES = ("means", "center")
"""Values of ``normalize --stage``, in the order they run."""


def run_normalize(
    settings: Settings,
    executor: Executor,
    stages: Sequence[str] = STAGES,
    splits: Sequence[SplitRef] | None = None,
    dry_run: bool = False,
) -> list[StageSummary]:
    """Bring means and centred columns up to date, then write the report (with stage ``center``).

    Args:
        stages: ``means``, ``center``, or both.
        splits: those to centre; default: all.

    Raises:
        InputError: embeddings of a split are not finished; the message names the command.
    """
    splits = settings.splits if splits is None else splits
    if not dry_run:
        _look_ahead(settings, stages, splits)
    summaries = []
    if "means" in stages:
        summaries.append(reduce_stage(settings, "means", executor, dry_run=dry_run))
    if "center" in stages:
        summaries += [
            compute_stage(settings, "center", split, executor, dry_run=dry_run, replace=True) for split in splits
        ]
        if not dry_run:
            write_report(settings, splits)
    return summaries


def _look_ahead(settings: Settings, stages: Sequence[str], splits: Sequence[SplitRef]) -> None:
    """Before the first mean is written, check permissions, and that its embeddings and those of every split are done."""
    look = Look(settings)
    means = plan_reduction(settings, "means", look=look) if "means" in stages else []
    missing = [plan for plan in means if plan.todo]
    require_upstream(look, means, None, {0: [plan.spec.name for plan in means]})
    require_writable(*(plan.folder for plan in missing))
    for split in splits if "center" in stages else ():
        plans = plan_stages(settings, ("center",), split, look)
        names = [plan.spec.name for plan in plans]
        shards = range(max((plan.meta.shards for plan in plans), default=0))
        require_upstream(
            look, plans, split, dict.fromkeys(shards, names), [(plan.spec.name, None, 0) for plan in means]
        )
        require_writable(*(plan.folder for plan in plans if plan.todo or not plan.begun or missing))
    if "center" in stages:
        require_writable(*(report_folder(settings, dataset) for dataset in dict.fromkeys(s.dataset for s in splits)))


def write_report(settings: Settings, splits: Sequence[SplitRef]) -> dict[str, Any]:
    """Write ``normalize.json`` and ``similarity/<mean>/<split>-<encoder>.png`` below the report's folder of each data set.

    Returns:
        For each data set, the figures by mean, encoder and split, with digests of the mean and the embeddings that they describe
        (:func:`pictured`).
    """
    return {name: _write_report(settings, name) for name in dict.fromkeys(split.dataset for split in splits)}


def _write_report(settings: Settings, dataset: str) -> dict[str, Any]:
    folder = report_folder(settings, dataset)
    figures: dict[str, Any] = {}
    for mean in settings.means:
        for own in embedded(settings.of(dataset)):
            figures.setdefault(mean, {})[own.name] = _figures(settings, dataset, mean, own)
    make_folder(folder / "similarity")
    write_report_file(folder / "normalize.json", figures)
    return figures


def _figures(settings: Settings, dataset: str, mean: str, own: Embedded) -> dict[str, Any]:
    """The mean's figures and those of each split of a data set that holds its images; draws the heat maps."""
    column = open_mean(settings, mean_column(mean, own.name))
    (commit,) = column.commits
    assert commit is not None
    found: dict[str, Any] = {"vectors": commit.extra["count"], "norm": round(commit.extra["norm"], 6)}
    for split in settings.select(data=[dataset]) if settings.holder(dataset) is None else ():
        vectors = sampled_vectors(settings, split, own.masks.name)
        if len(vectors) < 2:
            found[split.split] = {"vectors": len(vectors)}
            continue
        before, after = cosines(vectors), cosines(center(vectors, column.array(0)))
        found[split.split] = {
            "before": round(mean_pairwise(before), 4),
            "after": round(mean_pairwise(after), 4),
            "of": pictured(settings, split, mean, own),
        }
        title = f"{dataset} {split.split}, {own.name}, mean {mean}: {len(vectors)} mask embeddings"
        place = report_folder(settings, dataset) / heat_map(mean, split.split, own.name)
        draw_heat_maps(before, after, title, place)
    return found


def heat_map(mean: str, split: str, encoder: str) -> str:
    """The picture of a split's similarity, below the report's folder of the data set."""
    return f"similarity/{mean}/{split}-{encoder.replace('/', '-')}.png"


def pictured(settings: Settings, split: SplitRef, mean: str, own: Embedded) -> list[str]:
    """Digests of the embeddings and the mean that a heat map is of."""
    vectors = open_column(settings.store_path, place_of(settings, split, own.masks.name))
    return [column_digest(vectors), column_digest(open_mean(settings, mean_column(mean, own.name)))]


def sampled_vectors(settings: Settings, split: SplitRef, name: str) -> Any:
    """At most ``report.similarity_vectors`` mask embeddings of a split's column, evenly spread: float64 [n, D]."""
    column = open_column(settings.store_path, place_of(settings, split, name))
    counts = np.concatenate(
        [np.where(np.array(commit.status) == OK, commit.counts, 0) for commit in column.commits if commit is not None]
    )
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return np.empty((0, 1))
    chosen = spread(int(ends[-1]), settings.report.similarity_vectors)
    images = np.searchsorted(ends, chosen, side="right")
    read = {image: column.array(int(image)) for image in np.unique(images)}
    rows = chosen - (ends - counts)[images]
    return np.stack([read[image][row] for image, row in zip(images, rows, strict=True)]).astype(np.float64)
