"""Sets of referring expressions through the command line: they borrow COCO's pictures, and are indexed from their own files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import yaml
from lending import rows
from PIL import Image
from written_refer import BESIDE, HEIGHT, OVER, SQUARE, WIDTH, ref, thing, write_instances, write_refs

FALSE = {"is_false_premise": True, "gt_sent": "the cat"}


@pytest.fixture
def project(empty: Any) -> Any:
    folder = empty.folder / "coco" / "train2014"
    folder.mkdir(parents=True)
    for number in (7, 9):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), number, np.uint8)).save(
            folder / f"COCO_train2014_{number:012d}.jpg"
        )
    things = [thing(1, 7, [SQUARE, OVER]), thing(2, 9, [BESIDE])]
    train = [
        ref(1, 7, 1, "left man", "Guy"),
        ref(2, 9, 2, "the cat", ("the dog", FALSE)),
        ref(3, 9, 2, "it", split="testA"),
    ]
    grefs = [ref(1, 7, [1], "a man"), ref(2, 9, [-1], "the zebra")]
    write_refs(empty.folder / "refcoco", train)
    write_instances(empty.folder / "refcoco", things)
    write_refs(empty.folder / "grefcoco", grefs, "grefs(unc).json")
    write_instances(empty.folder / "grefcoco", things)
    borrowing = {"images": "coco"}
    values = empty.values
    values["data"] = {
        "coco": {"format": "images", "ids": "coco", "root": str(empty.folder / "coco"), "splits": ["all"]} | borrowing,
        "refcoco": {"format": "refer", "root": str(empty.folder / "refcoco"), "splits": ["train", "testA"]} | borrowing,
        "grefcoco": {"format": "grefer", "root": str(empty.folder / "grefcoco"), "splits": ["train"]} | borrowing,
    }
    values["means"] = {"coco": {"train": ["coco/all"]}}
    values["train"]["train"] = ["refcoco/train"]
    empty.params.write_text(yaml.safe_dump(values, sort_keys=False))
    return empty


def test_index_makes_targets_of_refs_and_counts_what_was_odd(project: Any) -> None:
    done = project.run("index")
    assert done.code == 0, done.out + done.err
    assert "a mask whose parts overlap" in done.out + done.err
    found = rows(project, "refcoco/targets/train")
    assert [(row["target_id"], row["texts"], row["kind"], row["absent"], row["correction"]) for row in found] == [
        ("000000000007/0", ["left man", "Guy"], "refer", False, None),
        ("000000000009/0", ["the cat"], "refer", False, None),
        ("000000000009/1", ["the dog"], "false_premise", True, "the cat"),
    ]
    assert [row["holder_split"] for row in rows(project, "refcoco/images/testA")] == ["all"]
    assert [row["label"] for row in rows(project, "refcoco/instances/train")] == [["person"], ["person"]]
    assert [row["absent"] for row in rows(project, "grefcoco/targets/train")] == [False, True]
    assert project.run("index").out.count("up to date") == 4


def test_split_by_is_part_of_what_decides_targets_and_a_missing_file_is_an_error(project: Any) -> None:
    values = project.values
    values["data"]["refcoco"]["split_by"] = "google"
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    done = project.run("index", "--data", "refcoco")
    assert done.code == 2
    assert "no refs(google).p in" in done.err
    assert "(files of refs there: refs(unc).p)" in done.err
