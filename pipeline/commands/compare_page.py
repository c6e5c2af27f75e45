"""A comparison as one HTML page, and its pictures as one figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.commands.compare import Comparison
from pipeline.commands.compare_text import changed_table, counted, explained, figures_table, groups_table, won_and_lost
from pipeline.commands.evaluate_input import COLUMNS
from pipeline.commands.report import pixels
from pipeline.commands.report_questions import every_question
from pipeline.config import InputError, Settings
from pipeline.runs import short
from stages.evaluate.cases import Question
from stages.evaluate.measure import has_choices
from stages.evaluate.tables import one_line
from stages.names import did_you_mean
from stages.report.choose import Key
from stages.report.figure import KINDS, Row, qualitative_figure
from stages.report.page import Page, Section, Shown, Table, render
from stages.report.shown import Answers, show
from stages.report.written import require_ours, write_alone
from store import open_split

TRUTH = "Ground truth"


def check_files(page: Path | None, figure: Path | None, images: Sequence[str] | None = None) -> None:
    """InputError where a page or figure cannot be written there; for before anything is scored."""
    if images and figure is None:
        raise InputError(
            "compare: found --images without --figure; they choose what the figure shows: add --figure FILE.png"
        )
    for option, path, endings in (
        ("--page", page, (".html", ".htm")),
        ("--figure", figure, tuple(f".{kind}" for kind in KINDS)),
    ):
        if path is None:
            continue
        path = path.expanduser()
        if path.suffix.lower() not in endings:
            raise InputError(
                f"{option}: found {str(path)!r}, expected the name of a file that ends in {' or '.join(endings)}"
            )
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            raise InputError(f"{option}: {above} is a file, expected a folder to write {path.name} into")
        try:
            require_ours(path)
        except FileExistsError as error:
            raise InputError(f"{option}: {error}") from error


def write_asked(
    settings: Settings,
    found: Sequence[Comparison],
    cases: int,
    page: Path | None,
    figure: Path | None,
    images: Sequence[str] | None,
) -> list[str]:
    """Write the page and the figure that are asked for; return a line for each. InputError where several splits are compared."""
    if (page or figure) and len(found) > 1:
        names = ", ".join(str(one.split) for one in found)
        raise InputError(
            f"compare: a page or figure is of one split, and these runs share {names}; name one with --data and --split"
        )
    words = [word for given in images or () for word in given.split(",") if word]
    # The figure first: it is what may name an image that is not there.
    lines = [] if figure is None else [write_figure(settings, found[0], words, cases, figure.expanduser())]
    return lines if page is None else [*lines, write_page(settings, found[0], cases, page.expanduser())]


def write_page(settings: Settings, found: Comparison, cases: int, path: Path) -> str:
    """Write the page; return a line that says where, and how large it is.

    Args:
        cases: this many questions that each system won, and as many that it lost, are shown with their pictures.
    """
    shown = _shown(settings, found, _won_or_lost(found, cases))
    sections = [
        Section("runs", "What is compared", [explained(found), *found.notes], _runs_table(found)),
        Section("figures", "Figures", (), Table(*figures_table(found))),
    ]
    heading, rows = groups_table(found)
    if rows:
        sections.append(Section("kinds", "Kinds of questions", (), Table(heading, rows)))
    for number, system in enumerate(found.others):
        won, lost = won_and_lost(found, system, cases)
        heading, rows = changed_table(found, system, [*won, *lost])
        table = Table(heading, rows) if rows else None
        sections.append(Section(f"won-{number}", f"Won and lost by {system}", [counted(found, system)], table))
    page = Page(
        f"{', '.join(found.others)} compared with {found.first}, {found.split.dataset}, {found.split.split}",
        [("questions", str(len(found.keys))), ("images", str(found.images)), ("systems", str(len(found.systems)))],
        (),
        "Questions",
        [case for case, _ in shown],
        f"At most {cases} that each system won against {found.first} by the most, and as many that it lost.",
        "",
        (),
        before=sections,
        every=every_question(_asked(found), found.systems, {}, [case for case, _ in shown]),
    )
    write_alone(path, render(page).encode())
    return f"{path}: {len(shown)} questions with pictures, {path.stat().st_size / 1e6:.1f} MB"


def write_figure(settings: Settings, found: Comparison, words: Sequence[str], cases: int, path: Path) -> str:
    """Write the figure; return a line that says where.

    Args:
        words: target_ids or image_ids, also after the name of the split (``demo/test/0003``); of an image the question in which
            the systems differ most. None: the ``cases`` questions in which they differ most, each of another image.

    Raises:
        InputError: no compared question has that name.
    """
    keys = [_named(found, word) for word in words] or _most_different(found, cases)
    rows = []
    for shown, files in _shown(settings, found, {key: [] for key in keys}):
        names = ["truth", *found.systems]
        below = ["" if picture.iou is None else f"IoU {picture.iou:.3f}" for picture in shown.pictures]
        rows.append(Row(one_line(shown.question), [files[name] for name in names], below, shown.size))
    data, lacking = qualitative_figure([TRUTH, *found.systems], rows, path.suffix.lower()[1:])
    write_alone(path, data)
    more = "; some letters of the questions are not in the figure's font, and are drawn as boxes" if lacking else ""
    return f"{path}: {len(rows)} questions, {len(found.systems)} systems{more}"


def _won_or_lost(found: Comparison, cases: int) -> dict[Key, list[str]]:
    """The questions to show, and why; first what differs most."""
    why: dict[Key, list[str]] = {}
    place = {key: number for number, key in enumerate(found.keys)}
    for system in found.others:
        for keys in won_and_lost(found, system, cases):
            for key in keys:
                gain = found.changes[system].gain[place[key]]
                why.setdefault(key, []).append(f"{system} {gain:+.3f} against {found.first}")
    return {key: why[key] for key in sorted(why, key=lambda key: -found.spread[place[key]])}


def _shown(settings: Settings, found: Comparison, keys: dict[Key, list[str]]) -> list[tuple[Shown, dict[str, bytes]]]:
    # Opened without masks: what is compared are answers, and the proposals would be a column more.
    opened = open_split(settings.store_path, found.split.dataset, found.split.split, columns=COLUMNS)
    pixels_of: Callable[[int], NDArray[np.uint8]] = partial(pixels, settings, found.split.dataset, opened)
    systems = {name: _drawable(answers) for name, answers in found.systems.items()}
    return [
        show(opened, found.questions[target_id], text, why, systems, settings.embed.max_masks, pixels_of)
        for (target_id, text), why in keys.items()
    ]


def _drawable(answers: Answers) -> Answers:
    """The same; where the masks that it chose from are not there, with its masks alone."""
    if has_choices(answers.split):
        return answers
    return replace(answers, predictions={key: replace(one, chosen=None) for key, one in answers.predictions.items()})


def _asked(found: Comparison) -> list[Question]:
    """The questions that are compared, in the order of the split."""
    return [found.questions[target_id] for target_id in dict.fromkeys(target_id for target_id, _ in found.keys)]


def _runs_table(found: Comparison) -> Table:
    rows = []
    for one, answers in zip(found.sides, found.systems.values(), strict=True):
        system = "external" if one.trained is None else one.trained[0].system
        digest = "" if one.digest is None else short(one.digest)
        rows.append([one.name, system, digest, answers.meta.mode.replace("_", "-"), answers.meta.setting])
    return Table(["run", "system", "digest", "answers", "candidates"], rows)


def _most_different(found: Comparison, cases: int) -> list[Key]:
    """Questions of different images, where there are enough; those that are answered alike only where there are no others."""
    order = np.argsort(-found.spread, kind="stable")
    images, chosen = set[str](), list[Key]()
    for number in order:
        image = found.questions[found.keys[number][0]].image_id
        if image not in images and len(chosen) < cases:
            images.add(image)
            chosen.append(found.keys[number])
    return chosen


def _named(found: Comparison, word: str) -> Key:
    """The question that a word names."""
    name = word.removeprefix(f"{found.split}/")
    order = [found.keys[number] for number in np.argsort(-found.spread, kind="stable")]
    for own in (lambda key: key[0], lambda key: found.questions[key[0]].image_id):
        if key := next((key for key in order if own(key) == name), None):
            return key
    known = list(
        dict.fromkeys([*(key[0] for key in found.keys), *(found.questions[key[0]].image_id for key in found.keys)])
    )
    raise InputError(
        f"--images: found {word!r}, expected an image or a question of {found.split} that all have answered, such as "
        f"{', '.join(known[:3])}{did_you_mean(name, known)}"
    )
