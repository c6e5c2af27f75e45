"""The sheet: markup in data is text, pages hold whole images, and decisions are read strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.images import ImageFailure
from stages.questions import sheet
from stages.questions.items import Reason
from stages.questions.requests import Picture
from stages.questions.sheet import FORM, Decision, DecisionError, Item, item_of, read_decisions, write_sheets
from stages.questions.verify import Verdict
from store import rle
from tests.stages.questions.pictured import pair, scene_of

NASTY = '</textarea></article></title><script>alert("1")</script><img src=x onerror=y>\'"&{{ 7 * 7 }}{% x %}<!-- \u202e'
MASK = np.zeros((40, 60), bool)
MASK[10:20, 10:20] = True


def item(target_id: str, image_id: str = "a", text: str = "plain") -> Item:
    return Item(target_id, image_id, text, text, (text,), Picture("0" * 64, 4, 6, lambda: b"no real picture"))


class Reader(HTMLParser):
    """Tags with the names of their attributes, and the text in textareas."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.questions: list[str] = []
        self._inside = False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attributes)))
        self._inside = tag == "textarea"
        if self._inside:
            self.questions.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.questions[-1] += data


def test_what_comes_from_data_is_text(tmp_path: Path) -> None:
    def page(text: str) -> Reader:
        (path,) = write_sheets(tmp_path / str(len(text)), text, [item(text, text, text)])
        return Reader(path.read_text(encoding="utf-8"))

    nasty, tame = page(NASTY), page("plain")
    assert nasty.tags == tame.tags
    assert nasty.questions == [NASTY]


def test_a_name_that_is_no_text_does_not_stop_the_sheet(tmp_path: Path) -> None:
    (path,) = write_sheets(tmp_path, "\udcff", [item("\udcff", "\udcff", "\udcff")])
    path.read_text(encoding="utf-8")


def test_an_item_says_what_is_asked_and_what_was_said(tmp_path: Path) -> None:
    scene = scene_of(np.full((40, 60, 3), 90, np.uint8), tmp_path / "a.png")
    verdicts = [
        Verdict("verify", "seer", "yes", "", None),
        Verdict("control", "seer", "", "", Reason.UNREADABLE_VERDICT),
    ]
    found = item_of(pair(labels=("stop_sign", "dog")), scene, rle.encode(MASK), verdicts, 30)
    assert (found.target_id, found.image_id, found.answer) == ("street/1/3", "street/1", "stop sign, dog")
    assert found.facts[0] == "verify (seer): yes"
    assert found.facts[1] == f"control (seer): nothing that could be read, {Reason.UNREADABLE_VERDICT}"
    assert (found.picture.width_px, found.picture.height_px) == (30, 20)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60), st.integers(1, 12))
def test_every_item_is_on_one_page_next_to_those_of_its_image(images: list[int], per_file: int) -> None:
    items = [item(str(number), str(image)) for number, image in enumerate(images)]
    pages = list(sheet._pages(items, per_file))
    shown = [each for page in pages for together in page for each in together]
    assert sorted(shown, key=lambda each: int(each.target_id)) == items
    of_pages = [{each.image_id for together in page for each in together} for page in pages]
    assert sum(map(len, of_pages)) == len(set(images)), "an image is on one page"
    assert all(sum(map(len, page)) >= per_file for page in pages[:-1])
    assert all(len({each.image_id for each in together}) == 1 for page in pages for together in page)


