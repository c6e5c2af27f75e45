"""Scores a file of predictions on a split of the store, with baselines and the papers' figures next to it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.commands.evaluate_input import (
    load_predictions,
    open_for_choices,
    proposer_of,
    with_names_of_their_own,
)
from pipeline.commands.evaluate_notes import WITHOUT_MASKS, of_answers, of_images, of_protocol
from pipeline.config import InputError, Settings
from pipeline.external import keep, require_free
from pipeline.summary import metrics_folder, report_folder, write_report_file
from pipeline.unlisted import require_listed
from stages.evaluate.breakdown import as_markdown as breakdowns_as_markdown
from stages.evaluate.breakdown import breakdowns
from stages.evaluate.cases import without_annotation
from stages.evaluate.protocols import PROTOCOLS, Texts, usual_of
from stages.evaluate.published import MARK, Published, datasets, published
from stages.evaluate.score import BASELINE_NAMES, MISSING, score
from stages.evaluate.tables import as_json, as_markdown, as_text, summarise
from stages.names import SplitRef, did_you_mean
from stages.nearby import meant_file
from stages.predictions import TEXTS, PredictionError
from store.storage.files import make_folder

RESAMPLES, SEED = 1000, 0


def evaluate_command(
    settings: Settings,
    split: SplitRef,
    predictions_path: Path,
    missing: str = "error",
    further: Sequence[Path] = (),
    threshold: int | None = None,
    protocol: str | None = None,
    texts: str | None = None,
    baselines: bool = True,
    keep_as: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Score predictions: ours (``.parquet``) or anyone's (``.json``, ``.jsonl``, or a folder of PNGs).

    Candidates are the largest ``embed.max_masks`` proposals of an image, those that are embedded. Where there are no proposals,
    what needs them is left out and named: baselines, oracles, and how well a system chose.

    Args:
        split: the one the predictions are for.
        missing: ``error``, or ``empty`` to score a question without prediction as rejected.
        further: other predictions for the same questions, in rows of their own.
        threshold: grey values of PNGs from here on are the mask.
        protocol: None, or a name of ``PROTOCOLS``: scored by its rules (:mod:`stages.evaluate.protocols`), and by no others.
        texts: which texts of each target are asked; None: those of the protocol, or else those that there are answers to.
        baselines: also score those.
        keep_as: the name under which the predictions are kept (:mod:`pipeline.external`), and which tables show; None: they are
            not.

    Returns:
        The report in Markdown, and the figures, 0 to 1, as a JSON value.

    Raises:
        InputError: there are no such predictions, they are malformed, or not for this split, or the split has no questions.
        StoreError: the split is not in the store, or unfinished.
    """
    check_options(missing, protocol, threshold, texts)
    if not predictions_path.exists():
        raise InputError(f"--predictions: no such file or folder: {predictions_path}{meant_file(predictions_path)}")
    if keep_as is not None:
        require_free(settings, keep_as, split, predictions_path)
    require_listed(settings, [split])
    proposer = proposer_of(settings, (predictions_path, *further))
    opened, without_masks = open_for_choices(settings, split, proposer)
    texts = texts or texts_of(settings, split, protocol)
    unasked: dict[str, int] = {}
    how: dict[str, Any] = {"threshold": threshold, "protocol": protocol, "unasked": unasked}
    names = WITHOUT_MASKS if without_masks else BASELINE_NAMES
    try:
        loaded = [load_predictions(path, opened, split, **how) for path in (predictions_path, *further)]
        if keep_as is not None:
            loaded[0] = replace(loaded[0][0], system=keep_as), loaded[0][1]
        named = with_names_of_their_own(loaded)
        (system, meta, predictions), *others = named
        scores = score(
            opened,
            predictions,
            system=system,
            setting=meta.setting,
            top_k=settings.embed.max_masks,
            missing=missing,
            baselines=names if baselines else (),
            further={name: found for name, _, found in others},
            protocol=protocol,
            texts=texts,
            seed=SEED,
            progress=True,
        )
    except PredictionError as error:
        raise InputError(str(error)) from error
    results = summarise(scores.systems, RESAMPLES, SEED, protocol)
    of_systems = {name: scores.systems[name] for name, _, _ in named}
    broken_down = breakdowns(of_systems, scores.kinds, RESAMPLES, SEED, protocol)
    quoted = published_of(settings, split, protocol)
    count = len(scores.systems[system])
    if not count:
        raise InputError(
            f"{split} has no questions to score: its {len(opened)} images failed or have no annotation; "
            f"{settings.command('info', *settings.words(split))} says which"
        )
    if keep_as is not None:
        keep(settings, keep_as, split, meta, predictions, predictions_path)
    of_proposer = "" if without_masks or proposer is None else f" of {proposer}"
    lines = [
        f"# {as_text(system)} on {as_text(split.dataset)}, {split.split}" + f", protocol {protocol}" * bool(protocol),
        "",
        f"{count} questions, {meta.mode.replace('_', '-')}, candidates: {meta.setting}{of_proposer}. In percent, "
        "with 95 % bootstrap intervals over images. Oracles know the answer; figures that a system does not have are left blank.",
        "",
    ]
    if protocol:
        lines += of_protocol(protocol, split.dataset, settings.data[split.dataset].format, meta, scores)
    lines += of_answers(predictions, scores, threshold)
    for image_id, number in scores.unasked.items():
        unasked[image_id] = unasked.get(image_id, 0) + number
    absent = without_annotation(opened)
    left_out = {image_id: why for image_id, why in scores.skipped.items() if image_id not in absent}
    lines += of_images(unasked, absent, without_masks, left_out)
    if not quoted and not protocol:
        lines.append(f"- No {MARK} figures for this split; there are some for {', '.join(datasets())}.")
        if usual := usual_of(settings.data[split.dataset].format):
            lines.append(f"- Papers score data of this format by --protocol {usual}.")
    parts = ["\n".join(lines), as_markdown(results, quoted), breakdowns_as_markdown(broken_down)]
    figures = {
        "system": system,
        "dataset": split.dataset,
        "split": split.split,
        "mode": meta.mode,
        "setting": meta.setting,
        "proposer": None if without_masks else proposer,
        "protocol": protocol,
        "texts": "every" if any(text for _, text in scores.asked) else "first",
        "questions": count,
        "missing": scores.missing,
        "skipped": len(left_out),
        "absent": len(absent),
        "unasked": sum(unasked.values()),
        "groups": as_json(results),
        "breakdowns": {title: as_json(groups) for title, groups in broken_down.items()},
        "run": meta.run,
        "answering": json.loads(meta.answering),
        "columns": json.loads(meta.columns),
    }
    return "\n".join([parts[0], "", *filter(None, parts[1:])]), figures


