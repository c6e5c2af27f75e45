"""Which splits share pictures, and what a training leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.leaks import left_out
from pipeline.params_file import load_settings
from stages.names import SplitRef
from store import open_split
from store.stream.stream import mix

WORDS, TRAIN = SplitRef("words", "train"), SplitRef("tiny", "train")


def test_splits_that_share_pictures_are_listed(borrowed: Any) -> None:
    found = borrowed.run("leaks", "--json").json()
    pairs = {tuple(pair["splits"]): pair["pictures"] for pair in found["shared"]}
    assert pairs == {
        ("tiny/train", "words/train"): 2, ("tiny/val", "words/train"): 1,
        ("tiny/train", "words/test"): 1, ("tiny/val", "words/test"): 1,
    }  # fmt: skip
    text = borrowed.run("leaks").out
    assert "tiny/val and words/train share 1 pictures (of 3 and 3), such as fox" in text
    assert "RefCOCO" in text
    assert borrowed.run("leaks", "--split", "val").out.startswith("no two of 1 splits share a picture")


def test_what_is_evaluated_on_is_left_out(borrowed: Any) -> None:
    settings = load_settings(borrowed.params, [])
    found = left_out(settings, [WORDS], "all")
    assert found.images == {"words/train": (2,)}  # the fox, of tiny/val
    assert {str(split) for split in found.protected} == {"tiny/val", "words/test"}
    assert left_out(settings, [TRAIN], "all").images == {"tiny/train": (4,)}  # the elk, of words/test
    assert left_out(settings, [WORDS, SplitRef("tiny", "val")], "all").images == {"tiny/val": (1,)}  # the gnu
    assert left_out(settings, [WORDS], "none").images == {}
    assert left_out(settings, [WORDS], "paper").images == {}  # neither is a referring set


def test_a_stream_leaves_them_out(borrowed: Any) -> None:
    split = open_split(borrowed.store, "words", "train")
    stream = mix({"words/train": split}, "targets.texts", 10, level="target", without={"words/train": (2,)})
    (batch,) = stream
    assert batch["image_index"].tolist() == [0, 1]


def test_a_run_says_what_it_leaves_out(borrowed: Any) -> None:
    change = ("--set", "train.train=[words/train]")
    found = borrowed.run("leaks", "--run", "lisa", "--json", before=change).json()
    assert found["run"] == {
        "name": "lisa", "leaks": "all", "protected": ["tiny/val", "words/test"], "left_out": {"words/train": 1},
    }  # fmt: skip
    text = borrowed.run("leaks", "--run", "lisa", before=(*change, "--set", "train.leaks=none")).out
    assert "run lisa (leaks: none) leaves out:\n  words/train: 0 pictures\n  protected: nothing" in text


def test_pictures_are_known_by_their_coco_number_too(tmp_path: Path, project_at: Any) -> None:
    """The file of 2017 is not that of 2014, byte for byte, where someone saved it again."""
    project = project_at(tmp_path)
    for folder, name, seed in (("a", "COCO_train2014_000000000009.jpg", 2), ("b", "000000000009.jpg", 4)):
        made = project.add_image("x", "p", seed)
        (tmp_path / folder / "val").mkdir(parents=True)
        shutil.move(made, tmp_path / folder / "val" / name)
        (tmp_path / folder / "val" / Path(name).with_suffix(".json").name).write_text(
            '{"shapes": [], "text": ["q"], "is_sentence": true}'
        )
    project.configure()
    project.values["data"] = {
        name: {"format": "reasonseg", "images": name, "root": str(tmp_path / name), "splits": ["val"]} for name in "ab"
    }
    project.values["train"]["train"] = ["a/val"]
    project.values["means"] = {}
    project.params.write_text(yaml.safe_dump(project.values))
    project.build("index")
    found = project.run("leaks", "--json").json()
    assert [pair["pictures"] for pair in found["shared"]] == [1]


@pytest.mark.parametrize(
    ("words", "said"), [(["--run", "lissa"], "lissa"), (["--data", "x"], "did you mean|expected one of")]
)
def test_what_is_not_there_is_said(borrowed: Any, words: list[str], said: str) -> None:
    import re

    done = borrowed.run("leaks", *words)
    assert done.code == 2
    assert re.search(said, done.err)