def test_pages_lead_to_each_other_and_those_of_a_longer_sheet_go(tmp_path: Path) -> None:
    items = [item(str(number), str(number)) for number in range(5)]
    own = tmp_path / "sheet-mine.html"
    own.write_text("<p>somebody else's")
    assert [path.name for path in write_sheets(tmp_path, "t", items, 2)] == [f"sheet-00{n}.html" for n in (1, 2, 3)]
    second = (tmp_path / "sheet-002.html").read_text()
    assert 'href="sheet-001.html"' in second
    assert 'href="sheet-003.html"' in second
    before = second, write_sheets(tmp_path, "t", items, 2)[1].read_text()
    assert before[0] == before[1], "the same items, the same bytes"
    write_sheets(tmp_path, "t", items, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sheet-001.html", own.name]


def test_a_file_that_is_no_page_is_not_replaced(tmp_path: Path) -> None:
    other = tmp_path / "sheet-001.html"
    other.write_text("<p>somebody else's")
    with pytest.raises(FileExistsError, match="is not a page of a sheet"):
        write_sheets(tmp_path, "t", [item("1")])
    assert other.read_text() == "<p>somebody else's"


def test_nothing_to_decide_on_is_an_error_and_so_is_one_id_twice(tmp_path: Path) -> None:
    for items in ([], [item("1"), item("1", "b")]):
        with pytest.raises(ValueError, match="at least one, and each once"):
            write_sheets(tmp_path / "new", "t", items)
    assert not (tmp_path / "new").exists()


def test_a_picture_that_cannot_be_read_leaves_its_reason(tmp_path: Path) -> None:
    def gone() -> bytes:
        raise ImageFailure("no <such> file")

    broken = replace(item("1"), picture=Picture("0" * 64, 4, 6, gone))
    (path,) = write_sheets(tmp_path, "t", [broken, item("2")])
    assert "No picture: no &lt;such&gt; file" in path.read_text()
    assert [tag for tag, _ in Reader(path.read_text()).tags].count("img") == 1


@pytest.fixture
def decided(tmp_path: Path) -> Callable[[Any], Path]:
    """A file with what is given: text as it is, anything else as JSON."""

    def write(value: Any) -> Path:
        path = tmp_path / "decisions.json"
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        return path

    return write


def test_decisions_are_read_back(decided: Callable[[Any], Path]) -> None:
    given_ = {
        "a/0": {"decision": "keep", "asked": "who?"},
        "a/1": {"decision": "reject", "asked": "what?"},
        "b/0": {"decision": "keep", "asked": "why?", "question": "Wer? Ö"},
    }
    found = read_decisions(decided({"form": FORM, "decisions": given_}), ["a/0", "a/1", "a/2", "b/0"].__contains__)
    assert found == {
        "a/0": Decision("keep", "who?"),
        "a/1": Decision("reject", "what?"),
        "b/0": Decision("keep", "why?", "Wer? Ö"),
    }
    assert found["a/0"].is_about(" who? ")
    assert not found["a/0"].is_about("whose?")
    assert [each.verdict.reason for each in found.values()] == [None, Reason.PERSON, None]
    assert found["b/0"].verdict == Verdict("person", "", "keep", "Wer? Ö", None)
    assert read_decisions(decided({"form": FORM, "decisions": {}}), [].__contains__) == {}


def one(**fields: Any) -> dict[str, Any]:
    return {"form": FORM, "decisions": {"a/0": {"decision": "keep", "asked": "who?", **fields}}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "0 bytes"),
        (b"{", "Expecting"),
        (b"\xff\xfe", "decode"),
        (b"[" * 100_000, "recursion"),
        ([], r"found \[\], expected an object with form"),
        ({"decisions": {}}, "expected an object with form"),
        ({"form": "questions-sheet-0", "decisions": {}}, "expected an object with form"),
        ({**one(), "more": 1}, "expected an object with form"),
        ({"form": FORM, "decisions": []}, "decisions is list"),
        ({"form": FORM, "decisions": {"a/0": "keep"}}, "expected decision"),
        (one(decision="maybe"), "expected decision"),
        (one(decision=["keep"]), "expected decision"),
        (one(answer="cat"), "expected decision"),
        (one(asked=7), "expected decision"),
        ({"form": FORM, "decisions": {"a/0": {"decision": "keep"}}}, "expected decision .*, asked"),
        (one(question=None), "question is None"),
        (one(question=7), "question is 7"),
        (one(question=""), "question is ''"),
        (one(question=" padded "), "expected one line"),
        (one(question="two\nlines"), "expected one line"),
        (one(question="hidden\u202e"), "expected one line"),
        (one(question="half \ud800"), "expected one line"),
        (one(question="x" * 1001), "at most 1000"),
        (
            {"form": FORM, "decisions": {"b/7": {"decision": "keep", "asked": "who?"}}},
            r"1 of 1 ids belong to no question here, such as 'b/7'",
        ),
        (b'{"form": "x", "form": "y"}', "'form' appears twice"),
        (
            b'{"form": "questions-sheet-1", "decisions": {"a/0": {"decision": "keep"}, "a/0": {"decision": "reject"}}}',
            "'a/0' appears twice",
        ),
    ],
)
def test_any_other_form_is_refused_with_the_place(value: Any, message: str, decided: Callable[[Any], Path]) -> None:
    path = decided(value)
    with pytest.raises(DecisionError, match=message) as caught:
        read_decisions(path, ["a/0"].__contains__)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_no_file_and_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DecisionError, match="no such file"):
        read_decisions(tmp_path / "decisions.json", [].__contains__)
    monkeypatch.setattr(sheet, "MAX_DECISIONS_BYTES", 10)
    (tmp_path / "decisions.json").write_text(json.dumps({"form": FORM, "decisions": {}}))
    with pytest.raises(DecisionError, match="expected at most 10"):
        read_decisions(tmp_path / "decisions.json", [].__contains__)
