"""The check of wording finds what it is for, leaves plain English alone, and the tree passes it."""

from __future__ import annotations

import pytest

from tests import plain_english

BAD = (
    ("it is computed anew", "anew"),
    ("whence it came", "whence"),
    ("refused for good.", "for good"),
    ("So many seconds of sleep", "So many"),
    ("a file beside it", "beside"),
    ("a document; None where there is none.", "where there is none"),
    ("why it is none: no object", "it is none"),
    ("one vector a\n    mask", "one vector a mask"),
    ("a row an image", "a row an image"),
    ("asked once a process", "once a process"),
    ("at most 25 masks an image", "masks an image"),
    ("about 0.2 s a step", "s a step"),
)
GOOD = """
One vector per mask, 0.2 s per step. So many files that it takes minutes.
{{ iou is none }}, as there is none; this is none of its parts; use it if it is None.
Which images a page shows, how many masks an image has.
Each a process of its own; it's a step; one of a target's texts; once in a run.
[good for good, picked in candidates]; const beside = neighbours;
"""


@pytest.mark.parametrize(("text", "wording"), BAD)
def test_it_finds(text: str, wording: str) -> None:
    assert [words for _, words, _ in plain_english.found(f"first line\n{text}")] == [wording]
    assert [line for line, _, _ in plain_english.found(f"first line\n{text}")] == [2]


def test_it_leaves_plain_english_alone() -> None:
    assert list(plain_english.found(GOOD)) == []


def test_long_lines_are_numbered() -> None:
    assert list(plain_english.long_lines("a" * 119 + "\n" + "b" * 120)) == [2]
    printed = f"<!-- printed by make x -->\n{'c' * 200}\n<!-- end -->\n{'d' * 120}\n"
    assert list(plain_english.long_lines(printed)) == [4]


def test_the_tree_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert (plain_english.main(), capsys.readouterr().out) == (0, "")
