"""A review sheet: pages with pictures, questions and verdicts, on which a person keeps, rejects and edits; and their decisions.

A page is self-contained: it embeds its pictures, and its content security policy allows no network and no script but its own.
The browser saves decisions as a JSON file, which :func:`read_decisions` treats as untrusted input.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from stages.images import ImageFailure, read_file
from stages.names import type_name
from stages.questions.items import Pair, Reason, Scene, Verdict
from stages.questions.pictures import outlined
from stages.questions.requests import Picture
from stages.report.page import data_uri
from store.storage.files import make_folder
from store.storage.leftovers import replace_file

GENERATOR = "ELISA feature store questions"
"""Text in the head of every page; a page without it was not written by this module."""
FORM = "questions-sheet-1"
"""The form named in a file of decisions."""
MAX_DECISIONS_BYTES = 2**26
MAX_QUESTION_CHARS = 1000

_TEMPLATE, _SCRIPT = (Path(__file__).with_name(f"sheet.{suffix}") for suffix in ("html", "js"))
_PREFIX = "sheet-"


class DecisionError(ValueError):
    """A file of decisions does not have the form that a sheet saves, or is not about these questions."""


@dataclass(frozen=True)
class Item:
    """A question to decide on.

    Args:
        answer: the names of the objects. facts: earlier verdicts, one line each. picture: the image with the answer outlined.
    """

    target_id: str
    image_id: str
    question: str
    answer: str
    facts: tuple[str, ...]
    picture: Picture


@dataclass(frozen=True)
class Decision:
    """What a person decided.

    Args:
        asked: the question that was decided on, as the number may belong to another question once models are asked again.
        question: the edited text, if it was edited; it is checked by the rules again.
    """

    decision: Literal["keep", "reject"]
    asked: str
    question: str | None = None

    def is_about(self, question: str) -> bool:
        """Whether a question is the one that was decided on."""
        return " ".join(question.split()) == self.asked

    @property
    def verdict(self) -> Verdict:
        """The verdict as it is stored with the target."""
        reason = Reason.PERSON if self.decision == "reject" else None
        return Verdict("person", "", self.decision, self.question or "", reason)


def item_of(pair: Pair, scene: Scene, counts: str, verdicts: Sequence[Verdict], side_px: int) -> Item:
    """A question in the form for a sheet. ``counts`` and errors as for :func:`stages.questions.pictures.outlined`."""
    names = {thing.label: thing.name for thing in scene.things}
    answer = ", ".join(names.get(label, label) for label in pair.labels)
    facts = tuple(
        f"{verdict.step} ({verdict.model}): {verdict.said or 'nothing that could be read'}"
        + (f", {verdict.reason}" if verdict.reason else "")
        for verdict in verdicts
    )
    picture = outlined(scene, counts, side_px)
    return Item(f"{pair.image_id}/{pair.number}", pair.image_id, pair.question, answer, facts, picture)


def write_sheets(
    folder: Path, title: str, items: Sequence[Item], per_file: int = 200, pick_one: bool = False
) -> tuple[Path, ...]:
    """Write the pages of a sheet, ``sheet-001.html`` and so on; return their paths. Pages of an earlier sheet are removed.

    Args:
        items: all items of an image are on one page, next to each other.
        per_file: about this many items per page: an image is added to a page as long as the page has fewer.
        pick_one: keeping a question rejects the others of its image, as ReasonSeg's annotators picked one of several.

    Raises:
        ValueError: there are no items, or an id occurs twice.
        FileExistsError: a file that is not a page of a sheet has the name of one; nothing was written.
    """
    if len({item.target_id for item in items}) < max(1, len(items)):
        raise ValueError(f"{title}: found {len(items)} questions, expected at least one, and each once")
    pages = list(_pages(items, per_file))
    paths = tuple(folder / f"{_PREFIX}{number:03}.html" for number in range(1, len(pages) + 1))
    earlier = set(folder.glob(f"{_PREFIX}*.html"))
    for path in sorted(earlier.intersection(paths)):
        if not _is_page(path):
            raise FileExistsError(f"{path}: exists, and is not a page of a sheet; move it, or give another folder")
    make_folder(folder)
    for path, images in zip(paths, pages, strict=True):
        html = _render(title, path.name, [each.name for each in paths], images, pick_one)
        replace_file(path, html.encode(errors="xmlcharrefreplace"))
    for path in earlier.difference(paths):
        if _is_page(path):
            path.unlink()
    return paths


def read_decisions(path: Path, is_known: Callable[[str], bool]) -> dict[str, Decision]:
    """Target_id -> what a person decided, from a file that a sheet saved. Questions that are not in it are undecided.

    Args:
        is_known: whether a question may have this id.

    Raises:
        DecisionError: the file is missing or too large, does not have the form that a sheet saves, or has an unknown id.
    """
    try:
        value = json.loads(read_file(path, MAX_DECISIONS_BYTES).decode(), object_pairs_hook=_once)
        if not isinstance(value, dict) or value.keys() != {"form", "decisions"} or value["form"] != FORM:
            raise DecisionError(f"found {value!r:.80}, expected an object with form ({FORM}) and decisions")
        if not isinstance(value["decisions"], dict):
            raise DecisionError(f"decisions is {type_name(value['decisions'])}, expected an object by target_id")
        found = {name: _decision(name, each) for name, each in value["decisions"].items()}
        unknown = sorted(name for name in found if not is_known(name))
        if unknown:
            raise DecisionError(
                f"{len(unknown)} of {len(found)} ids belong to no question here, such as {unknown[0]!r:.100}; "
                "expected the file that a sheet of this set saved"
            )
    except (ImageFailure, RecursionError, ValueError) as error:
        raise DecisionError(f"{path}: {error}; save it again with the sheet's button") from error
    return found


def _decision(target_id: str, value: Any) -> Decision:
    if (
        not isinstance(value, dict)
        or value.get("decision") not in ("keep", "reject")
        or value.keys() - {"decision", "asked", "question"}
        or not isinstance(value.get("asked"), str)
    ):
        raise DecisionError(
            f"{target_id!r:.100}: found {value!r:.100}, expected decision (keep or reject), asked, and maybe question"
        )
    question = value.get("question")
    if "question" in value and not _is_line(question):
        raise DecisionError(
            f"{target_id!r:.100}: question is {question!r:.100}, expected one line of at most {MAX_QUESTION_CHARS} characters"
        )
    return Decision(value["decision"], value["asked"], question)


def _is_line(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= MAX_QUESTION_CHARS and text.isprintable() and text == text.strip()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without repeated keys, as it would be unclear which of two decisions counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise DecisionError(f"key {twice!r:.100} appears twice, expected it once")
    return found


def _pages(items: Sequence[Item], per_file: int) -> Iterator[list[list[Item]]]:
    """The items of each image, by page."""
    by_image: dict[str, list[Item]] = {}
    for item in items:
        by_image.setdefault(item.image_id, []).append(item)
    page: list[list[Item]] = []
    for together in by_image.values():
        page.append(together)
        if sum(map(len, page)) >= per_file:
            yield page
            page = []
    if page:
        yield page


def _render(title: str, name: str, names: Sequence[str], images: Sequence[Sequence[Item]], pick_one: bool) -> str:
    """A page as HTML. Whatever comes from data is escaped; the same items give the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _SCRIPT.read_text(encoding="utf-8")
    return environment.get_template(_TEMPLATE.name).render(
        title=title,
        generator=GENERATOR,
        form=FORM,
        most=MAX_QUESTION_CHARS,
        name=name,
        names=names,
        images=[(together[0].image_id, [(item, *_shown(item.picture)) for item in together]) for together in images],
        pick_one=pick_one,
        script=script,
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _shown(picture: Picture) -> tuple[str, str]:
    """The picture as a data URI, and the reason if it is missing; one of the two is empty."""
    try:
        return data_uri("jpeg", picture.load()), ""
    except ImageFailure as failure:  # the other questions can still be decided on
        return "", str(failure)


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(4096)
