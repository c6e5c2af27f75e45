"""The pages of ``browse`` in a real headless Chromium, clicked through; names and captions are hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from browsing import CAPTION, NAME, Server, served

from tests import browser, screenshots

pytestmark = pytest.mark.skipif(browser.find() is None, reason=f"no browser: none of {', '.join(browser.NAMES)}")

READY = "document.body.dataset.ready === 'yes'"
TEXTS = "[...document.querySelectorAll({})].map(each => each.textContent)"
WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def server(browsed: Any) -> Iterator[Server]:
    with served(browsed.params) as running:
        yield running


@pytest.fixture(scope="module")
def page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    with browser.open_page(f"{server.address}/?split=tiny/val", tmp_path_factory.mktemp("profile")) as page:
        yield page
        assert page.run("document.title") == "tiny/val – ELISA feature store"  # no hostile text ran
        assert {url for url in page.requests if not url.startswith(server.address + "/")} <= {"about:blank"}
        assert page.complaints == []


def texts(page: browser.Page, selector: str) -> list[str]:
    found: list[str] = page.run(TEXTS.format(json.dumps(selector)))
    return found


def click(page: browser.Page, selector: str, then: str | None = None) -> None:
    """Click what a selector finds; ``then``: what is true afterwards, None: a new page is there."""
    if then is None:
        page.run("delete document.body.dataset.ready, document.body.dataset.old = 'yes'")
    page.run(f"document.querySelector({json.dumps(selector)}).click()")
    page.wait(then or f"document.body.dataset.old === undefined && {READY}")


def test_a_person_filters_sorts_and_opens_a_picture(page: browser.Page, server: Server) -> None:
    page.go(f"{server.address}/?split=tiny/val")
    page.wait(READY)
    assert texts(page, ".card .name") == ["fox", "gnu", "hen", NAME, "empty", "unasked", "wrong"]
    assert page.run("document.querySelectorAll('.card b, .card img[onerror]').length") == 0
    assert CAPTION in texts(page, ".card .text")
    assert "no readable header" in texts(page, ".card .gone")[0]
    page.run("document.querySelector('[name=text]').value = '<B>BOLD'")
    click(page, "#filters button[type=submit]")
    assert texts(page, ".card .name") == [NAME]
    click(page, "#clear")
    page.run("document.querySelector('[name=failed]').value = 'no'")
    page.run("document.querySelector('[name=sort]').value = 'run:lisa'")
    page.run("document.querySelector('[name=order]').value = 'down'")
    click(page, "#filters button[type=submit]")
    ordered = texts(page, ".card .name")
    assert len(ordered) == 6
    assert ordered[-1] == "unasked"
    click(page, ".card a")
    assert texts(page, "h1") == ordered[:1]
    page.wait("document.getElementById('next')")
    assert texts(page, "#pager .count")[-1] == "1 of 6"
    page.run("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})), true")
    page.wait(f"document.querySelector('h1')?.textContent === {json.dumps(ordered[1])}")
    page.wait("document.getElementById('next')")
    click(page, "#back")
    assert texts(page, ".card .name") == ordered


def test_pages_follow_each_other_by_their_links(page: browser.Page, server: Server) -> None:
    page.go(f"{server.address}/?split=tiny/val&limit=3&sort=masks:sam")
    page.wait(READY)
    seen = [texts(page, ".card .name")]
    for _ in range(2):
        click(page, "#next")
        seen.append(texts(page, ".card .name"))
    assert sorted(name for names in seen for name in names) == sorted(
        ["fox", "gnu", "hen", NAME, "empty", "unasked", "wrong"]
    )
    click(page, "#previous")
    assert texts(page, ".card .name") == seen[1]


def test_one_picture_tells_of_the_mask_below_the_pointer(page: browser.Page, server: Server) -> None:
    page.go(f"{server.address}/image?split=tiny/val&index=3")
    page.wait(READY)
    found = server.ask("image", split="tiny/val", index=3)
    masks = found["proposers"]["sam"]["masks"]
    assert page.run("document.querySelectorAll('.stage path.mask').length") == len(masks)
    assert page.run("document.querySelectorAll('.stage path.truth').length") == 1
    x, y = page.run("""(() => {
        const path = document.querySelector('path.mask[data-number="2"]');
        const box = path.getBBox(), matrix = path.getScreenCTM();
        for (let x = box.x; x < box.x + box.width; x++) for (let y = box.y; y < box.y + box.height; y++) {
            const at = new DOMPoint(x + 0.5, y + 0.5).matrixTransform(matrix);
            if (document.elementFromPoint(at.x, at.y) === path) return [at.x, at.y];
        }
    })()""")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.wait("document.querySelector('#about dd')?.textContent === '2'")
    said = dict(zip(texts(page, "#about dt"), texts(page, "#about dd"), strict=True))
    assert said["area"] == f"{masks[2]['area']} px"
    assert said["predicted IoU"] == f"{masks[2]['predicted_iou']:.3f}"
    assert "IoU with the target" in said
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    page.wait("document.querySelector('path.mask.chosen')?.dataset.number === '2'")
    click(page, "#truth", "!document.querySelector('path.truth')")
    click(page, "#truth", "document.querySelector('path.truth')")
    click(page, "#runs button", "document.querySelector('path.answer')")
    assert "It is <b>elisa</b>." in texts(page, "#answers td")
    assert CAPTION in texts(page, ".questions bdi")


def test_the_picture_stays_where_it_is_while_the_rest_of_the_page_arrives(page: browser.Page, server: Server) -> None:
    page.go(f"{server.address}/image?split=tiny/val&index=3")
    page.wait("document.body.dataset.runs === 'yes'")
    moved = page.run("""new Promise(resolve => {
        const of = [];
        new PerformanceObserver(list => of.push(...list.getEntries())).observe({type: "layout-shift", buffered: true});
        const moves = source => source.previousRect.height > 100 && source.node?.contains(document.querySelector(".stage"));
        const found = () => of.flatMap(entry => entry.sources.filter(moves).map(source => source.node.id));
        setTimeout(() => resolve(found()), 300);
    })""")
    assert moved == []


def test_nearest_masks_and_provenance(page: browser.Page, server: Server) -> None:
    page.go(f"{server.address}/image?split=tiny/val&index=1&mask=0")
    page.wait(READY)
    for column in ("mask_embeddings/sam/demo_sam", "centered/tiny/mask_embeddings/sam/demo_sam"):
        click(page, f'#nearest button[data-column="{column}"]', "document.querySelector('.neighbours li')")
        page.run("document.querySelector('.neighbours').remove(), true")
    click(
        page, '#nearest button[data-column="mask_embeddings/sam/demo_sam"]', "document.querySelector('.neighbours li')"
    )
    assert page.run("document.querySelectorAll('.neighbours path').length") == 6
    click(page, "#provenance summary", "document.querySelector('#provenance details')")
    assert "masks/sam – current" in texts(page, "#provenance details summary")
    assert "demo_sam" in texts(page, '[data-column="masks/sam"] dd')[4]
    click(page, ".neighbours li a")
    assert page.wait("document.querySelector('path.mask.chosen')")


def test_masks_are_found_by_words(page: browser.Page, server: Server) -> None:
    page.go(f"{server.address}/search?split=tiny/val")
    page.wait(READY)
    assert "demo_sam has no text tower" in texts(page, "#others div")[0]
    page.run(f"document.querySelector('[name=text]').value = {json.dumps(CAPTION[:60])}")
    page.run("document.querySelector('[name=apart]').checked = false")
    click(page, "#filters button[type=submit]")
    asked = {"text": CAPTION[:60], "column": "mask_embeddings/sam/demo_alphaclip", "apart": "no"}
    found = server.ask("described", split="tiny/val", **asked)["masks"]
    ends = [f"{each['id']}, mask {each['mask']}: {each['cosine']:.3f}" for each in found]
    assert texts(page, ".neighbours a") == ends
    assert page.run("document.querySelector('[name=text]').value") == CAPTION[:60]
    click(page, ".neighbours a")
    page.wait(f"document.querySelector('path.mask.chosen')?.dataset.number === '{found[0]['mask']}'")


def test_answers_that_may_be_outdated_are_marked(page: browser.Page, server: Server) -> None:
    """The answers of this store were written without a run."""
    page.go(f"{server.address}/?split=tiny/val")
    page.wait("document.querySelectorAll('#outdated .note').length === 2")
    assert "nothing in the folder of the run says which training" in texts(page, "#outdated .note")[0]
    page.wait("document.querySelector('[name=sort] option[value=\"run:elisa\"]').text === 'IoU of elisa (outdated)'")
    page.go(f"{server.address}/image?split=tiny/val&index=1")
    page.wait("document.body.dataset.runs === 'yes'")
    assert texts(page, "#answers .tag.outdated") == ["outdated", "outdated"]
    assert texts(page, "#runs .tag.outdated") == ["outdated", "outdated"]


def test_two_runs_are_compared_sorted_by_difference(page: browser.Page, server: Server) -> None:
    page.go(f"{server.address}/compare?split=tiny/val")
    page.wait(READY)
    found = server.ask("page", split="tiny/val", sort="difference", a="run:elisa", b="run:lisa", order="down")
    assert texts(page, "#pairs > li > a") == [item["id"] for item in found["items"]]
    assert page.run("document.querySelectorAll('.sides figure').length") == 2 * 7
    assert "IoU of lisa" in texts(page, "figcaption")[1]
    page.run("document.querySelector('[name=order]').value = 'up'")
    click(page, "#filters button[type=submit]")
    assert texts(page, "#pairs > li > a")[0] != found["items"][0]["id"]


@pytest.mark.parametrize("path", ["/?", "/image?index=3&mask=0&", "/search?text=mug&", "/compare?"])
@pytest.mark.parametrize("width_px", [360, 1400])
def test_pages_fit_the_window(page: browser.Page, server: Server, path: str, width_px: int) -> None:
    page.resize(width_px, 900)
    page.go(f"{server.address}{path}split=tiny/val")
    page.wait(READY)
    assert page.run(WIDE) <= 0
    page.resize(1400, 1000)


def test_the_content_policy_holds(server: Server, tmp_path: Any) -> None:
    """What a hostile text could try is blocked even if it became markup."""
    with browser.open_page(f"{server.address}/?split=tiny/val", tmp_path) as page:
        page.wait(READY)
        markup = '<img src="https://example.org/x.png" onerror="document.title=1">'
        page.run(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(markup)}), true")
        page.run(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 2'})), true"
        )
        page.wait("new Promise(done => setTimeout(() => done(true), 300))")
        assert page.run("document.title") not in ("1", "2")
        assert sum("Content Security Policy" in complaint for complaint in page.complaints) >= 2


def test_what_goes_wrong_is_said_on_the_page(server: Server, tmp_path: Any) -> None:
    with browser.open_page(f"{server.address}/image?split=tiny/val&index=99", tmp_path) as page:
        page.wait("document.querySelector('.error')")
        assert "no image 99 in tiny/val; it has 7" in texts(page, ".error")[0]


@pytest.mark.parametrize("name", screenshots.PAGES)
def test_what_the_screenshots_click_is_there(page: browser.Page, server: Server, name: str) -> None:
    screenshots.show(page, server.address, name, "tiny/val", 1)
