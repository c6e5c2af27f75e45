"""A qualitative figure for a paper: one row per question, with ground truth and answers side by side, as PNG or PDF."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from stages.report.written import GENERATOR

KINDS = ("png", "pdf")
_PANEL_INCH = 2.4
_LINE_INCH = 0.2
_LETTERS_PER_INCH = 13
_DPI = 200


@dataclass(frozen=True)
class Row:
    """A question. pictures: RGB as PNG, one per column. below: the text below each. size: (h, w) px of the pictures."""

    question: str
    pictures: Sequence[bytes]
    below: Sequence[str]
    size: tuple[int, int]


def qualitative_figure(columns: Sequence[str], rows: Sequence[Row], kind: str) -> tuple[bytes, bool]:
    """Draw the pictures of each row with the question above them, below the names of the columns.

    The same rows give the same bytes.

    Args:
        columns: the name of each.
        kind: one of ``KINDS``.

    Returns:
        The file, and whether the font lacks some letters, which then appear as boxes.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    width = _PANEL_INCH * len(columns)
    texts = [textwrap.fill(row.question, round(width * _LETTERS_PER_INCH)) for row in rows]
    heights = [_LINE_INCH * 1.2] + [
        _PANEL_INCH * row.size[0] / row.size[1] + _LINE_INCH * (2.2 + text.count("\n"))
        for row, text in zip(rows, texts, strict=True)
    ]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    heading, *parts = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for place, name in enumerate(columns):
        how = {"ha": "center", "va": "center", "fontsize": "medium", "fontweight": "bold", "parse_math": False}
        heading.text((place + 0.5) / len(columns), 0.5, name, **how)
    for part, row, text in zip(parts, rows, texts, strict=True):
        # parse_math: a dollar sign in a question is a dollar sign.
        part.suptitle(text, x=0.01, ha="left", fontsize="medium", parse_math=False)
        for place, axis in enumerate(part.subplots(1, len(columns), squeeze=False)[0]):
            with Image.open(io.BytesIO(row.pictures[place])) as picture:
                axis.imshow(picture.convert("RGB"), interpolation="none")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(row.below[place], fontsize="small", parse_math=False)
    buffer = io.BytesIO()
    about = {"Software": GENERATOR} if kind == "png" else {"Creator": GENERATOR, "CreationDate": None}
    # Embed TrueType fonts: publishers refuse Type 3, which is matplotlib's default in a PDF.
    with warnings.catch_warnings(record=True) as said, matplotlib.rc_context({"pdf.fonttype": 42}):
        warnings.simplefilter("always")
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=about)
    return buffer.getvalue(), any("missing from" in str(one.message) for one in said)
