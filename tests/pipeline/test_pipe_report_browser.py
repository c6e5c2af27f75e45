"""The page in a real headless Chromium: pictures load, nothing is asked of the network, markup in data is text."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests import browser

pytestmark = pytest.mark.skipif(browser.find() is None, reason=f"no browser: none of {', '.join(browser.NAMES)}")

NASTY = '<img src="https://example.org/x.png" onerror="document.title=1"><b>bold</b> & "quoted" </article>{{ page }}'
LOADED = """
Promise.all([...document.images].map(image => image.decode())).then(() => ({
    sizes: [...document.images].map(image => [image.naturalWidth, image.naturalHeight]),
    alts: [...document.images].map(image => image.alt),
    bold: document.querySelectorAll("main .question b, main .question img").length,
    questions: [...document.querySelectorAll(".question")].map(each => each.textContent),
    title: document.title,
}))
"""
# Behind the layers lies the photograph: the same address as the article's own <img>, loaded as a background.
BEHIND = """
[...document.querySelectorAll("article")].map(article => {
    const behind = getComputedStyle(article.querySelector(".stack")).backgroundImage;
    return behind.includes(article.querySelector(".panels > figure > img").src);
})
"""
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def page_file(finished_once: Any, tmp_path_factory: pytest.TempPathFactory, drawn_figures: None) -> Path:
    """The report of ``val``; one question holds markup."""
    project = finished_once.copy(tmp_path_factory.mktemp("report"))
    path = project.data / "val/gnu.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text": [NASTY]}))
    project.build("index --split val", "extract --split val", "normalize")
    assert project.run("report", "--split", "val").code == 0
    return project.folder / "report/tiny/val.html"


@pytest.fixture(scope="module")
def page(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.open_page(page_file, tmp_path_factory.mktemp("profile")) as page:
        yield page


def test_every_picture_is_loaded_and_has_words(page: browser.Page) -> None:
    found = page.run(LOADED)
    assert len(found["sizes"]) >= 3 * 3
    assert all(width > 0 and height > 0 for width, height in found["sizes"])
    assert all(found["alts"])
    assert page.run(BEHIND) == [True] * 3


def test_markup_in_data_is_text(page: browser.Page) -> None:
    found = page.run(LOADED)
    assert NASTY in found["questions"]
    assert found["bold"] == 0
    assert found["title"] == "tiny, val"


def test_nothing_is_asked_of_the_network_and_nothing_complained_of(page: browser.Page, page_file: Path) -> None:
    page.run(LOADED)
    assert {url for url in page.requests if not url.startswith("data:")} == {page_file.as_uri()}
    assert page.complaints == []


def test_the_browser_would_have_told(tmp_path: Path) -> None:
    """The checks above can fail."""
    path = tmp_path / "page.html"
    path.write_text('<img src="nothing.png"><script>console.error("oh")</script>')
    with browser.open_page(path, tmp_path / "profile") as page:
        assert any(url.endswith("nothing.png") for url in page.requests)
        assert any("oh" in complaint for complaint in page.complaints)


@pytest.mark.parametrize("width_px", [360, 800, 1600])
def test_it_fits_the_window(page: browser.Page, width_px: int) -> None:
    page.resize(width_px, 900)
    assert page.run(WIDE) == 0


def test_masks_can_be_hidden_and_pictures_made_large_without_a_script(page: browser.Page) -> None:
    page.resize(1600, 900)
    visibility = 'getComputedStyle(document.querySelector(".stack img")).visibility'
    width = 'document.querySelector(".stack img").getBoundingClientRect().width'
    assert page.run(visibility) == "visible"
    small = page.run(width)
    page.run('document.querySelector(".bare").click()')
    page.run('document.querySelector(".large").click()')
    assert page.run(visibility) == "hidden"
    assert page.run(width) > 1.5 * small


def test_dark_windows_get_a_dark_page(page: browser.Page) -> None:
    def brightness() -> float:
        return float(np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L"))[:200, :200].mean())

    page.run("window.scrollTo(0, 0)")
    light = brightness()
    page.dark()
    colour = page.run("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in re.findall(r"\d+", colour)[:3]) < 60
    assert brightness() < light - 100