def texts_of(settings: Settings, split: SplitRef, protocol: str | None) -> Texts | None:
    """Which texts of a split a protocol asks; None: the protocol leaves it open."""
    return None if protocol is None else PROTOCOLS[protocol].asks(settings.data[split.dataset].format)


def published_of(settings: Settings, split: SplitRef, protocol: str | None) -> list[Published]:
    """The papers' rows for a split. For refCOCO, these are about the splits by unc and umd, not those by google."""
    if getattr(settings.data[split.dataset], "split_by", None) == "google":
        return []
    return published(split.dataset, split.split, protocol)


def keep_report(settings: Settings, markdown: str, figures: Mapping[str, Any]) -> Path:
    """Write the table to ``<report_dir>/<dataset>/evaluate/<system>``, and the figures, DVC's metrics; return the table's path."""
    dataset, system, split = figures["dataset"], figures["system"], figures["split"]
    page: Path = report_folder(settings, dataset) / "evaluate" / system / f"{split}.md"
    numbers = metrics_folder(settings) / "evaluate" / system / dataset / f"{split}.json"
    for path in (page, numbers):
        make_folder(path.parent)
    write_report_file(numbers, figures)
    page.unlink(missing_ok=True)  # it may be a hard link into DVC's cache
    page.write_text(markdown + "\n", encoding="utf-8")
    return page


def check_options(missing: str, protocol: str | None, threshold: int | None, texts: str | None = None) -> None:
    """Raise InputError for a value that :func:`evaluate_command` does not know; called before a system answers."""
    for option, value, choices in (
        ("missing", missing, MISSING),
        ("protocol", protocol, tuple(PROTOCOLS)),
        ("texts", texts, TEXTS),
    ):
        if value is not None and value not in choices:
            listed = ", ".join(choices[:-1]) + f" or {choices[-1]}"
            raise InputError(f"--{option}: found {value!r}, expected {listed}{did_you_mean(value, choices)}")
    if threshold is not None and threshold < 1:
        raise InputError(
            f"--threshold: found {threshold}, expected 1 or more: a pixel of at least this value is the mask"
        )
