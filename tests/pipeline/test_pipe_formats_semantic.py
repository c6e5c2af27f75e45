"""Label maps, LLM-Seg40K, MUSE and conversations over the same pictures of COCO, through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written_llmseg40k
import written_reasonseg_plus
import written_vqa
import yaml
from lending import rows
from written_semantic import jpeg, png

SIZE = (48, 64)
NUMBERS = ("000000000003", "000000000009", "000000000025")
SQUARE = [(5, 5), (30, 5), (30, 25), (5, 25)]


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory, project_at: Any) -> Any:
    """Three pictures, and four data sets that ask about them; indexed."""
    project = project_at(tmp_path_factory.mktemp("formats"))
    folder = project.folder
    for number in NUMBERS:
        jpeg(folder / f"coco/train2017/{number}.jpg", *SIZE)
    values = np.full(SIZE, 255, np.uint8)
    values[10:20] = 0
    values[20:30] = 156
    png(folder / "cocostuff/train2017/000000000003.png", values)
    png(folder / "cocostuff/train2017/000000000009.png", np.full(SIZE, 182, np.uint8))  # a value without a name
    mask = values == 0
    written_llmseg40k.write(
        folder / "llmseg40k",
        "train",
        {"000000000025.jpg": [written_llmseg40k.pair("Who waits?", "person", mask)]},
        {"ego.jpg": [written_llmseg40k.pair("Which?", "cup", mask)]},
    )
    row = written_reasonseg_plus.muse_row(
        {"file_name": "COCO_train2014_000000000009.jpg"}, SIZE, [("Which two?", [("cup", [SQUARE])], "{seg} and {seg}")]
    )
    more = written_reasonseg_plus.muse_row(
        {"coco_url": "http://images.cocodataset.org/train2017/000000000003.jpg"},
        SIZE,
        [("Which one?", [("cup", [SQUARE])], "It is {seg}.")],
    )
    written_reasonseg_plus.write(folder / "muse/MUSE_train.json", [row, more])
    said = ("What is it?\n<image>", "A cat.", "And [SEG]?", "A dog.")
    records = [
        written_vqa.record("a", f"coco/train2017/{NUMBERS[1]}.jpg", *said),
        written_vqa.record("b", None, "q", "a"),
    ]
    written_vqa.write(folder / "llava", records, "mix.json")
    project.configure()
    data: dict[str, Any] = {
        "coco": {"format": "images", "ids": "coco", "root": str(folder / "coco"), "splits": ["all"]}
    }
    for name, own in {
        "cocostuff": {"format": "semantic", "labels": "cocostuff"},
        "llmseg40k": {"format": "llmseg40k"},
        "muse": {"format": "reasonseg_plus"},
        "llava": {"format": "vqa", "file": "mix.json", "under": "coco/", "ids": "coco"},
    }.items():
        data[name] = {"root": str(folder / name), "splits": ["train"], **own}
    project.values["data"] = {name: {"images": "coco", **entry} for name, entry in data.items()}
    project.values["means"] = {"m": {"train": ["coco/all"]}}
    project.values["train"]["train"] = ["cocostuff/train"]
    project.params.write_text(yaml.safe_dump(project.values, sort_keys=False))
    return project, project.run("index")


def targets(project: Any, name: str) -> list[tuple[str, list[str]]]:
    return [(target["target_id"], target["texts"]) for target in rows(project, f"{name}/targets/train")]


def test_each_data_set_asks_about_the_holders_pictures(indexed: Any) -> None:
    project, _ = indexed
    assert targets(project, "cocostuff") == [("000000000003/0", ["person"]), ("000000000003/1", ["sky"])]
    assert targets(project, "llmseg40k") == [("000000000025/0", ["Who waits?"])]
    assert targets(project, "muse") == [("000000000003/0", ["Which one?"])]
    assert targets(project, "llava") == [("000000000009/0", ["What is it?"])]
    (conversation,) = rows(project, "llava/targets/train")
    assert conversation["turns"] == ["What is it?", "A cat.", "And [ SEG]?", "A dog."]
    held = [row["holder_index"] for row in rows(project, "llava/images/train")]
    assert held == [NUMBERS.index("000000000009")]
    assert not Path(project.store / "cocostuff/masks").exists()


def test_what_was_odd_is_counted_and_what_is_broken_is_named(indexed: Any) -> None:
    _, done = indexed
    assert done.code == 1
    assert "cocostuff/train" in done.err
    assert "train2017/000000000009.png: value 182 (3072 pixels) has no name in cocostuff" in done.err
    assert "answer with another number of {seg} than masks, left out" in done.out + done.err
    assert "records about text alone, which are left out: 1" in done.out + done.err
