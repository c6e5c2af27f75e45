"""The table of all questions in a real headless Chromium: it is paged, searched and sorted; without a script it is whole."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from stages.report.page import Every, Listed, Page, Plot, Section, Shown, Table, data_uri, render
from tests import browser

NASTY = '</td><script>document.title = "1"</script><img src="https://example.org/x.png" onerror="document.title = 2"> & {{ page }}'
COUNT = 120


def whole() -> Page:
    rows = [
        Listed(
            f"{k:04d}/0", f"question {k} {'cup' if k % 10 == 0 else 'bowl'}", [k % 7 / 7, None if k % 2 else k / COUNT]
        )
        for k in range(COUNT)
    ]
    rows[3] = Listed("0003/0", NASTY, [0.99, None], "question-1")
    every = Every(["question", "text", "elisa", "theirs"], rows)
    plots = [Plot(data_uri("png", wide_png()), "a heat map", "x.png") for _ in range(3)]
    table = Table(["system", "parameters", "IoU"], [["elisa", "as section train", "0.5 [0.4, 0.6]"]])
    sections = [Section(name, name, (), table, plots) for name in ("answers", "similarity")]
    photograph = data_uri("png", wide_png())
    shown = Shown("0003/0", "0003", "which?", (), photograph, "", (50, 110), "", [])
    return Page(
        "t", [], [], "Questions", [shown], "", "", [], after=sections, every=every, details=[("run elisa", NASTY)]
    )


def wide_png() -> bytes:
    """1100 x 500 px, as a heat map."""
    buffer = io.BytesIO()
    Image.new("RGB", (1100, 500), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(render(whole()))
    return path


def test_without_a_script_every_question_stands_there(page_file: Path) -> None:
    text = page_file.read_text()
    assert len(re.findall(r"<tr><td>", text)) == COUNT
    assert '<div id="tools" role="search" hidden>' in text  # the script shows it
    assert f"all {COUNT} questions stand in one table" in text.partition("<noscript>")[2].partition("</noscript>")[0]


@pytest.fixture(scope="module")
def page(page_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    if browser.find() is None:
        pytest.skip(f"no browser: none of {', '.join(browser.NAMES)}")
    with browser.open_page(page_file, tmp_path_factory.mktemp("profile")) as page:
        yield page


def names(page: browser.Page) -> list[str]:
    found: list[str] = page.run(
        "[...document.querySelectorAll('#every tbody tr')].map(row => row.cells[0].textContent)"
    )
    return found


def search(page: browser.Page, words: str) -> str:
    page.run(
        f"document.querySelector('#tools input').value = {words!r};"
        "document.querySelector('#tools input').dispatchEvent(new Event('input'))"
    )
    said: str = page.run("document.querySelector('#tools output').textContent")
    return said


def press(page: browser.Page, where: str, number: int) -> None:
    page.run(f"document.querySelectorAll('{where} button')[{number}].click()")


def test_it_is_paged(page: browser.Page) -> None:
    assert search(page, "") == f"1 to 50 of {COUNT}"
    assert names(page) == [f"{k:04d}/0" for k in range(50)]
    press(page, "#tools", 1)
    press(page, "#tools", 1)
    assert names(page) == [f"{k:04d}/0" for k in range(100, COUNT)]
    assert page.run("document.querySelectorAll('#tools button')[1].disabled")
    press(page, "#tools", 0)
    assert names(page)[0] == "0050/0"


def test_it_is_searched(page: browser.Page) -> None:
    assert search(page, "CUP question") == "1 to 12 of 12"
    assert names(page) == [f"{k:04d}/0" for k in range(0, COUNT, 10)]
    assert search(page, "0017/0") == "1 to 1 of 1"
    assert search(page, "nowhere") == "no question holds these words"
    assert names(page) == []


def test_it_is_sorted_and_questions_without_an_answer_stand_last(page: browser.Page) -> None:
    search(page, "")
    press(page, "#every thead", 3)
    assert names(page)[:3] == ["0000/0", "0002/0", "0004/0"]
    press(page, "#every thead", 3)
    assert names(page)[:2] == ["0118/0", "0116/0"]
    assert page.run("document.querySelectorAll('#every th')[3].getAttribute('aria-sort')") == "descending"
    press(page, "#tools", 1)
    press(page, "#tools", 1)
    assert all(int(name[:4]) % 2 for name in names(page))
    press(page, "#every thead", 2)
    press(page, "#every thead", 2)
    assert names(page)[0] == "0003/0"
    assert search(page, "0110 cup") == "1 to 1 of 1"
    search(page, "")
    press(page, "#every thead", 0)
    assert names(page)[0] == "0000/0"


def test_nothing_from_data_runs_or_is_fetched(page: browser.Page, page_file: Path) -> None:
    search(page, "document.title")
    assert page.run("document.querySelector('#every tbody tr td:nth-child(2)').textContent") == NASTY
    assert page.run("document.querySelector('#every tbody a').getAttribute('href')") == "#question-1"
    assert page.run("document.querySelector('details pre').textContent") == NASTY
    assert page.run("document.querySelectorAll('#every img').length") == 0
    assert page.run("document.title") == "t"
    assert {url for url in page.requests if not url.startswith("data:")} == {page_file.as_uri()}
    assert page.complaints == []


def test_pictures_come_first_and_no_plot_is_cut(page: browser.Page) -> None:
    order = "[...document.querySelectorAll('article, #every, #answers, #similarity, #parameters')]"
    assert page.run(f"{order}.map(each => each.id)") == [
        "question-1", "every", "answers", "similarity", "parameters"
    ]  # fmt: skip
    left = "[...document.querySelectorAll('#answers ~ .wide td')].map(each => getComputedStyle(each).textAlign)"
    assert page.run(left) == ["left", "left", "right"]
    cut = """[...document.querySelectorAll('.plots img')].filter(image => {
        const [own, frame] = [image, image.parentElement].map(each => each.getBoundingClientRect());
        return own.width < 50 || own.right > Math.min(frame.right, innerWidth) || own.left < frame.left;
    }).length"""
    for width_px in (1400, 900, 400):
        page.resize(width_px, 1000)
        assert page.run("document.querySelectorAll('.plots img').length") == 6
        assert page.run(cut) == 0
    page.resize(1400, 1000)


def test_without_a_script_the_rows_are_seen(page: browser.Page, page_file: Path) -> None:
    seen = "[...document.querySelectorAll('#every tbody tr')].filter(row => row.getBoundingClientRect().height).length"
    assert page.run(seen) <= 50
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    page.go(page_file.as_uri())
    assert page.run(seen) == COUNT
    assert page.run("document.getElementById('tools').hidden")
    page.call("Emulation.setScriptExecutionDisabled", value=False)
    page.go(page_file.as_uri())
    assert page.run(seen) == 50
