"""A figure for a paper: chosen questions, the ground truth, and the answers of runs or of anyone's predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.commands.compare import compared
from pipeline.commands.compare_page import check_file, draw_questions
from pipeline.commands.compare_runs import all_that_answered, shared_splits, sides
from pipeline.config import InputError, Settings
from stages.evaluate.tables import one_line
from stages.names import SplitRef, did_you_mean
from stages.predictions import PredictionError
from stages.report.choose import Key
from stages.report.figure import KINDS, Row, qualitative_figure
from stages.report.page import Picture
from stages.report.written import write_alone

TRUTH = "Ground truth"


def figure_command(
    settings: Settings,
    words: Sequence[str],
    among: Sequence[SplitRef],
    out: Path,
    images: Sequence[str] = (),
    cases: int = 6,
    threshold: int | None = None,
) -> str:
    """Draw a row for each question and a column for each system; return a line that says where.

    Args:
        words: names of runs, of kept predictions, or files of predictions; none: every run that has answered.
        among: the splits to look at; only one of them may be answered by all.
        out: the file, .png or .pdf; replaced where this command wrote it.
        images: target_ids or image_ids, also after the name of the split (``demo/test/0003``); of an image the question in which
            the systems differ most. Empty: the ``cases`` questions in which they differ most, each of another image.
        threshold: grey values of PNGs from here on are the mask.

    Raises:
        InputError: the file cannot be written, a run has not answered, no question has this name, or several splits are meant.
        StoreError: the split is not in the store, or unfinished.
    """
    check_file("--out", out, [f".{kind}" for kind in KINDS])
    found = sides(settings, words or all_that_answered(settings, among))
    splits, _ = shared_splits(settings, found, among)
    if len(splits) > 1:
        names = ", ".join(map(str, splits))
        raise InputError(
            f"figure: expected one split, and all of these runs have answered {names}; name one, such as "
            f"{settings.options(splits[0])}"
        )
    try:
        answers = compared(settings, found, splits[0], threshold=threshold)
    except PredictionError as error:
        raise InputError(f"figure: {error}") from error
    order = [answers.keys[number] for number in np.argsort(-answers.spread, kind="stable")]
    images_of = {key: answers.questions[key[0]].image_id for key in order}
    keys = [_named(word, splits[0], images_of) for word in images] or _of_different_images(images_of, cases)
    rows = []
    for shown, files in draw_questions(settings, answers, {key: () for key in keys}):
        pictures = [files[name] for name in ("truth", *answers.systems)]
        rows.append(Row(one_line(shown.question), pictures, [_below(each) for each in shown.pictures], shown.size))
    path = out.expanduser()
    data, lacking = qualitative_figure([TRUTH, *answers.systems], rows, path.suffix.lower()[1:])
    write_alone(path, data)
    more = "; some letters of the questions are not in the figure's font, and are drawn as boxes" if lacking else ""
    return f"{path}: {len(rows)} questions of {splits[0]}, {', '.join(answers.systems)}{more}"


def _below(picture: Picture) -> str:
    """What stands below a picture: the IoU of an answer; for the ground truth, whether there is nothing to be found."""
    if picture.iou is None:
        return picture.facts[0] if picture.nothing else ""
    return f"{'refused, ' if picture.nothing else ''}IoU {picture.iou:.3f}"


def _of_different_images(images_of: dict[Key, str], cases: int) -> list[Key]:
    """The first questions, at most one of each image."""
    first: dict[str, Key] = {}
    for key, image in images_of.items():
        first.setdefault(image, key)
    return list(first.values())[:cases]


def _named(word: str, split: SplitRef, images_of: dict[Key, str]) -> Key:
    """The question that a word names, the first one of an image."""
    name = word.removeprefix(f"{split}/")
    by_target: dict[str, Key] = {}
    by_image: dict[str, Key] = {}
    for key, image in images_of.items():
        by_target.setdefault(key[0], key)
        by_image.setdefault(image, key)
    known = {**by_image, **by_target}
    if name not in known:
        raise InputError(
            f"--images: found {word!r}, expected an image or a question of {split} that all have answered, such as "
            f"{', '.join(list(by_target)[:3])}{did_you_mean(name, list(known))}"
        )
    return known[name]
