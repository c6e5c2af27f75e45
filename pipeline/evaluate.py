"""Scores a file of predictions on a split of the store, with the baselines and the papers' figures beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.summary import write_report_file
from stages.evaluate.cases import without_annotation
from stages.evaluate.imported import import_predictions
from stages.evaluate.predictions import Meta, Prediction, PredictionError, read
from stages.evaluate.published import MARK, datasets, published
from stages.evaluate.score import BASELINE_NAMES, MISSING, score
from stages.evaluate.tables import as_json, as_markdown, summarise
from store import Split, open_split
from store.files import make_folder

COLUMNS = ("images", "instances", "targets", "masks", "match/instances")
RESAMPLES, SEED = 1000, 0


def evaluate_command(
    settings: Settings, split: str, predictions_path: Path, missing: str = "error", beside: Sequence[Path] = ()
) -> tuple[str, dict[str, Any]]:
    """Score predictions: ours (``.parquet``) or anyone's (``.json``, ``.jsonl``, or a folder of PNGs).

    Candidates are the largest ``masks.max_masks`` proposals of an image, those that are embedded.

    Args:
        split: the one the predictions are for.
        missing: ``error``, or ``empty`` to score a question without prediction as rejected.
        beside: further predictions for the same questions, in rows of their own.

    Returns:
        The report in Markdown, and the figures, 0 to 1, as a JSON value.

    Raises:
        InputError: there are no such predictions, they are malformed, or not for this split.
        StoreError: the split is not in the store, or unfinished.
    """
    settings.check_split(split)
    if missing not in MISSING:
        raise InputError(f"--missing: found {missing!r}, expected one of {', '.join(MISSING)}")
    if not predictions_path.exists():
        raise InputError(f"--predictions: no such file or folder: {predictions_path}")
    opened = open_split(settings.store_path, settings.dataset, split, columns=COLUMNS)
    try:
        meta, predictions = load_predictions(predictions_path, opened, settings.dataset, split)
        others = [load_predictions(other, opened, settings.dataset, split) for other in beside]
        scores = score(
            opened,
            predictions,
            system=meta.system,
            setting=meta.setting,
            top_k=settings.masks.max_masks,
            missing=missing,
            baselines=BASELINE_NAMES,
            beside={about.system: found for about, found in others},
            seed=SEED,
            progress=True,
        )
    except PredictionError as error:
        raise InputError(str(error)) from error
    results = summarise(scores.systems, RESAMPLES, SEED)
    quoted = published(settings.dataset, split)
    count = len(scores.systems[meta.system])
    lines = [
        f"# {meta.system} on {settings.dataset}, {split}",
        "",
        f"{count} questions, {meta.mode.replace('_', '-')}, candidates: {meta.setting}. In percent, with 95 % bootstrap intervals "
        "over images. Oracles know the answer; what a system does not say is left blank.",
        "",
    ]
    lines += [f"- {scores.missing} of them had no prediction and count as rejected."] * bool(scores.missing)
    absent = without_annotation(opened)
    left_out = {image_id: reason for image_id, reason in scores.skipped.items() if image_id not in absent}
    lines += [f"- Left out: {image_id}: {reason}" for image_id, reason in left_out.items()]
    lines += [f"- {len(absent)} images have no annotation: nothing is asked about them."] * bool(absent)
    if not quoted:
        lines.append(f"- No {MARK} figures for this split; there are some for {', '.join(datasets())}.")
    markdown = "\n".join([*lines, "", as_markdown(results, quoted)])
    figures = {
        "system": meta.system,
        "dataset": settings.dataset,
        "split": split,
        "mode": meta.mode,
        "setting": meta.setting,
        "questions": count,
        "missing": scores.missing,
        "skipped": len(left_out),
        "absent": len(absent),
        "groups": as_json(results),
    }
    return markdown, figures


def keep_report(settings: Settings, markdown: str, figures: Mapping[str, Any]) -> None:
    """Write the figures (a DVC metric) and the table into the report folder."""
    folder, name = ROOT / settings.run.report_dir, f"{figures['system']}-{figures['split']}"
    page = folder / "evaluate" / f"{name}.md"
    for place in (folder / "metrics", page.parent):
        make_folder(place)
    write_report_file(folder / "metrics" / f"evaluate-{name}.json", figures)
    page.unlink(missing_ok=True)  # it may be a hard link into DVC's cache
    page.write_text(markdown + "\n", encoding="utf-8")


def load_predictions(path: Path, opened: Split, dataset: str, split: str) -> tuple[Meta, list[Prediction]]:
    """Read ours (``.parquet``) or anyone's; PredictionError where they are malformed or of another split."""
    if path.suffix != ".parquet":
        # Nobody's system gets the answer in its input, unless it says so.
        return Meta(path.stem, dataset, split), import_predictions(path, opened)
    meta, predictions = read(path)
    if (meta.dataset, meta.split) != (dataset, split):
        raise PredictionError(f"{path}: predictions are for {meta.dataset}/{meta.split}, expected {dataset}/{split}")
    return meta, predictions
