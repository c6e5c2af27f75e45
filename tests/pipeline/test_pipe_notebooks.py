"""The notebooks of docs/ run from first to last cell: quickly on a small store, and as they are in a copy of the repository.

Their cells are run as plain Python, in order and in one process (``tests/notebooks.py``). No kernel of Jupyter takes part.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
DISPLAYED = {
    "nearest_masks.ipynb": ("Split", "Record", "Region", "Image"),
    "train_llmseg_heads.ipynb": ("Record", "Image"),
}
"""Notebook -> what its cells end with, in this order."""


def run(root: Path, name: str, *replaced: str | Path, **environment: str) -> str:
    """What the cells print and show."""
    command = [sys.executable, "-W", "error", ROOT / "tests/notebooks.py", root / "docs/notebooks" / name, *replaced]
    env = os.environ | {"PYTHONPATH": ""} | environment
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = [kind for kind in re.findall(r"^_repr_\w+_ of (\w+): \d+$", done.stdout, re.MULTILINE) if kind != "int"]
    assert tuple(shown) == DISPLAYED[name]
    return done.stdout


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_small_prose_and_code_without_outputs(name: str) -> None:
    book = json.loads((FOLDER / name).read_text("utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert (FOLDER / name).stat().st_size < 20_000
    kinds = [cell["cell_type"] for cell in book["cells"]]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") >= kinds.count("code") * 2 / 3
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    sources = ["".join(cell["source"]) for cell in book["cells"]]
    assert not [line for text in sources for line in text.splitlines() if line.startswith(("!", "%"))], "plain Python"
    links = [link for text in sources for link in re.findall(r"\]\(([^)#]+)", text)]
    assert links
    assert [link for link in links if not (FOLDER / link).exists()] == []


def test_nearest_masks_of_a_small_folder(finished_once: Any, tmp_path: Path) -> None:
    pictures = shutil.copytree(finished_once.data, tmp_path / "pictures")
    params = ("points_per_side: 12", "points_per_side: 2", "pred_iou_thresh: 0.4", "pred_iou_thresh: 0.0")
    out = run(ROOT, NOTEBOOKS[0], 'pipeline("demo")', "", "data/demo/val", pictures, "data/notebook", tmp_path, *params)
    cosines = [
        float(value) for value in re.findall(r"^image [0124-7], mask \d+: cosine (-?\d\.\d+)$", out, re.MULTILINE)
    ]
    assert len(cosines) == 7, "one of each other image"
    assert cosines == sorted(cosines, reverse=True)


def test_heads_learn_on_a_small_store(finished: Any) -> None:
    names = {'"demo", "index"': '"index"', "data/store": finished.store, "data/demo": finished.data}
    names |= {'dataset="demo"': 'dataset="tiny"', "demo_sam": "sam"}
    words = [word for pair in names.items() for word in pair]
    out = run(ROOT, NOTEBOOKS[1], *words, PARAMS=str(finished.params), EPOCHS="8")
    losses = [
        float(loss) for loss in re.findall(r"^epoch \d+: loss (\d+\.\d+), val mean IoU \d\.\d+$", out, re.MULTILINE)
    ]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_they_run_as_they_are(tmp_path: Path) -> None:
    """In a copy of the repository. The heads find more of the answers than before they were trained, and than the largest mask."""
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    nearest, heads = (run(tmp_path, name) for name in NOTEBOOKS)
    assert len(re.findall(r"cosine 0\.\d+", nearest)) == 8
    largest, best = (float(value) for value in re.findall(r"the (?:largest|best) mask (0\.\d+)", heads))
    (before,) = (float(value) for value in re.findall(r"the heads before training (0\.\d+)", heads))
    after = [float(value) for value in re.findall(r"val mean IoU (0\.\d+)", heads)]
    assert max(before, largest) + 0.1 < after[-1] < best
