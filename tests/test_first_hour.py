"""docs/first_hour.md: five commands from a clone to an answer about a photograph.

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

from tests import screenshots

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/first_hour.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)[0].strip().splitlines()


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


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_five_commands(tmp_path: Path) -> None:
    """As they stand, but for the set-up, which needs a network: the clone's .venv is the environment of this test."""
    environment = tmp_path / "elisa-store/.venv"
    parts = " ".join(shlex.quote(str(Path(sys.prefix) / name)) for name in ("bin", "lib", "pyvenv.cfg"))
    ready = f"mkdir {environment} && ln -s {parts} {environment} && touch {environment}/installed"
    clone, *rest = COMMANDS
    script = "\n".join(
        ["set -e", clone.replace("ADDRESS", shlex.quote(str(ROOT))), ready, *rest, "git status --porcelain >&2"]
    )
    plain = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "OMP_NUM_THREADS")}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    begins = r"^Running stage 'masks@demo' \(stage \d+ of 15, \S+ so far, about \S+ to go\):$"
    assert re.search(begins, done.stdout, re.MULTILINE)
    (drawn,) = re.findall(r"^    picture  (\S+\.png)$", done.stdout, re.MULTILINE)
    with Image.open(tmp_path / "elisa-store" / drawn) as picture:
        assert picture.format == "PNG"
    assert not [line for line in done.stderr.splitlines() if line.startswith(("?? ", " M "))], "git status"
    for line in examples("ask", "runs", "report", "export", "info", "data", "verify"):
        said = subprocess.run(["bash", "-c", f"source .venv/bin/activate && {line}"], cwd=tmp_path / "elisa-store", env=plain,
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert said.returncode == 0, line + said.stdout[-2000:] + said.stderr[-2000:]


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
