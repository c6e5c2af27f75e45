"""Pieces of HTML for notebooks. Text of the data is escaped and cut; there is no script, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import StoreError
from .drawing import jpeg_uri

if TYPE_CHECKING:
    from PIL import Image

MOST_ROWS = 40
"""A longer table is cut."""
MOST_CHARACTERS = 200
"""A longer text is cut. A reason may be five times as long, as it ends with what to do."""
_FIGURE = "display: inline-block; margin: 4px; max-width: 400px; vertical-align: top; overflow-wrap: anywhere"


def cut(value: object, most: int = MOST_CHARACTERS) -> str:
    """A value as text, with an ellipsis where it is longer than ``most`` characters."""
    words = str(value)
    return words if len(words) <= most else f"{words[: most - 1]}…"


def text(value: object, most: int = MOST_CHARACTERS) -> str:
    """A value, cut and escaped. Marks in it that change the direction of text end with it."""
    shown = cut(value, most).encode("utf-8", "replace").decode()  # half of a surrogate pair is not a character
    return f"<bdi>{escape(shown)}</bdi>"


def page(title: object, *parts: str) -> str:
    """The HTML of a whole display. Its classes keep notebooks from reading dollar signs in the data as formulas."""
    return f'<div class="tex2jax_ignore mathjax_ignore"><p><b>{text(title)}</b></p>{"".join(parts)}</div>'


def line(value: object) -> str:
    """A paragraph."""
    return f"<p>{text(value)}</p>"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], total: int) -> str:
    """A table of at most :data:`MOST_ROWS` of ``total`` rows, which says how many more there are."""
    cells = "".join(f"<th>{text(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in islice(rows, MOST_ROWS))
    more = f"<p>... and {total - MOST_ROWS} more</p>" if total > MOST_ROWS else ""
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}"


def picture(draw: Callable[[], Image.Image], caption: str) -> str:
    """A picture with a line below it; in its place the reason, where it cannot be drawn."""
    try:
        drawn = draw()
        image = f'<img src="{jpeg_uri(drawn)}" alt="" width="{drawn.width}" height="{drawn.height}"/>'
    except StoreError as error:
        image = text(error, 5 * MOST_CHARACTERS)
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure style="{_FIGURE}">{image}{below}</figure>'
