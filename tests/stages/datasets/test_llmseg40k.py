"""LLM-Seg40K: what was written is read back, for the pictures of one source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from written_llmseg40k import pair, write
from written_semantic import jpeg

from stages.datasets.base import Annotation, DatasetError, Source
from stages.datasets.llmseg40k import annotate, list_sources
from stages.datasets.params import LlmSeg40kOptions
from stages.images import ImageFailure
from store import rle
from store.read.pixels import oriented

NAME = "000000000009.jpg"
EGO = LlmSeg40kOptions(source="ego_objects")
SQUARE = np.zeros((5, 7), bool)
SQUARE[1:3, 2:5] = True


def read(root: Path, pairs: list[Any], size: tuple[int, int] = (5, 7)) -> Annotation:
    write(root, "train", {NAME: pairs})
    (source,) = list_sources(root, "train")
    return annotate(root, source, *size)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_was_written_is_read_back(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    size = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    masks = data.draw(st.lists(arrays(bool, size), min_size=1, max_size=4))
    pairs = [pair(f"why {number}?", f"class_{number}", mask, number) for number, mask in enumerate(masks)]
    annotation = read(tmp_path_factory.mktemp("set"), pairs, size)
    for number, (target, mask) in enumerate(zip(annotation.targets, masks, strict=True)):
        assert (target.target_id, target.texts) == (f"000000000009/{number}", (f"why {number}?",))
        assert (target.is_sentence, target.kind, target.answer, target.absent) == (True, "llmseg40k", None, False)
        assert target.segmentation == rle.encode(mask)
        assert rle.area(target.ignore) == 0
        labels = [annotation.instances[each].label for each in target.instances]
        assert labels == ([f"class_{number}"] if mask.any() else [])
    assert annotation.notes == ("mask without a pixel",) * sum(not mask.any() for mask in masks)


def test_one_mask_of_two_questions_is_one_instance(tmp_path: Path) -> None:
    annotation = read(tmp_path, [pair("a?", "cat", SQUARE), pair("b?", "cat", SQUARE), pair("c?", "dog", SQUARE)])
    assert [instance.label for instance in annotation.instances] == ["cat", "dog"]
    assert [target.instances for target in annotation.targets] == [(0,), (0,), (1,)]


def test_an_entry_reads_the_pictures_of_one_source(tmp_path: Path) -> None:
    pairs = [pair("a?", "cat", SQUARE)]
    write(tmp_path, "validation", {"000000000012.jpg": pairs, NAME: pairs}, {"A1B2.v2.jpg": pairs})
    assert list_sources(tmp_path, "val") == list_sources(tmp_path, "validation")
    assert [(each.image_id, each.path, each.annotations) for each in list_sources(tmp_path, "val")] == [
        ("000000000009", "train2017/000000000009.jpg", ("validation.json",)),
        ("000000000012", "train2017/000000000012.jpg", ("validation.json",)),
    ]
    (ego,) = list_sources(tmp_path, "val", EGO)
    assert (ego.image_id, ego.path, ego.annotations) == ("A1B2.v2", "images/A1B2.v2.jpg", ("validation.json",))
    assert annotate(tmp_path, ego, 5, 7, EGO).targets[0].texts == ("a?",)
    write(tmp_path, "test", {NAME: pairs})
    with pytest.raises(DatasetError, match=r"no picture is of source ego_objects \(sources there: coco\)"):
        list_sources(tmp_path, "test", EGO)


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_mask_made_before_exif_is_turned_with_its_image(tmp_path: Path, orientation: int) -> None:
    jpeg(tmp_path / f"train2017/{NAME}", 5, 7, orientation)
    annotation = read(tmp_path, [pair("a?", "cat", SQUARE)], (7, 5))
    assert annotation.targets[0].segmentation == rle.encode(oriented(SQUARE, orientation))
    assert annotation.notes == (f"mask made before EXIF orientation {orientation}, turned with the image",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "'question' is null"),
        ({"answer": "\ud800"}, "'answer' has half of a surrogate pair"),
        ({"rle_seg": {"size": [5, 8], "counts": "0"}}, "rle_seg has 8 x 5 px, the upright image 7 x 5 px"),
        ({"rle_seg": {"size": [10**9, 10**9], "counts": "0"}}, "rle_seg has 1000000000 x"),
        ({"rle_seg": {"size": [5, 7], "counts": "P" * 9999}}, "run lengths: counts have 9999 characters"),
        ({"rle_seg": {"size": [5, 7], "counts": "oooooooooooo"}}, "run lengths: "),
        ({"rle_seg": {"size": "57"}}, "'size' is str"),
        ({"rle_seg": {"size": [5.0, 7]}}, r"'size' is \[5.0, 7\]"),
        ({"rle_seg": []}, "'rle_seg' is list"),
    ],
)
def test_a_broken_pair_fails_its_image_and_names_the_place(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ImageFailure, match=f"^train.json: {NAME}: pair 1: {message}"):
        read(tmp_path, [pair("a?", "cat", SQUARE), {**pair("a?", "cat", SQUARE), **change}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "found list, expected an object by image file name"),
        ({NAME: {"from_dataset": "lvis", "qa_pairs": []}}, f"{NAME}: 'from_dataset' is 'lvis'"),
        ({NAME: {"from_dataset": "coco"}}, f"{NAME}: key 'qa_pairs' is missing"),
        ({"cat.jpg": {"from_dataset": "coco", "qa_pairs": []}}, "'cat.jpg' is not a file name of COCO's"),
        ({"../000000000009.jpg": {"from_dataset": "coco", "qa_pairs": []}}, "leads outside"),
    ],
)
def test_a_file_of_another_form_is_refused_as_a_whole(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=message):
        list_sources(tmp_path, "train")


def test_missing_files_and_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"test.json: no such file; expected an object .*set root or splits"):
        list_sources(tmp_path, "test")
    with pytest.raises(DatasetError, match="found the split 'testA', expected one of train, val"):
        list_sources(tmp_path, "testA")
    (tmp_path / "train.json").write_text("[" * 100_000)
    with pytest.raises(DatasetError, match="not JSON"):
        list_sources(tmp_path, "train")


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    assert read(tmp_path, [pair("a?", "cat", SQUARE)]).targets[0].texts == ("a?",)
    assert read(tmp_path, [pair("another?", "cat", SQUARE)]).targets[0].texts == ("another?",)
    source = Source("x", "train2017/000000000001.jpg", ("train.json",))
    with pytest.raises(ImageFailure, match="is not there any more"):
        annotate(tmp_path, source, 5, 7)
