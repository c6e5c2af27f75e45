"""docs/add_your_data.md as pasted: five photographs and a table become shards and a page."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from store import open_split

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/add_your_data.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, cli: Any) -> Path:
    """The folder that is data/mine on the page, after all that the page says."""
    folder = tmp_path_factory.mktemp("own") / "mine"
    folder.mkdir()
    params = folder.parent / "mine.yaml"
    params.write_text((ROOT / "params/mine.yaml").read_text().replace("data/mine", str(folder)))
    blocks = FENCE.findall(PAGE)
    (table,) = [text for kind, text in blocks if kind == "csv"]
    (folder / "all.csv").write_text(table, encoding="utf-8")
    count = 0
    for line in "".join(text for kind, text in blocks if kind == "bash").splitlines():
        words = shlex.split(line.replace("params/mine.yaml", str(params)).replace("data/mine", str(folder)))
        if words[:2] == ["python", "cli.py"]:
            count += 1
            done = cli("--set", "run.threads=1", *words[2:])
            assert done.code == 0, done.err
        else:
            subprocess.run(words, check=True, cwd=ROOT)
    assert count == 4
    return folder


def test_the_shards_hold_the_table(ran: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = open_split(ran / "store", "mine", "all", images_root=ran)
    assert set(split.image_ids) == {"astronaut", "camera", "coffee", "trip/chelsea", "trip/rocket"}
    targets = {target["target_id"]: target for record in split for target in record.rows("targets")}
    assert len(targets) == 6
    assert targets["camera/0"]["texts"] == ["What takes the picture?", "the device on the tripod"]
    assert [targets[f"trip/chelsea/{n}"]["absent"] for n in (0, 1)] == [False, True]
    assert all(len(record["mask_embeddings/demo_alphaclip"]) for record in split)
    (python,) = [text for kind, text in FENCE.findall(PAGE) if kind == "python"]
    exec(python.replace("data/mine", str(ran)), {})
    assert capsys.readouterr().out.splitlines()[1] == "['Which animal barks?'] absent"


def test_the_page_shows_every_question(ran: Path) -> None:
    page = (ran / "report/mine/all.html").read_text()
    assert page.count("<article") >= 5
    for name in ("astronaut", "camera", "coffee", "trip/chelsea", "trip/rocket"):
        assert f"image {name}," in page
