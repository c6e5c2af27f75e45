"""docs/add_a_*.md as pasted: into a copy of the code, typed there, and what is printed compared with the page."""

from __future__ import annotations

import doctest
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pages import NAMES, Page, Typist, read_page
from tests.pipeline.code_copy import copy_code

ROOT = Path(__file__).resolve().parents[1]
CODE = (
    "cli.py",
    "pipeline",
    "demo",
    "stages",
    "store",
    "tests",
    "params",
    "params.yaml",
    "weights.lock",
    "pyproject.toml",
)
READY = [f"python cli.py --params params/photos.yaml {verb}" for verb in ("index", "extract")]
"""What the pages ask for first."""
LOADING_TORCH = tuple(f"python -m pytest -q tests/stages/{kind}/" for kind in ("proposers", "encoders", "train"))
"""What takes a process of its own and torch: the slow test types it."""
PARTS = ("What you get", "Paste", "Run", "Test", "Rules")
MOST_CHARACTERS = 120


@pytest.fixture(scope="module")
def typist() -> Iterator[Typist]:
    with Typist() as found:
        yield found


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory, typist: Typist) -> Path:
    """A copy of the code with the store of the six photographs."""
    root = copy_code(CODE, tmp_path_factory.mktemp("adding") / "code")
    for code, _, err in typist.type(READY, root):
        assert code == 0, err
    return root


def paste(name: str, ready: Path, root: Path) -> tuple[Page, Path]:
    """The page, and a copy of the code in which its files are."""
    page = read_page(ROOT / f"docs/{name}.md")
    shutil.copytree(ready, root)
    for edit in page.edits:
        edit.make(root)
    return page, root


@pytest.fixture(scope="module", params=NAMES)
def pasted(request: pytest.FixtureRequest, ready: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Path]:
    """One copy per page; what its commands leave there is next to what was pasted."""
    return paste(request.param, ready, tmp_path_factory.mktemp(request.param) / "code")


def test_the_page_works_as_pasted(pasted: tuple[Page, Path], typist: Typist) -> None:
    page, root = pasted
    commands = [command for command in page.commands if not command.startswith(LOADING_TORCH)]
    assert commands == list(page.commands[: len(commands)])
    found = typist.type(commands, root)
    for command, (code, out, err) in zip(commands, found, strict=False):
        assert code == 0, f"{command}\n{out}\n{err}"
    assert len(found) == len(commands)
    assert page.printed
    for number, want in page.printed.items():
        got, flags = found[number][1], doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(want, got, flags), f"{page.commands[number]}\n{got}"
    assert any(command.startswith("python -m pytest") for command in page.commands)


def test_what_is_pasted_is_clean(pasted: tuple[Page, Path]) -> None:
    page, root = pasted
    files = sorted({edit.path for edit in page.edits if edit.path.endswith(".py")})
    for words in (["check"], ["format", "--check", "--diff"]):
        done = subprocess.run(["ruff", *words, *files], cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_pasted_passes_mypy_and_each_command_works_by_itself(name: str, ready: Path, tmp_path: Path) -> None:
    page, root = paste(name, ready, tmp_path / "code")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    script = "\n".join(["set -e", *page.commands])
    done = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_have_one_form_and_length(name: str) -> None:
    text = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^\*\*([^*]+)\.\*\*", text, re.MULTILINE) == list(PARTS)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert 300 <= len(prose.split()) <= 600, len(prose.split())
    assert max(map(len, text.splitlines())) <= MOST_CHARACTERS


def test_a_page_that_is_wrong_is_caught(tmp_path: Path, typist: Typist) -> None:
    """So these tests can fail."""
    page = tmp_path / "page.md"
    page.write_text("Type:\n\n```bash\npython -c 'print(1, 2)'\n```\n\nIt prints:\n\n```text\n1 3\n```\n")
    assert typist.type(read_page(page).commands, tmp_path) == [(0, "1 2\n", "")]
    assert [code for code, _, _ in typist.type(["true", "false", "true"], tmp_path)] == [0, 1]
    with pytest.raises(AssertionError, match="no answer"):
        typist.type(["python -c '1 / 0'"], tmp_path)
    assert read_page(page).printed == {0: "1 3\n"}
    page.write_text("Somewhere:\n\n```python\nx = 1\n```\n")
    with pytest.raises(AssertionError, match="nothing says where this block goes"):
        read_page(page)
    page.write_text("`a.py`, below `x = 1`:\n\n```python\ny = 2\n```\n")
    (tmp_path / "a.py").write_text("x = 1\nx = 1\n")
    with pytest.raises(ValueError, match="too many values"):
        read_page(page).edits[0].make(tmp_path)
