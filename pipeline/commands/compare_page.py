"""A comparison as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from stages.report.choose import Key
from stages.report.page import Page, Section, Shown, Table, render
from stages.report.shown import Answers, show
from stages.report.written import require_ours, write_alone
from store import open_split


def check_file(option: str, path: Path, endings: Sequence[str]) -> None:
    """Raise InputError where a page or figure cannot be written to a path; called before anything is scored."""
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


def write_page(settings: Settings, found: Comparison, cases: int, path: Path) -> str:
    """Write the page; return a line that says where, and how large it is.

    Args:
        cases: this many questions that each system won, and as many that it lost, are shown with their pictures.
    """
    path = path.expanduser()
    shown = draw_questions(settings, found, _won_or_lost(found, cases))
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
        f"For each system, the questions whose IoU differs most from that of {found.first}: at most {cases} that it won, and "
        f"{cases} that it lost.",
        "",
        (),
        before=sections,
        every=every_question(_asked(found), found.systems, {}, [case for case, _ in shown]),
    )
    write_alone(path, render(page).encode())
    return f"{path}: {len(shown)} questions with pictures, {path.stat().st_size / 1e6:.1f} MB"


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


def draw_questions(
    settings: Settings, found: Comparison, keys: Mapping[Key, Sequence[str]]
) -> list[tuple[Shown, dict[str, bytes]]]:
    """The ground truth and every system's answer to some questions, as :func:`stages.report.shown.show` gives them.

    Args:
        keys: question -> why it is shown.
    """
    # Opened without masks: answers are compared, and the proposals would add a column.
    opened = open_split(settings.store_path, found.split.dataset, found.split.split, columns=COLUMNS)
    pixels_of: Callable[[int], NDArray[np.uint8]] = partial(pixels, settings, found.split.dataset, opened)
    systems = {name: _drawable(answers) for name, answers in found.systems.items()}
    return [
        show(opened, found.questions[target_id], text, why, systems, settings.embed.max_masks, pixels_of)
        for (target_id, text), why in keys.items()
    ]


def _drawable(answers: Answers) -> Answers:
    """The answers; without their choices where the masks that the system chose from are not there."""
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
