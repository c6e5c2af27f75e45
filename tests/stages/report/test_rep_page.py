"""The HTML: nothing from elsewhere, everything from data escaped, every picture with words."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from stages.report.page import Every, Listed, Missing, Page, Picture, Plot, Section, Shown, Table, data_uri, render

NASTY = '</title><script>alert("1")</script><img src=x onerror=y>\'"&{{ 7 * 7 }}'
PIXEL = data_uri("png", b"no real picture")


def page(text: str) -> Page:
    picture = Picture(text, PIXEL, text, [text], 0.25, text)
    shown = Shown(text, text, text, [text], PIXEL, "", (4, 6), text, [picture, replace(picture, iou=None, answer=None)])
    section = Section("answers", text, [text], Table([text], [[text]]), [Plot(PIXEL, text, text)])
    missing, failures = [Missing(text, text)], [(text, text, text)]
    return Page(
        text,
        [(text, text)],
        missing,
        text,
        [shown, replace(shown, photograph=None, gone=text)],
        text,
        text,
        failures,
        before=[section],
        after=[replace(section, anchor="training")],
    )


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


def test_what_comes_from_data_is_text() -> None:
    nasty, tame = read(render(page(NASTY))), read(render(page("plain")))
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in tame.tags]
    assert [attributes.keys() for _, attributes in nasty.tags] == [attributes.keys() for _, attributes in tame.tags]
    assert "".join(nasty.text).replace(NASTY, "plain") == "".join(tame.text)


def test_nothing_is_elsewhere() -> None:
    for tag, attributes in read(render(page("plain"))).tags:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name, "data:")
            assert value.startswith(("data:", "#")), (tag, value)
        assert not any(name.startswith("on") for name in attributes)
    assert "http:" not in render(page("plain"))
    assert "https:" not in render(page("plain"))


def test_pictures_have_words_and_a_size() -> None:
    images = [attributes for tag, attributes in read(render(page("plain"))).tags if tag == "img"]
    assert len(images) == 2 + 1 + 2 * 2  # two plots, a photograph, and the layers of two questions
    assert all(image["alt"] for image in images)


def test_the_same_page_gives_the_same_text_and_an_empty_one_is_a_page() -> None:
    assert render(page("plain")) == render(page("plain"))
    empty = Page("t", [], [], "Questions", [], "none", "pictures/t", [])
    assert "The split has no images and no questions." in render(empty)


@pytest.mark.parametrize("iou", [0.0, 1.0])
def test_iou_is_a_number_and_a_bar(iou: float) -> None:
    filled = page("plain")
    shown = replace(filled.cases[0], pictures=[replace(filled.cases[0].pictures[0], iou=iou)])
    html = render(replace(filled, cases=[shown]))
    assert f"IoU {iou:.3f}" in html
    assert f"width: {100 * iou:.1f}%" in html


def with_table(text: str) -> Page:
    rows = [Listed(text, text, [0.5, None], "question-1"), Listed(text, text, [None, 0.25])]
    return replace(page(text), every=Every([text, "text", text, text], rows), details=[(text, text)])


def test_the_table_of_questions_and_what_stands_at_the_foot_are_text_too() -> None:
    nasty, tame = (read(render(with_table(text))) for text in (NASTY, "plain"))
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in tame.tags]
    assert "".join(nasty.text).replace(NASTY, "plain") == "".join(tame.text)


def test_no_script_but_its_own_may_run() -> None:
    assert "script-src" not in render(page("plain"))
    html = render(with_table("plain"))
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.endswith(f"script-src 'sha256-{digest}'")
    assert policy.startswith("default-src 'none'; ")
