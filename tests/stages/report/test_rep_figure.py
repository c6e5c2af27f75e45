"""The qualitative figure draws what it is given, whatever the questions hold."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.report.figure import Row, qualitative_figure
from stages.report.written import GENERATOR, write_alone


def picture(colour: tuple[int, int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((30, 60, 3), colour, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["png", "pdf"])
def test_hostile_questions_are_drawn_as_they_are(kind: str) -> None:
    texts = (r"costs $\frac{1$ or \unknown{", "x" * 400, "")
    rows = [Row(text, [picture((250, 0, 0)), picture((0, 0, 250))], ["", "IoU 0.5"], (30, 60)) for text in texts]
    data, lacking = qualitative_figure(["Ground truth", "$elisa_{"], rows, kind)
    assert not lacking
    assert GENERATOR.encode() in data
    assert qualitative_figure(["Ground truth", "$elisa_{"], rows, kind)[0] == data


def test_columns_stand_in_their_order_and_letters_that_lack_are_said() -> None:
    rows = [Row("何が飲めますか", [picture((250, 0, 0)), picture((0, 0, 250))], ["", ""], (30, 60))]
    data, lacking = qualitative_figure(["a", "b"], rows, "png")
    assert lacking
    with Image.open(io.BytesIO(data)) as drawn:
        pixels = np.asarray(drawn.convert("RGB")).astype(int)
    red, blue = ((pixels == colour).all(axis=2) for colour in ((250, 0, 0), (0, 0, 250)))
    assert red.sum() == pytest.approx(blue.sum(), rel=0.02)
    assert red.any(axis=0).nonzero()[0].max() < blue.any(axis=0).nonzero()[0].min()


def test_only_what_was_written_here_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "below/figure.png"
    write_alone(path, GENERATOR.encode())
    write_alone(path, b"2" + GENERATOR.encode())
    assert path.read_bytes().startswith(b"2")
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="was not written by this command"):
        write_alone(path, GENERATOR.encode())
    assert [one.name for one in path.parent.iterdir()] == ["figure.png"]
