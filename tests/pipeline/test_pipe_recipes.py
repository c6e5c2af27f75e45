"""docs/recipes.md as pasted: every command and every program runs on a small store, in the order of the page."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import open_split

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def here(block: str, folder: Path) -> str:
    """A block with the places and names of the small store in place of the demo's."""
    names = {
        "data/store": str(folder / "store"),
        "data/demo": str(folder / "data"),
        "data/export": str(folder / "export"),
    }
    names |= {"data/elsewhere": str(folder / "elsewhere"), "data/mask_": str(folder / "mask_"), "elisa_store": "store"}
    names |= {"demo_sam": "sam", "/demo/": "/tiny/", '"demo"': '"tiny"', "(0, 1)": "(0, 0)"}
    for there, value in names.items():
        block = block.replace(there, value)
    return block


@pytest.fixture(scope="module")
def ran(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the store, and the names that the programs leave."""
    project = finished_once.copy(tmp_path_factory.mktemp("recipes"))
    names: dict[str, Any] = {}
    for kind, block in FENCE.findall(PAGE):
        text = here(block, project.folder)
        if kind == "python":
            exec(compile(text, f"docs/recipes.md: {block.splitlines()[0]}", "exec"), names)
        for line in text.replace("\\\n", "").splitlines() if kind == "bash" else ():
            words = shlex.split(line)
            if words[:2] == ["python", "cli.py"]:
                done = project.run(*words[2:])
                assert done.code == 0, done.err
            else:
                subprocess.run(words, check=True)
    return project.folder, names


def test_the_nearest_masks_are_drawn(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, names = ran
    split = open_split(folder / "store", "tiny", "val", proposer="sam")
    assert names["where"] == [
        (image, k) for image, record in enumerate(split) for k in range(len(record[names["column"]]))
    ]
    norms = np.linalg.norm(names["vectors"], axis=1)
    assert np.allclose(norms[norms > 0], 1, atol=1e-4)
    assert np.argmax(names["cosines"]) == names["query"]
    assert len(list(folder.glob("mask_*.png"))) == min(5, len(norms) - 1)


def test_the_export_holds_what_the_store_holds(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, names = ran
    split = open_split(folder / "store", "tiny", "val", proposer="sam")
    assert len(names["proposals"].getAnnIds()) == sum(len(record.masks) for record in split)
    assert len(names["instances"].getAnnIds()) == sum(len(record.instances) for record in split)
    assert np.allclose(np.diag(names["overlaps"]), 1)


def test_the_loss_falls_and_every_loader_gives_every_question(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, names = ran
    split = open_split(folder / "store", "tiny", "val", proposer="sam")
    assert names["losses"][-1] < names["losses"][0]
    asked = [(record, target) for record in split for target in record.targets]
    assert names["questions"] == len(asked) == len(names["lists"].dataset)
    texts = {target["texts"][0]: (record, target) for record, target in asked}
    record, target = texts[names["text"]]
    assert np.array_equal(names["masks"].numpy(), record[names["column"]])
    assert np.allclose(names["iou"].numpy(), target["iou"])


def test_other_libraries_and_a_copy_read_the_same(ran: tuple[Path, dict[str, Any]]) -> None:
    folder, names = ran
    split = open_split(folder / "store", "tiny", "val", proposer="sam")
    assert np.array_equal(names["first"], split[0][names["column"]])
    assert names["areas"] == {record.image_index: [mask["area"] for mask in record.masks] for record in split}
    assert list(names["copied"].columns) == ["images", "mask_embeddings/sam/demo_alphaclip", "masks/sam"]
    assert np.array_equal(names["record"][names["column"]], split[0][names["column"]])
