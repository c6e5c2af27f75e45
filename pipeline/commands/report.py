"""Gathers the data of a split (store, predictions, similarity, training curves) and writes its page and pictures."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.advice import to_complete
from pipeline.commands.report_questions import by_question, every_question, parameters_and_digests
from pipeline.commands.report_runs import (
    current_curves,
    current_runs,
    runs_section,
)
from pipeline.commands.report_sections import answers_section, recall_section, similarity_section, training_section
from pipeline.commands.report_systems import NAMES, ORACLE, answering_systems, oracles_of
from pipeline.config import InputError, Settings
from pipeline.summary import report_folder
from stages.datasets import FORMATS
from stages.datasets.catalog import recognise
from stages.evaluate.cases import questions
from stages.evaluate.score import Scores
from stages.names import SplitRef
from stages.nearby import free_name
from stages.photographs import photograph
from stages.report.choose import Key, choose, spread
from stages.report.page import Missing, Page, Shown, render
from stages.report.shown import Answers, show, show_image
from stages.report.written import write_page
from store import Split, open_split
from store.errors import DamagedStoreError, StoreError
from store.format.names import with_proposer
from store.format.schema import FAILED, OK, REMOVED
from store.storage.files import make_folder


def report_command(settings: Settings, split: SplitRef, cases: int, out: Path | None = None) -> str:
    """Write ``<dataset>/<split>.html`` and ``<dataset>/pictures/<split>/*.png`` below a folder; return a line that says where.

    Args:
        cases: this many questions of each system are shown.
        out: the folder; default: ``run.report_dir``.

    Raises:
        InputError: a file that no report wrote is in the way.
        StoreError: the split is not indexed, or its index is unfinished. What else is not there is said on the page.
    """
    if out is not None and out.expanduser().is_file():
        raise InputError(f"--out: found a file, {out}, expected a folder, such as {free_name(out.expanduser())}")
    folder = report_folder(settings, split.dataset) if out is None else out.expanduser() / split.dataset
    known = recognise(settings.data[split.dataset], split.dataset)
    terms = known.set.note if known else ""
    if terms:
        print(f"report: {terms}", file=sys.stderr)
    missing: list[Missing] = []
    opened = _open(settings, split, missing)
    annotated = "targets" in opened.columns
    runs = current_runs(settings, split, missing) if annotated else []
    systems = answering_systems(settings, split, runs, opened, missing)
    oracles = oracles_of(settings, opened)
    files: dict[str, bytes] = {}
    named = {name: answers.samples for name, answers in systems.items()}
    named |= {f"{ORACLE}, {proposer}": found.systems[ORACLE] for proposer, found in oracles.items()}
    place = f"pictures/{split.split}"
    folders = current_curves(runs, missing)
    sections = [
        *answers_section(named, place, files),
        *(recall_section(opened, settings.embed.max_masks, place, files) if annotated else ()),
        *similarity_section(settings, split, missing),
        *training_section(folders, place, files),
        *runs_section(settings, runs),
    ]
    if annotated:
        keys, chosen = _chosen(opened, systems, next(iter(oracles.values()), None), cases)
        shown = _cases(settings, split, opened, keys, systems, files)
    else:
        shown, chosen = _images(settings, split, opened, cases, files)
    every = None
    if annotated:
        bounds = {f"{ORACLE}, {name}": by_question(found, ORACLE) for name, found in oracles.items()}
        every = every_question(questions(opened), systems, bounds, shown)
    what = "questions" if annotated else "images"
    failures = _failures(opened)
    page = Page(
        f"{split.dataset}, {split.split}",
        [*_facts(opened, len(failures)), *([("terms of the pictures", terms)] if terms else [])],
        missing,
        what.capitalize(),
        shown,
        chosen,
        place,
        failures,
        after=sections,
        every=every,
        details=list(parameters_and_digests(settings, split, runs, systems, opened)),
    )
    path = folder / f"{split.split}.html"
    make_folder(folder / place)
    try:
        write_page(path, render(page), folder / place, {f"{name}.png": data for name, data in files.items()})
    except FileExistsError as error:
        raise InputError(f"report: {error}") from error
    size_mb = path.stat().st_size / 1e6
    done = (
        f"{path}: {len(shown)} {what}, {len(systems)} systems, {size_mb:.1f} MB; {len(files)} PNGs in {folder / place}"
    )
    return "\n".join([done, *(f"  not there: {item.what}: {item.why}" for item in missing)])


def _open(settings: Settings, split: SplitRef, missing: list[Missing]) -> Split:
    """The split with its tables, and each proposer's masks and their match where they are done.

    Names without a proposer stand for columns of the params' proposer, or the first one that is there.
    """
    annotated = FORMATS[settings.data[split.dataset].format].annotated
    columns = ["images", "instances", "targets"] if annotated else ["images"]
    where = settings.store_path, split.dataset, split.split
    opened = open_split(*where, columns=columns)
    for proposer, name in product(settings.proposers, NAMES if annotated else ["masks"]):
        column = with_proposer(name, proposer)
        try:
            opened = open_split(*where, columns=[*columns, column])
        except DamagedStoreError:
            raise
        except StoreError as error:
            if settings.holder(split.dataset) is None:
                command = settings.command("extract", *settings.words(split))
            else:  # what is lacking may be the holder's
                match = with_proposer("match/targets", proposer)
                command = to_complete(settings, split, match).replace("python cli.py", settings.command())
            command = "" if "run: " in str(error) else f"; run: {command}"
            missing.append(Missing(f"{NAMES[name]} of {proposer}", f"{error}{command}"))
        else:
            columns.append(column)
    there = sorted(opened.proposers, key=lambda name: name != settings.proposer)
    return opened.of_proposer(there[0]) if there else opened


def _chosen(
    opened: Split, systems: Mapping[str, Answers], oracle: Scores | None, cases: int
) -> tuple[dict[Key, list[str]], str]:
    """The questions to show, why each, and what to say of the choice."""
    if systems:
        found = choose({name: answers.iou for name, answers in systems.items()}, cases)
        how = (
            f"At most {cases} for each system, by IoU: its worst, its best, and some evenly between. Ordered from the lowest "
            "to the highest mean IoU."
        )
    elif oracle is not None:
        samples = oracle.systems[ORACLE]
        asked = zip(oracle.asked, samples.iou, samples.exists, strict=True)
        found = choose({"the proposals": {key: float(iou) for key, iou, exists in asked if exists}}, cases)
        how = f"No system has answered; at most {cases} questions, by the IoU of the best single proposal."
    else:
        keys = [(question.target_id, 0) for question in questions(opened)]
        found = {keys[place]: [] for place in spread(len(keys), cases)} if keys else {}
        how = f"At most {cases} questions, evenly from the split."
    return found, how


def _cases(
    settings: Settings,
    split: SplitRef,
    opened: Split,
    keys: Mapping[Key, list[str]],
    systems: Mapping[str, Answers],
    files: dict[str, bytes],
) -> list[Shown]:
    wanted = {target_id for target_id, _ in keys}
    by_id = {question.target_id: question for question in questions(opened) if question.target_id in wanted}
    shown = []
    pixels_of = partial(pixels, settings, split.dataset, opened)
    for number, ((target_id, text_index), why) in enumerate(keys.items(), start=1):
        case, pictures = show(opened, by_id[target_id], text_index, why, systems, settings.embed.max_masks, pixels_of)
        files |= {f"{number:03d}-{name}": data for name, data in pictures.items()}
        shown.append(case)
    return shown


def _images(
    settings: Settings, split: SplitRef, opened: Split, cases: int, files: dict[str, bytes]
) -> tuple[list[Shown], str]:
    """Images of a split without questions, spread evenly over it, and what to say of the choice."""
    there = [record.image_index for record in opened if record.status == OK]
    pixels_of = partial(pixels, settings, split.dataset, opened)
    shown = []
    for number, place in enumerate(spread(len(there), cases) if there else (), start=1):
        case, pictures = show_image(opened, there[place], settings.embed.max_masks, pixels_of)
        files |= {f"{number:03d}-{name}": data for name, data in pictures.items()}
        shown.append(case)
    return shown, f"At most {cases} images, evenly from the split, with the masks of each proposer."


def pixels(settings: Settings, dataset: str, opened: Split, image_index: int) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of an image of a data set; GoneError where it cannot be shown."""
    (row,) = opened[image_index].rows("images")
    holder = settings.data[dataset].images
    return photograph(settings.folders(holder), row, settings.data[holder].max_pixels)


def _facts(opened: Split, failed: int) -> list[tuple[str, str]]:
    annotated = "targets" in opened.columns
    asked = list(questions(opened)) if annotated else []
    removed = sum(record.status == REMOVED for record in opened)
    absent = len(opened.columns["targets"].status(len(opened)).absent) if annotated else 0
    facts = [("images", str(len(opened) - removed))]
    if absent:
        facts.append(("of them without annotation", str(absent)))
    if failed:
        facts.append(("of them left out, in whole or part", str(failed)))
    if annotated:
        facts.append(("questions", str(len(asked))))
        facts.append(("of them with no answer in the image", str(sum(not question.exists for question in asked))))
    proposed = {f"masks/{name}": f"proposals of {name}" for name in opened.proposers}
    for name, word in {"instances": "instances", **proposed}.items():
        if name in opened.columns:
            there = (record for record in opened if opened.columns[name].is_ok(record.image_index))
            counts = [len(record.rows(name)[0]["segmentation"]) for record in there]
            mean = f" ({sum(counts) / len(counts):.1f} per image)" if counts else ""
            facts.append((word, f"{sum(counts)}{mean}"))
    return facts


def _failures(opened: Split) -> list[tuple[str, str, str]]:
    """The first column, in the order of the pipeline, in which an image failed: image_id, column, reason."""
    failures = []
    for record in opened:
        for name, column in opened.columns.items():
            commit, position = column.commit(record.image_index)
            if commit.status[position] == FAILED:
                failures.append((record.image_id, name, commit.errors.get(str(position), FAILED)))
                break
    return failures
