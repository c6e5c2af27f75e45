"""The last lines of a run, its metrics file for DVC, and its exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import ROOT, Settings
from pipeline.counted import next_to_published
from pipeline.errors import DONE, FAILURES, as_given
from pipeline.graph import EXTRACTED
from pipeline.tally import StageSummary
from pipeline.upstream import known_sources
from stages.names import SplitRef
from store.storage.files import make_folder
from store.storage.leftovers import replace_file


def finish(settings: Settings, summaries: Sequence[StageSummary], dry_run: bool = False) -> int:
    """Print a line per stage and split, write the metrics, return the exit code."""
    code = DONE
    for summary in summaries:
        print(as_given(_plan_line(settings, summary)) if dry_run else _line(settings, summary))
        sources = known_sources(settings, summary.split) if summary.first and summary.split else ()
        for reason, count in sorted(summary.failed.items()):
            path = sources[summary.first[reason]][1] if sources else ""
            where = "" if path.rpartition(".")[0] in reason else f" (first: {path})"
            print(f"  failed: {count} x {reason}{where}", file=sys.stderr)
        for line in _remarks(summary):
            print(f"  {line}", file=sys.stderr)
        indexed = summary.split if summary.stage == "index" and not dry_run else None
        if indexed is not None and (line := next_to_published(settings, indexed)):
            print(f"  {line}", file=sys.stderr)
        if not dry_run:
            write_metrics(settings, summary)
            if summary.failed_images > settings.run.max_failures:
                print(
                    f"{_what(summary)}: {summary.failed_images} images failed, more than run.max_failures "
                    f"({settings.run.max_failures}); repair them and run it again, or accept them: "
                    f"--set run.max_failures={summary.failed_images}",
                    file=sys.stderr,
                )
                code = FAILURES
    return code


def _remarks(summary: StageSummary) -> list[str]:
    """Remarks on what is not a failure but may be a mistake: a lost JSON, a file that is not read, text in another encoding."""
    lines = [f"noted: {count} x {note}" for note, count in sorted(summary.notes.items())]
    if summary.absent:
        lines.append(
            f"absent: {summary.absent} of {summary.images} images have no annotation; nothing is asked about them"
        )
    if summary.unlisted:
        lines.append(
            f"not listed: {summary.unlisted} of {summary.images} images, which the option `only` of the data set that holds the "
            "pictures leaves out"
        )
    if summary.unread:
        kinds = ", ".join(f"{count} x {kind}" for kind, count in summary.unread.items())
        lines.append(f"not read: {kinds} (in the split's folder, neither an image nor an annotation)")
    return lines


NO_METRICS = ("computed", "estimate", "todo", "replaces", "missing", "first")
"""Fields of a summary that are about one run, not about what the store holds."""


def write_metrics(settings: Settings, summary: StageSummary) -> None:
    """``<report_dir>/metrics/<stage>/<dataset>/<split>.json``: what went in, what came out, what failed and why.

    For a stage that reduces splits, ``metrics/<stage>.json``. The file changes with the columns, whose digests are in it, and with
    nothing else: of DVC's stages, those that read all data sets depend on these files. How long it took is in the shards' logs.
    """
    make_folder(metrics_folder(settings) / "evaluate")  # a dependency also where nothing is trained
    values = {key: value for key, value in asdict(summary).items() if key not in NO_METRICS}
    split = summary.split
    folder = metrics_folder(settings) if split is None else metrics_folder(settings) / summary.stage / split.dataset
    make_folder(folder)
    name = summary.stage if split is None else split.split
    write_report_file(folder / f"{name}.json", {**values, "split": None if split is None else str(split)})
    if summary.stage == "index":
        _note_images(settings, summary)


def only_holders(settings: Settings, splits: Sequence[SplitRef]) -> tuple[SplitRef, ...]:
    """Those of the splits that hold their images. For every data set, the folder that :func:`_note_images` writes to is made."""
    for dataset in dict.fromkeys(split.dataset for split in splits):
        make_folder(metrics_folder(settings) / HOLD / dataset)
    return tuple(split for split in splits if settings.holder(split.dataset) is None)


HOLD = "hold"
"""Folder of the metrics with a small file for each split that holds images: their digest. DVC orders what borrows them after it."""


def _note_images(settings: Settings, summary: StageSummary) -> None:
    if summary.split is not None and settings.holder(summary.split.dataset) is None:
        folder = metrics_folder(settings) / HOLD / summary.split.dataset
        make_folder(folder)
        write_report_file(folder / f"{summary.split.split}.json", {"images": summary.columns.get("images")})


def _what(summary: StageSummary) -> str:
    """Stage and split."""
    return summary.stage if summary.split is None else f"{summary.stage} {summary.split}"


def metrics_folder(settings: Settings) -> Path:
    """Where metrics are, by stage and data set."""
    return ROOT / settings.run.report_dir / "metrics"


def report_folder(settings: Settings, dataset: str) -> Path:
    """Where pages and pictures of a data set are: no two data sets share a file."""
    return ROOT / settings.run.report_dir / dataset


def write_report_file(path: Path, values: Any) -> None:
    """Write JSON as a new file: the old one may be a link into DVC's cache, whose bytes must stay."""
    replace_file(path, (json.dumps(values, indent=1, sort_keys=True) + "\n").encode())


def _line(settings: Settings, summary: StageSummary) -> str:
    if summary.split is not None and not summary.columns:
        holder = settings.holder(summary.split.dataset)
        return f"{_what(summary)}: nothing to compute" + (f"; its images are those of {holder}" if holder else "")
    entries = ", ".join(f"{count} {name}" for name, count in summary.vectors.items())
    parts = "columns" if summary.split is None else "shards"
    work = f"{summary.computed} of {summary.shards} {parts} computed" if summary.computed else "up to date"
    images = "" if summary.split is None else f"{summary.images} images; "
    return f"{_what(summary)}: {work}; {images}{entries}"


def _plan_line(settings: Settings, summary: StageSummary) -> str:
    if not summary.todo:
        return _line(settings, summary) if not summary.columns else f"{_what(summary)}: up to date"
    lines = [
        f"{_what(summary)}: would compute "
        + (name if summary.split is None else f"{len(shards)} of {summary.shards} shards of {name}")
        for name, shards in summary.todo.items()
    ]
    if summary.stage not in EXTRACTED or summary.split is None:
        return "\n".join(lines if summary.estimate is None else [*lines, f"  {_cost('', summary)}"])
    where = f"{settings.options(summary.split)} --stage {summary.stage}"
    lines += [
        f"  would replace {line}; this takes --replace: python cli.py extract {where} --replace"
        for line in summary.replaces
    ]
    lines += [f"  weights are missing: {line}" for line in summary.missing]
    return "\n".join([*lines, f"  {_cost(where, summary)}"])


def _cost(where: str, summary: StageSummary) -> str:
    found = summary.estimate
    if found is None:
        return (
            "how long is not known, as nothing like it was computed yet; to measure it on a first shard, which is kept: "
            f"python cli.py extract {where} --limit 1" + (" --replace" if summary.replaces else "")
        )
    minutes, seconds = divmod(round(found.seconds), 60)
    hours, minutes = divmod(minutes, 60)
    length = (
        f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{found.seconds:.1f} s"
    )
    memory = "" if found.gpu_bytes is None else f", {found.gpu_bytes / 1e9:.1f} GB of the GPU's memory"
    return (
        f"about {length} for one worker ({found.seconds_per_image:.3f} s per image, measured on {found.measured} images), "
        f"{found.bytes / 1e6:.1f} MB on disk{memory}"
    )
