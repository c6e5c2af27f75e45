"""docs/first_hour.md: five commands from a clone to an answer about a photograph, and what a newcomer does next.

``tests/pipeline/test_pipe_ask.py`` runs the last one on small models.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from pycocotools.coco import COCO

from tests import screenshots

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/first_hour.md").read_text(encoding="utf-8")
COMMANDS, *LATER = [block.strip().splitlines() for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)]
OWN_DATA = re.findall(
    r"```(bash|csv)\n(.*?)```", (ROOT / "docs/add_your_data.md").read_text(encoding="utf-8"), re.DOTALL
)


def test_there_are_five_commands_and_each_exists() -> None:
    clone, make, activate, *verbs = map(shlex.split, COMMANDS)
    assert clone == ["git", "clone", "ADDRESS", "elisa-store", "&&", "cd", "elisa-store"]
    assert f"\n{make[1]}: " in (ROOT / "Makefile").read_text()
    assert activate == ["source", ".venv/bin/activate"]
    assert [words[:3] for words in verbs] == [["python", "cli.py", "train"], ["python", "cli.py", "ask"]]
    group: Any = typer.main.get_command(importlib.import_module("cli").app)
    for _, _, verb, *rest in verbs:
        context = group.commands[verb].make_context(verb, rest)
        assert context.params["system"] == "elisa"
    assert (ROOT / verbs[-1][verbs[-1].index("--image") + 1]).is_file()


class Clone:
    """A clone of the repository in which lines of the pages are typed. Its .venv is the environment of this test."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "elisa-store"
        self.environment = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "OMP_NUM_THREADS")}

    def type(self, script: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["bash", "-c", f"set -e\n{script}"],
            cwd=cwd or self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, script + done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def in_environment(self, line: str) -> str:
        return self.type(f"source .venv/bin/activate\n{line}")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_newcomer_types_the_pages(tmp_path: Path) -> None:
    """As they stand, but for the set-up, which needs a network."""
    clone = Clone(tmp_path)
    environment = clone.root / ".venv"
    parts = " ".join(shlex.quote(str(Path(sys.prefix) / name)) for name in ("bin", "lib", "pyvenv.cfg"))
    ready = f"mkdir {environment} && ln -s {parts} {environment} && touch {environment}/installed"
    first, *rest = COMMANDS
    said = clone.type("\n".join([first.replace("ADDRESS", shlex.quote(str(ROOT))), ready, *rest]), tmp_path)
    begins = r"^Running stage 'masks@demo' \(stage \d+ of 15, \S+ so far, about \S+ to go\):$"
    assert re.search(begins, said, re.MULTILINE)
    (drawn,) = re.findall(r"^    picture  (\S+\.png)$", said, re.MULTILINE)
    with Image.open(clone.root / drawn) as picture:
        assert picture.format == "PNG"
    for line in examples("ask", "runs", "report", "export", "info", "data", "verify"):
        clone.in_environment(line)

    for kind, text in OWN_DATA:
        if kind == "csv":
            (clone.root / "data/mine/all.csv").write_text(text, encoding="utf-8")
            continue
        for line in text.splitlines():
            clone.in_environment(line)
    said = "".join(clone.in_environment(line) for block in LATER for line in block)
    (results,) = (clone.root / "data/mine/coco").rglob("masks_results.json")
    masks = COCO(results.with_name("images.json")).loadRes(str(results))
    assert len(masks.getAnnIds()) >= len(masks.getImgIds()) == 5
    assert re.search(r"elisa-seed1", said)
    assert clone.type("git status --porcelain") == ""


def examples(*verbs: str) -> list[str]:
    """Those of ``--help`` that need no more than what the five commands made: the store, and the run elisa."""
    group: Any = typer.main.get_command(importlib.import_module("cli").app)
    lines = [line for verb in verbs for line in re.findall(r"`(python cli\.py [^`]+)`", group.commands[verb].help)]
    needs = re.compile(r"--name lisa|photo\.jpg|params/|data refcoco|predictions|for-the-meeting")
    found = [line for line in lines if not needs.search(line)]
    assert {line.split()[2] for line in found} == {*verbs}
    return found


def test_the_pictures_are_small() -> None:
    pictures = [ROOT / "docs" / path for path in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)]
    assert sorted(pictures) == sorted((ROOT / "docs/pictures").iterdir())
    for path in pictures:
        assert path.stat().st_size <= screenshots.MOST_BYTES, path
        with Image.open(path) as picture:
            assert picture.format == "PNG"
    assert {path.stem for path in pictures} == {*screenshots.PAGES, "report", "ask"}


def test_screenshots_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(screenshots, "ROOT", tmp_path)
    monkeypatch.setattr(screenshots.browser, "find", lambda: "chromium")
    assert screenshots.main() == 2
    assert capsys.readouterr().err == "error: no data/report/demo/test.html; first: make repro-all\n"
    monkeypatch.setattr(screenshots.browser, "find", lambda: None)
    assert screenshots.main() == 2
    assert "install Chromium" in capsys.readouterr().err
