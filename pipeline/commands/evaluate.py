"""Scores a file of predictions on a split of the store, with baselines and the papers' figures next to it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import InputError, Settings
from pipeline.summary import metrics_folder, report_folder, write_report_file
from stages.evaluate.cases import OF_CHOICES, without_annotation
from stages.evaluate.gsva import PROTOCOL, counts_false_alarms
from stages.evaluate.imported import import_predictions
from stages.evaluate.published import MARK, datasets, published
from stages.evaluate.score import BASELINE_NAMES, MISSING, PROTOCOLS, score
from stages.evaluate.tables import as_json, as_markdown, as_text, summarise
from stages.names import SplitRef
from stages.predictions import Meta, Prediction, PredictionError, read
from store import Split, open_split
from store.errors import DamagedStoreError, StoreError
from store.format.names import proposers_of
from store.storage.files import make_folder

COLUMNS = ("images", "instances", "targets")
RESAMPLES, SEED = 1000, 0
WITHOUT_MASKS = ("always reject",)
"""The baselines that choose nothing."""
SHOWN = 10
"""Of the images that were left out at most this many are named."""


def evaluate_command(
    settings: Settings,
    split: SplitRef,
    predictions_path: Path,
    missing: str = "error",
    further: Sequence[Path] = (),
    threshold: int | None = None,
    protocol: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Score predictions: ours (``.parquet``) or anyone's (``.json``, ``.jsonl``, or a folder of PNGs).

    Candidates are the largest ``embed.max_masks`` proposals of an image, those that are embedded. Where there are no proposals,
    what needs them is left out and named: baselines, oracles, and how well a system chose.

    Args:
        split: the one the predictions are for.
        missing: ``error``, or ``empty`` to score a question without prediction as rejected.
        further: other predictions for the same questions, in rows of their own.
        threshold: grey values of PNGs from here on are the mask.
        protocol: None, or ``gsva``: scored by GSVA's rules (:mod:`stages.evaluate.gsva`), and by no others.

    Returns:
        The report in Markdown, and the figures, 0 to 1, as a JSON value.

    Raises:
        InputError: there are no such predictions, they are malformed, or not for this split, or the split has no questions.
        StoreError: the split is not in the store, or unfinished.
    """
    check_options(missing, protocol, threshold)
    if not predictions_path.exists():
        raise InputError(f"--predictions: no such file or folder: {predictions_path}")
    proposer = _proposer(settings, (predictions_path, *further))
    opened, without_masks = _open(settings, split, proposer)
    unasked: dict[str, int] = {}
    how: dict[str, Any] = {"threshold": threshold, "protocol": protocol, "unasked": unasked}
    try:
        loaded = [load_predictions(path, opened, split, **how) for path in (predictions_path, *further)]
        named = _with_names_of_their_own(loaded)
        (system, meta, predictions), *others = named
        scores = score(
            opened,
            predictions,
            system=system,
            setting=meta.setting,
            top_k=settings.embed.max_masks,
            missing=missing,
            baselines=WITHOUT_MASKS if without_masks else BASELINE_NAMES,
            further={name: found for name, _, found in others},
            protocol=protocol,
            seed=SEED,
            progress=True,
        )
    except PredictionError as error:
        raise InputError(str(error)) from error
    results = summarise(scores.systems, RESAMPLES, SEED)
    quoted = [] if protocol else published(split.dataset, split.split)
    count = len(scores.systems[system])
    if not count:
        raise InputError(
            f"{split} has no questions to score: its {len(opened)} images failed or have no annotation; "
            f"{settings.command('info', *settings.words(split))} says which"
        )
    of_proposer = "" if without_masks or proposer is None else f" of {proposer}"
    lines = [
        f"# {as_text(system)} on {as_text(split.dataset)}, {split.split}" + f", protocol {protocol}" * bool(protocol),
        "",
        f"{count} questions, {meta.mode.replace('_', '-')}, candidates: {meta.setting}{of_proposer}. In percent, "
        "with 95 % bootstrap intervals over images. Oracles know the answer; what a system does not say is left blank.",
        "",
    ]
    lines += [_about_gsva(split.dataset)] * (protocol == PROTOCOL)
    lines += [f"- The masks of PNGs: grey values of at least {threshold}."] * (threshold is not None)
    lines += [f"- {scores.missing} of them had no prediction and count as rejected."] * bool(scores.missing)
    for image_id, number in scores.unasked.items():
        unasked[image_id] = unasked.get(image_id, 0) + number
    if unasked:
        names = _some([as_text(name) for name in unasked])
        lines.append(
            f"- {sum(unasked.values())} predictions for images without questions, which failed or have no annotation, are not "
            f"scored: {names}."
        )
    absent = without_annotation(opened)
    left_out = {image_id: why for image_id, why in scores.skipped.items() if image_id not in absent}
    lines += [f"- Left out: {as_text(name)}: {as_text(why)}" for name, why in list(left_out.items())[:SHOWN]]
    lines += [f"- Left out: {len(left_out) - SHOWN} more images."] * (len(left_out) > SHOWN)
    lines += [f"- {len(absent)} images have no annotation: nothing is asked about them."] * bool(absent)
    if without_masks:
        names = ", ".join(name for name in BASELINE_NAMES if name not in WITHOUT_MASKS)
        lines.append(
            f"- Without proposals there are no rows {names}, and no figures of a choice: {as_text(without_masks)}"
        )
    if not quoted and not protocol:
        lines.append(f"- No {MARK} figures for this split; there are some for {', '.join(datasets())}.")
    markdown = "\n".join([*lines, "", as_markdown(results, quoted)])
    figures = {
        "system": system,
        "dataset": split.dataset,
        "split": split.split,
        "mode": meta.mode,
        "setting": meta.setting,
        "proposer": None if without_masks else proposer,
        "protocol": protocol,
        "questions": count,
        "missing": scores.missing,
        "skipped": len(left_out),
        "absent": len(absent),
        "unasked": sum(unasked.values()),
        "groups": as_json(results),
        "run": meta.run,
        "answering": json.loads(meta.answering),
        "columns": json.loads(meta.columns),
    }
    return markdown, figures


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


