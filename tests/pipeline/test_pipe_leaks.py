"""Which splits share pictures, and what a training leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

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
        "name": "lisa", "leaks": "all", "protected": ["tiny/val", "words/test"], "not_indexed": [],
        "left_out": {"words/train": 1}, "image_ids": {"words/train": ["fox"]},
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


def two_sets(project: Any, first: Any, second: Any) -> None:
    """Data sets a and b, each with a split val of one picture with a question."""
    for folder, (name, pixels, how) in {"a": first, "b": second}.items():
        place = project.folder / folder / "val"
        place.mkdir(parents=True)
        Image.fromarray(pixels).save(place / name, **how)
        (place / Path(name).with_suffix(".json").name).write_text('{"shapes": [], "text": ["q"], "is_sentence": true}')
    project.configure()
    entry = {"format": "reasonseg", "splits": ["val"]}
    project.values["data"] = {name: {**entry, "images": name, "root": str(project.folder / name)} for name in "ab"}
    project.values["train"]["train"] = ["a/val"]
    project.values["means"] = {}
    project.params.write_text(yaml.safe_dump(project.values))
    project.build("index")


def test_copies_with_other_bytes_are_found_by_their_pixels(tmp_path: Path, project_at: Any) -> None:
    project = project_at(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    two_sets(project, ("x.png", pixels, {}), ("y.png", pixels, {"compress_level": 1}))
    assert project.run("leaks", "--json").json()["shared"] == []
    (pair,) = project.run("leaks", "--pixels", "--json").json()["shared"]
    assert pair["pictures"] == 1
    settings = load_settings(project.params, [])
    assert left_out(settings, [SplitRef("a", "val")], "all").images == {}
    assert left_out(settings, [SplitRef("a", "val")], "all", pixels=True).images == {"a/val": (0,)}
    log = tmp_path / "cache/likeness.txt"
    log.write_text(log.read_text()[:150])  # a kill cut the second line
    assert len(project.run("leaks", "--pixels", "--json").json()["shared"]) == 1


def test_a_picture_that_cannot_be_read_is_no_picture_of_its_own(tmp_path: Path, project_at: Any) -> None:
    """Or a lost disk would mean that nothing leaks."""
    project = project_at(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    two_sets(project, ("x.png", pixels, {}), ("y.png", pixels, {"compress_level": 1}))
    shutil.move(tmp_path / "b/val/y.png", tmp_path / "y.png")
    for words in (("--pixels",), ("--alike",)):
        done = project.run("leaks", *words)
        assert done.code == 2
        assert "b/val: 1 of 1 pictures cannot be compared by their pixels, first val/y.png: no such file" in done.err
        assert "run: python cli.py index --data b --split val" in done.err
    Image.fromarray(255 - pixels).save(tmp_path / "b/val/y.png")
    assert "val/y.png: not the file that was indexed" in project.run("leaks", "--pixels").err
    shutil.move(tmp_path / "y.png", tmp_path / "b/val/y.png")
    assert len(project.run("leaks", "--pixels", "--json").json()["shared"]) == 1


def test_a_split_that_is_not_indexed_is_named_as_not_protected(tmp_path: Path, project_at: Any) -> None:
    project = project_at(tmp_path)
    pixels = np.zeros((40, 50, 3), np.uint8)
    two_sets(project, ("x.png", pixels, {}), ("y.png", pixels, {}))
    settings = load_settings(project.params, [])
    assert left_out(settings, [SplitRef("a", "val")], "all").images == {"a/val": (0,)}
    shutil.rmtree(project.store / "b")
    found = left_out(settings, [SplitRef("a", "val")], "all")
    assert (found.images, found.protected, found.not_indexed) == ({}, (), (SplitRef("b", "val"),))
    text = project.run("leaks", "--data", "a", "--run", "lisa").out
    assert "not protected, because they are not indexed: b/val" in text


def test_pictures_that_look_alike_are_shown_and_nothing_else(tmp_path: Path, project_at: Any) -> None:
    project = project_at(tmp_path)
    ramp = np.add.outer(np.arange(64), 2 * np.arange(80))[..., None].repeat(3, 2).astype(np.uint8)
    two_sets(project, ("x.png", ramp, {}), ("y.jpg", np.minimum(ramp + 1, 255), {"quality": 80}))
    found = project.run("leaks", "--alike", "--json").json()
    assert found["shared"] == []
    ((one, other, bits),) = found["alike"]
    assert (one, other) == ("a/val: val/x.png", "b/val: val/y.jpg")
    assert bits <= 4
    assert "1 pairs look alike" in project.run("leaks", "--alike").out


def test_pictures_of_visual_genome_are_known_by_what_it_says_of_coco(tmp_path: Path, project_at: Any) -> None:
    project = project_at(tmp_path)
    first, second = np.zeros((2, 40, 50, 3), np.uint8) + np.array([1, 2], np.uint8)[:, None, None, None]
    two_sets(project, ("COCO_val2014_000000000042.jpg", first, {}), ("2407890.jpg", second, {}))
    held = {
        "format": "images",
        "images": "vg",
        "root": str(tmp_path / "b/val"),
        "splits": ["all"],
        "coco_ids": "vg.json",
    }
    project.values["data"]["vg"] = held
    project.values["data"]["b"] |= {"images": "vg"}
    shutil.move(tmp_path / "b/val/2407890.json", tmp_path / "b/keep.json")
    (tmp_path / "c/val").mkdir(parents=True)
    shutil.move(tmp_path / "b/keep.json", tmp_path / "c/val/2407890.json")
    project.values["data"]["b"]["root"] = str(tmp_path / "c")
    project.params.write_text(yaml.safe_dump(project.values))
    (tmp_path / "b/val/vg.json").write_text('[{"image_id": 2407890, "coco_id": 42}, {"image_id": 1, "coco_id": null}]')
    shutil.rmtree(project.store)
    project.build("index")
    assert [pair["splits"] for pair in project.run("leaks", "--json").json()["shared"]] == [["a/val", "b/val"]]
    (tmp_path / "b/val/vg.json").write_text("{")
    done = project.run("leaks")
    assert done.code == 2
    assert "data.vg.coco_ids:" in done.err
    assert "as Visual Genome's image_data.json" in done.err
