"""One self-contained HTML page: it embeds its pictures and loads nothing from the network.

Its one script searches and sorts a table.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

_TEMPLATE = Path(__file__).with_name("page.html")
_SCRIPT = Path(__file__).with_name("questions.js")


def render(page: Page) -> str:
    """The page as HTML. Whatever comes from data is escaped; the same page gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATE.parent, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = _SCRIPT.read_text(encoding="utf-8")
    # The page's content security policy allows no other script, such as one in a question or an answer.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template(_TEMPLATE.name).render(page=page, script=script, digest=digest)


def data_uri(kind: str, data: bytes) -> str:
    """A data URI that contains the file. ``kind``: png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


@dataclass(frozen=True)
class Missing:
    """Something that the page does not show. ``why``: in words, with the command that makes it."""

    what: str
    why: str


@dataclass(frozen=True)
class Table:
    """Rows below a heading; the first cell of a row is its name."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def texts(self) -> set[int]:
        """The columns that hold words, which are aligned left; figures are aligned right."""
        return {0, *(place for row in self.rows for place, cell in enumerate(row) if any(map(str.isalpha, cell)))}


@dataclass(frozen=True)
class Plot:
    """A plot or heat map. ``image``: data URI. ``alt``: what it shows. ``file``: path of its PNG, relative to the page's folder."""

    image: str
    alt: str
    file: str


@dataclass(frozen=True)
class Section:
    """Plots on one topic, a table, and the text above them. ``anchor``: its name in links."""

    anchor: str
    title: str
    text: Sequence[str] = ()
    table: Table | None = None
    plots: Sequence[Plot] = ()


@dataclass(frozen=True)
class Picture:
    """A panel of a question: a layer of masks over the photograph. Fields as in ``panels.Panel``; ``image``: data URI."""

    title: str
    image: str
    alt: str
    facts: Sequence[str]
    iou: float | None
    answer: str | None
    nothing: bool = False


@dataclass(frozen=True)
class Shown:
    """A question with its pictures, or an image without questions (``question`` is empty then).

    why: what it was chosen for. photograph: data URI, or None where ``gone`` says why it is not shown. size: (h, w) px of the
    pictures. note: size of the image.
    """

    target_id: str
    image_id: str
    question: str
    why: Sequence[str]
    photograph: str | None
    gone: str
    size: tuple[int, int]
    note: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Listed:
    """A row in the table of all questions.

    iou: of each system; None where the system has no IoU. anchor: where its pictures are, or empty.
    """

    name: str
    text: str
    iou: Sequence[float | None]
    anchor: str = ""


@dataclass(frozen=True)
class Every:
    """The table of all questions of a split.

    heading: of the columns name, text, and IoU of each system. size: rows shown at a time.
    """

    heading: Sequence[str]
    rows: Sequence[Listed]
    size: int = 50


@dataclass(frozen=True)
class Page:
    """All that is on the page.

    facts: name and figure of what the split holds. before, after: sections above the pictures, and below the table of all
    questions. what: what the cases are, Questions or Images. pictures: folder of the PNGs, relative to the page's; empty where
    no PNGs are written. failures: image_id, what failed, why. every: the table of all questions. details: title and text of the
    folded sections at the end.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    missing: Sequence[Missing]
    what: str
    cases: Sequence[Shown]
    chosen: str
    pictures: str
    failures: Sequence[tuple[str, str, str]]
    before: Sequence[Section] = ()
    after: Sequence[Section] = ()
    every: Every | None = None
    details: Sequence[tuple[str, str]] = ()
