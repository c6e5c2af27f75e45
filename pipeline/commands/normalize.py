"""The stage ``normalize``: means, centred columns of every split, and the similarity report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.compute import compute_stage
from pipeline.config import Settings
from pipeline.executors import Executor
from pipeline.means import make_mean, mean_state, open_mean, require_embeddings
from pipeline.plan import DONE, ColumnPlan, place_of, plan_stages
from pipeline.preflight import require_upstream, require_writable
from pipeline.summary import report_folder, write_report_file
from pipeline.tally import StageSummary
from stages.names import SplitRef
from stages.normalize import center
from stages.report.choose import spread
from stages.report.similarity import cosines, draw_heat_maps, mean_pairwise
from stages.train.run_digest import column_digest
from store.format.schema import OK
from store.read.column import open_column
from store.storage.files import make_folder

STAGES = ("means", "center")
"""Values of ``--stage``."""


def run_normalize(
    settings: Settings,
    executor: Executor,
    dry_run: bool = False,
    stages: Sequence[str] = STAGES,
    splits: Sequence[SplitRef] | None = None,
) -> list[StageSummary]:
    """Bring means and centred columns up to date, then write the report.

    Args:
        stages: ``means``, ``center``, or both.
        splits: those to centre; default: all.

    Raises:
        InputError: embeddings of a train split are not finished; the message names the command.
    """
    splits = settings.splits if splits is None else splits
    if not dry_run:
        _look_ahead(settings, splits if "center" in stages else ())
    if not dry_run and "means" in stages:
        for encoder in settings.embed.mask_encoders:
            require_embeddings(settings, encoder)
        for encoder in settings.embed.mask_encoders:
            make_mean(settings, encoder, executor)
        make_folder(settings.store_path / "means")
    summaries = [
        compute_stage(settings, "normalize", split, executor, dry_run=dry_run, replace=True)
        for split in (splits if "center" in stages else ())
    ]
    if not dry_run and "center" in stages:
        write_report(settings, splits)
    return summaries


def _look_ahead(settings: Settings, splits: Sequence[SplitRef]) -> None:
    """Before the first mean is written: embeddings of the splits, of the train splits all of them, and permissions."""
    made = all(mean_state(settings, encoder) == DONE for encoder in settings.embed.mask_encoders)
    for split in splits:
        plans = plan_stages(settings, ("normalize",), split)
        require_upstream(
            settings, plans, split, {shard: [p.spec.name for p in plans] for shard in range(_shards(plans))}
        )
        require_writable(*(plan.folder for plan in plans if plan.todo or not plan.begun or not made))
    require_writable(*(() if made else (settings.store_path / "means",)))
    require_writable(*(report_folder(settings, dataset) for dataset in settings.data))


def _shards(plans: Sequence[ColumnPlan]) -> int:
    return max((plan.meta.shards for plan in plans), default=0)


def write_report(settings: Settings, splits: Sequence[SplitRef]) -> dict[str, Any]:
    """Write ``normalize.json`` and ``similarity/<split>-<encoder>.png`` below the report's folder of each data set.

    Returns:
        By data set the figures, with digests of the mean and the embeddings that they are of (:func:`pictured`).
    """
    datasets = dict.fromkeys(split.dataset for split in splits)
    return {dataset: _write_report(settings, dataset) for dataset in datasets}


def _write_report(settings: Settings, dataset: str) -> dict[str, Any]:
    folder = report_folder(settings, dataset)
    figures: dict[str, Any] = {}
    make_folder(folder / "similarity")
    for encoder in settings.embed.mask_encoders:
        mean = open_mean(settings, encoder)
        commit = mean.commits[0]
        assert commit is not None
        entry: dict[str, Any] = {"vectors": commit.extra["count"], "norm": round(commit.extra["norm"], 6)}
        for split in settings.select(data=[dataset]):
            name = split.split
            vectors = sampled_vectors(settings, split, encoder)
            if len(vectors) < 2:
                entry[name] = {"vectors": len(vectors)}
                continue
            before, after = cosines(vectors), cosines(center(vectors, mean.array(0)))
            entry[name] = {"before": round(mean_pairwise(before), 4), "after": round(mean_pairwise(after), 4)}
            title = f"{dataset} {name}, {encoder}: {len(vectors)} mask embeddings"
            entry[name]["of"] = pictured(settings, split, encoder)
            draw_heat_maps(before, after, title, folder / "similarity" / f"{name}-{encoder}.png")
        figures[encoder] = entry
    write_report_file(folder / "normalize.json", figures)
    return figures


def pictured(settings: Settings, split: SplitRef, encoder: str) -> list[str]:
    """Digests of the embeddings and the mean that a heat map is of."""
    place = place_of(settings, split, f"mask_embeddings/{encoder}")
    return [column_digest(open_column(settings.store_path, place)), column_digest(open_mean(settings, encoder))]


def sampled_vectors(settings: Settings, split: SplitRef, encoder: str) -> Any:
    """At most ``normalize.report_vectors`` mask embeddings of a split, evenly spread: float64 [n, D]."""
    column = open_column(settings.store_path, place_of(settings, split, f"mask_embeddings/{encoder}"))
    counts = np.concatenate(
        [np.where(np.array(commit.status) == OK, commit.counts, 0) for commit in column.commits if commit is not None]
    )
    ends = np.cumsum(counts)
    if not len(ends) or not ends[-1]:
        return np.empty((0, 1))
    chosen = spread(int(ends[-1]), settings.normalize.report_vectors)
    images = np.searchsorted(ends, chosen, side="right")
    read = {image: column.array(int(image)) for image in np.unique(images)}
    rows = chosen - (ends - counts)[images]
    return np.stack([read[image][row] for image, row in zip(images, rows, strict=True)]).astype(np.float64)