def load_predictions(
    path: Path,
    opened: Split,
    split: SplitRef,
    threshold: int | None = None,
    protocol: str | None = None,
    unasked: dict[str, int] | None = None,
) -> tuple[Meta, list[Prediction]]:
    """Read ours (``.parquet``) or anyone's; PredictionError where they are malformed or of another split.

    ``threshold``, ``protocol`` and ``unasked`` as :func:`stages.evaluate.imported.import_predictions`.
    """
    if path.suffix.lower() != ".parquet":
        found = import_predictions(path, opened, threshold=threshold, protocol=protocol, unasked=unasked)
        # Nobody's system gets the answer in its input, unless it says so.
        return Meta(_name_of(path), split.dataset, split.split), found
    if threshold is not None:
        raise PredictionError(f"{path}: --threshold is for a folder of PNGs, found a file")
    meta, predictions = read(path)
    if (meta.dataset, meta.split) != (split.dataset, split.split):
        raise PredictionError(f"{path}: predictions are for {meta.dataset}/{meta.split}, expected {split}")
    if not predictions:
        raise PredictionError(f"{path}: found no prediction in it")
    return meta, predictions


def check_options(missing: str, protocol: str | None, threshold: int | None) -> None:
    """InputError for a value that :func:`evaluate_command` does not know; for before a system answers, which takes long."""
    for option, value, choices in (("missing", missing, MISSING), ("protocol", protocol or PROTOCOL, PROTOCOLS)):
        if value not in choices:
            raise InputError(f"--{option}: found {value!r}, expected {' or '.join(choices)}")
    if threshold is not None and threshold < 1:
        raise InputError(
            f"--threshold: found {threshold}, expected 1 or more: a pixel of at least this value is the mask"
        )


def _proposer(settings: Settings, paths: Sequence[Path]) -> str | None:
    """Whose masks are the candidates: that of the masks that ours say they chose from, else the params'.

    Raises:
        InputError: they chose from masks of several.
    """
    found: set[str] = set()
    for path in paths:
        with contextlib.suppress(PredictionError, ValueError):  # said when they are loaded
            found |= set(proposers_of(json.loads(read(path)[0].columns) if path.suffix.lower() == ".parquet" else ()))
    if len(found) > 1:
        raise InputError(
            f"--predictions: they chose from masks of several proposers, {', '.join(sorted(found))}; score them one by one"
        )
    return next(iter(found), settings.proposer)


def _open(settings: Settings, split: SplitRef, proposer: str | None) -> tuple[Split, str]:
    """The split, with the columns of choices where they can be had, or why they cannot."""
    place = settings.store_path, split.dataset, split.split
    try:
        return open_split(*place, columns=[*COLUMNS, *OF_CHOICES], proposer=proposer), ""
    except DamagedStoreError:
        raise
    except StoreError as error:
        return open_split(*place, columns=COLUMNS), str(error)


def _with_names_of_their_own(
    loaded: Sequence[tuple[Meta, list[Prediction]]],
) -> list[tuple[str, Meta, list[Prediction]]]:
    """Each with a name that no baseline and no other system has."""
    found: list[tuple[str, Meta, list[Prediction]]] = []
    taken = set(BASELINE_NAMES)
    for meta, predictions in loaded:
        names = (
            meta.system,
            f"{meta.system} (predictions)",
            *(f"{meta.system} ({k})" for k in range(2, len(loaded) + 2)),
        )
        name = next(name for name in names if name not in taken)
        taken.add(name)
        found.append((name, meta, predictions))
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _about_gsva(dataset: str) -> str:
    alarms = "join" if counts_false_alarms(dataset) else "do not join (they do on gRefCOCO)"
    return (
        "- Scored as GSVA's released code does. An empty target is right when [REJ] is said, whatever the mask; a rejected target "
        f"that exists counts with its mask; false alarms {alarms} the unions of cIoU. GSVA also asks all sentences of an image at "
        "once, with the answer given up to each [SEG] or [REJ]: that is up to who made the predictions."
    )


def _name_of(path: Path) -> str:
    """What to call a file's system: the name of the file without its ending, or of the folder."""
    place = path if path.name.strip(".") else path.resolve()
    name = place.name if place.is_dir() else place.stem
    # A name that is no text would fail wherever it is written.
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace") or "predictions"
