"""The sheet in a real headless Chromium: what a person clicks is what is read back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stages.questions.items import Scene
from stages.questions.pictures import outlined
from stages.questions.sheet import FORM, Decision, Item, read_decisions, write_sheets
from store import rle
from tests import browser
from tests.stages.questions.pictured import scene_of

pytestmark = pytest.mark.skipif(browser.find() is None, reason=f"no browser: none of {', '.join(browser.NAMES)}")

NASTY = '<img src="https://example.org/x.png" onerror="document.title=1"></textarea><b>bold</b> & "quoted" {{ page }}'
IDS = ("a/0", "a/1", f"a/{NASTY}", "b/0")
MASK = np.zeros((40, 60), bool)
MASK[10:20, 10:20] = True
CLICK = "document.querySelectorAll('article')[{}].querySelector('button[value=\"{}\"]').click()"
COUNT = "document.getElementById('count').textContent"
SHOWN = "[...document.querySelectorAll('article')].map(each => each.checkVisibility())"


def items(scene: Scene) -> list[Item]:
    picture = outlined(scene, rle.encode(MASK), 60)
    return [Item(target_id, target_id[0], NASTY, NASTY, (NASTY,), picture) for target_id in IDS]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene_of(np.full((40, 60, 3), 90, np.uint8), tmp_path_factory.mktemp("pictures") / "a.png")


@pytest.fixture(scope="module")
def pages(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[browser.Page, Path]]:
    """One browser for all tests, and the folder that it downloads to."""
    folder = tmp_path_factory.mktemp("sheets")
    write_sheets(folder / "any", NASTY, items(scene))
    write_sheets(folder / "one", NASTY, items(scene), pick_one=True)
    downloads = folder / "downloads"
    downloads.mkdir()
    with browser.open_page(folder / "any/sheet-001.html", folder / "profile") as page:
        page.call("Browser.setDownloadBehavior", session=None, behavior="allow", downloadPath=str(downloads))
        yield page, folder


@pytest.fixture
def page(pages: tuple[browser.Page, Path]) -> Iterator[browser.Page]:
    page, folder = pages
    open_again(page, folder / "any/sheet-001.html")
    yield page
    for left in (folder / "downloads").iterdir():
        left.unlink()


def open_again(page: browser.Page, path: Path) -> None:
    page.run("window.onbeforeunload = null; unsaved = false")
    page._loaded = False
    page.load(path, 1400, 1000)


def saved(page: browser.Page, folder: Path) -> dict[str, Decision]:
    page.run("document.getElementById('save').click()")
    path, end = folder / "downloads/decisions.json", time.monotonic() + browser.TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < end, "nothing was saved"
        time.sleep(0.05)
    return read_decisions(path, IDS.__contains__)


def load(page: browser.Page, path: Path) -> None:
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#load")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    page.run("new Promise(resolve => setTimeout(resolve, 200))")


def test_clicks_are_read_back(page: browser.Page, pages: tuple[browser.Page, Path]) -> None:
    assert page.run(COUNT) == "0 of 4 decided"
    page.run(CLICK.format(0, "keep"))
    page.run(CLICK.format(1, "reject"))
    page.run(CLICK.format(2, "keep"))
    page.run(CLICK.format(3, "keep"))
    page.run(CLICK.format(3, ""))
    assert page.run(COUNT) == "3 of 4 decided, not saved"
    found = saved(page, pages[1])
    assert found == {"a/0": Decision("keep", NASTY), "a/1": Decision("reject", NASTY), IDS[2]: Decision("keep", NASTY)}
    assert page.run(COUNT) == "3 of 4 decided"


def test_an_edited_question_is_one_line(page: browser.Page, pages: tuple[browser.Page, Path]) -> None:
    page.run(CLICK.format(0, "keep"))
    page.run(
        "const area = document.querySelector('textarea'); area.value = '  Who\\n barks\\u200b? ';"
        "area.dispatchEvent(new Event('input'))"
    )
    page.run("document.querySelectorAll('textarea')[1].value = 'edited, and not kept'")
    page.run("document.querySelectorAll('textarea')[2].value = '  '")
    page.run(CLICK.format(2, "keep"))
    assert saved(page, pages[1]) == {"a/0": Decision("keep", NASTY, "Who barks?"), IDS[2]: Decision("keep", NASTY)}


def test_only_undecided_ones_are_shown_where_asked_for(page: browser.Page) -> None:
    page.run(CLICK.format(1, "reject"))
    page.run(CLICK.format(3, "keep"))
    assert page.run(SHOWN) == [True] * 4
    page.run("document.getElementById('undecided').click()")
    assert page.run(SHOWN) == [True, False, True, False]
    assert page.run("[...document.querySelectorAll('section')].map(each => each.checkVisibility())") == [True, False]


def test_of_the_questions_of_an_image_one_is_picked(page: browser.Page, pages: tuple[browser.Page, Path]) -> None:
    open_again(page, pages[1] / "one/sheet-001.html")
    page.run(CLICK.format(0, "keep"))
    page.run(CLICK.format(1, "keep"))
    found = saved(page, pages[1])
    assert found == {
        "a/0": Decision("reject", NASTY),
        "a/1": Decision("keep", NASTY),
        IDS[2]: Decision("reject", NASTY),
    }


def test_decisions_of_other_pages_go_along(
    page: browser.Page, pages: tuple[browser.Page, Path], tmp_path: Path
) -> None:
    path = tmp_path / "before.json"
    before = {
        "a/0": {"decision": "keep", "asked": NASTY, "question": "Who barks?"},
        "__proto__": {"decision": "reject", "asked": "who?"},
    }
    stale = {"b/0": {"decision": "reject", "asked": "a question that was made again since"}}
    path.write_text(json.dumps({"form": FORM, "decisions": before | stale}))
    load(page, path)
    said = "1 of 4 decided, and 1 of other pages; 1 left out, as they are about other questions"
    assert page.run(COUNT) == said
    assert page.run("document.querySelector('textarea').value") == "Who barks?"
    page.run(CLICK.format(3, "keep"))
    page.run("document.getElementById('save').click()")
    written = pages[1] / "downloads/decisions.json"
    end = time.monotonic() + browser.TIMEOUT_S
    while not written.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert json.loads(written.read_text())["decisions"] == {**before, "b/0": {"decision": "keep", "asked": NASTY}}


@pytest.mark.parametrize(
    "text", ["{", "null", "{}", '{"form": "x", "decisions": {}}', f'{{"form": "{FORM}", "decisions": {{"a": {{}}}}}}']
)
def test_a_file_of_another_form_is_not_loaded(page: browser.Page, tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    load(page, path)
    assert page.run(COUNT).startswith("not loaded: ")


def test_markup_in_data_is_text_and_nothing_is_asked_of_the_network(
    page: browser.Page, pages: tuple[browser.Page, Path]
) -> None:
    loaded = page.run(
        "Promise.all([...document.images].map(image => image.decode())).then(() => document.images.length)"
    )
    assert loaded == len(IDS)
    assert page.run("[...document.querySelectorAll('textarea')].map(each => each.value)") == [NASTY] * 4
    assert page.run("document.title") == NASTY
    assert page.run("document.querySelectorAll('main b img, li img, li b').length") == 0
    asked = {url for url in page.requests if not url.startswith(("data:", "blob:"))}
    assert asked <= {path.as_uri() for path in pages[1].glob("*/sheet-001.html")}


def test_no_script_but_its_own_runs(page: browser.Page) -> None:
    page.run("document.body.insertAdjacentHTML('beforeend', '<button id=evil onclick=\"document.title=7\">x</button>')")
    page.run("document.getElementById('evil').click()")
    assert page.run("document.title") == NASTY
    assert any("Content Security Policy" in complaint for complaint in page.complaints)
