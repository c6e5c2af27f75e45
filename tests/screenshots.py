"""Makes the pictures of docs/first_hour.md from the demo, in a headless Chromium, after ``make repro-all``.

make screenshots
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from tests import browser
from tests.pipeline.browsing import served

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/pictures"
SPLIT, IMAGE, QUESTION = "demo/test", 3, "What could one drink from?"
WIDTH_PX, KEPT_PX = 1200, 800
"""Of the browser's window, and of the picture that is kept."""
MOST_BYTES = 150_000
READY = "document.body.dataset.ready === 'yes'"
LOADED = "[...document.images].every(each => each.complete || each.getBoundingClientRect().top > innerHeight)"
PAGES = {
    "browse": (900, "/?split={split}", []),
    "picture": (
        1250,
        "/image?split={split}&index={image}&mask=1",
        [("#runs button", "path.answer"), ("#nearest button[data-column*=centered]", ".neighbours li img")],
    ),
    "compare": (900, "/compare?split={split}&a=run:elisa&b=run:lisa", []),
}
"""Name of the file -> height of the window in px, address, and what is clicked, each with what is there afterwards."""


def main() -> int:
    """Write every picture and say its size."""
    report = ROOT / "data/report/demo/test.html"
    if browser.find() is None:
        return _fail(f"no browser: none of {', '.join(browser.NAMES)}; install Chromium")
    if not report.is_file():
        return _fail(f"no {report.relative_to(ROOT)}; first: make repro-all")
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, served(ROOT / "params.yaml") as server:
        with browser.open_page("about:blank", Path(folder) / "profile") as page:
            for name in PAGES:
                show(page, server.address, name, SPLIT, IMAGE)
                _keep(name, page.screenshot())
            page.go(f"{report.as_uri()}#questions")
            page.wait(LOADED)
            _keep("report", page.screenshot())
        answer = Path(folder) / "answer.png"
        words = ["--name", "elisa", "--image", f"{SPLIT}/{IMAGE:04}", "--question", QUESTION, "--out", str(answer)]
        subprocess.run([sys.executable, "cli.py", "ask", *words], cwd=ROOT, check=True)
        _keep("ask", answer.read_bytes())
    return 0


def show(page: browser.Page, address: str, name: str, split: str, image: int) -> None:
    """Open one of :data:`PAGES` and do what is clicked on it."""
    height_px, path, clicks = PAGES[name]
    page.resize(WIDTH_PX, height_px)
    page.go(address + path.format(split=split, image=image))
    page.wait(READY)
    for button, then in clicks:
        page.wait(f"document.querySelector('{button}')")
        page.run(f"document.querySelector('{button}').click()")
        page.wait(f"document.querySelector('{then}')")
    page.wait(LOADED)


def _keep(name: str, png: bytes) -> None:
    """The picture made smaller, with as many colours as the limit of its bytes allows."""
    path = OUT / f"{name}.png"
    with Image.open(io.BytesIO(png)) as picture:
        smaller = picture.convert("RGB")
    smaller.thumbnail((KEPT_PX, smaller.height), Image.Resampling.LANCZOS)
    for colours in (256, 128, 64, 32):
        smaller.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(path, optimize=True)
        if path.stat().st_size <= MOST_BYTES:
            break
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB, {colours} colours")


def _fail(why: str) -> int:
    print(f"error: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
