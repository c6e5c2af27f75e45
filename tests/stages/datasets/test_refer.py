"""The format refer: refCOCO and its kin as they are on disk, what is read back, and splits as lichengunc/refer matches them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from written_refer import BESIDE, HEIGHT, OVER, SQUARE, WIDTH, Long, ref, thing, write_instances, write_refs

from stages.datasets.base import Annotation, DatasetError
from stages.datasets.params import ReferOptions
from stages.datasets.published import Counts
from stages.datasets.refer import annotate, count, list_sources
from stages.images import ImageFailure
from store import rle

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools with numpy 2


def write(root: Path, refs: list[Any], things: list[Any], **how: Any) -> None:
    write_refs(root, refs, **{key: how.pop(key) for key in ("name", "protocol") if key in how})
    write_instances(root, things, **how)


def read(root: Path, split: str = "train", **options: Any) -> dict[str, Annotation]:
    chosen = ReferOptions(**options)
    sources = list_sources(root, split, chosen)
    return {source.image_id: annotate(root, source, HEIGHT, WIDTH, chosen) for source in sources}


def pixels(counts: str) -> NDArray[np.bool_]:
    return rle.decode(counts, HEIGHT, WIDTH)


def lisa(polygons: list[list[float]]) -> NDArray[Any]:
    """dvlab-research/LISA, utils/refer_seg_dataset.py: every polygon decoded, and all of them added up."""
    if not polygons:
        return np.zeros((HEIGHT, WIDTH), np.uint8)
    return pycocotools.mask.decode(pycocotools.mask.frPyObjects(polygons, HEIGHT, WIDTH)).sum(axis=2).astype(np.uint8)


@pytest.mark.parametrize("protocol", [0, 2])
def test_a_ref_is_a_target_and_its_sentences_are_the_wordings(tmp_path: Path, protocol: int) -> None:
    refs = [
        ref(1, 9, Long(31), "Left man", "guy with café", split="train"),
        ref(2, 7, 32, "the cat", split="train"),
        ref(3, 9, 33, "both", split="train"),
        ref(4, 9, Long(31), "man again", split="train"),
        ref(5, 9, 31, "another split", split="val"),
    ]
    things = [
        thing(31, 9, [SQUARE]),
        thing(32, 7, [BESIDE], category_id=2),
        thing(33, 9, [SQUARE, BESIDE]),
        thing(34, 9, [OVER]),
    ]
    write(tmp_path, refs, things, protocol=protocol)
    sources = list_sources(tmp_path, "train")
    assert [(each.image_id, each.path) for each in sources] == [
        ("000000000007", "COCO_train2014_000000000007.jpg"),
        ("000000000009", "COCO_train2014_000000000009.jpg"),
    ]
    assert {each.annotations for each in sources} == {("refs(unc).p", "instances.json")}
    found = read(tmp_path)
    targets = found["000000000009"].targets
    assert [target.target_id for target in targets] == [f"000000000009/{number}" for number in range(3)]
    assert [target.texts for target in targets] == [("Left man", "guy with café"), ("both",), ("man again",)]
    assert [target.instances for target in targets] == [(0,), (1,), (0,)], "an object is one instance"
    assert {(target.kind, target.is_sentence, target.absent) for target in targets} == {("refer", False, False)}
    assert [instance.label for instance in found["000000000009"].instances] == ["person", "person"]
    assert [instance.label for instance in found["000000000007"].instances] == ["cat"]
    np.testing.assert_array_equal(pixels(targets[1].segmentation), lisa([SQUARE, BESIDE]) > 0)
    assert all(not pixels(target.ignore).any() for target in targets)
    assert not found["000000000009"].notes
    assert count(tmp_path, ["train"]) == Counts(2, 4, 5)
    assert count(tmp_path, ["all"]) == Counts(2, 5, 6)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("refs")
    corner = st.integers(0, 60).map(float)
    polygon = st.lists(corner, min_size=6, max_size=6) | st.lists(corner, min_size=8, max_size=8)
    objects = data.draw(st.lists(st.lists(polygon, max_size=3), min_size=1, max_size=4))
    wordings = st.lists(st.text(max_size=8).map(str.strip), min_size=1, max_size=3)
    refs = [
        ref(
            number,
            7,
            data.draw(st.integers(0, len(objects) - 1)),
            *data.draw(wordings),
            split=data.draw(st.sampled_from(["train", "val"])),
        )
        for number in range(data.draw(st.integers(1, 5)))
    ]
    write(
        root, refs, [thing(n, 7, each) for n, each in enumerate(objects)], protocol=data.draw(st.sampled_from([0, 2]))
    )
    for split in {each["split"] for each in refs}:
        (found,) = read(root, split).values()
        want = [each for each in refs if each["split"] == split]
        assert [target.texts for target in found.targets] == [
            tuple(s["sent"] for s in each["sentences"]) for each in want
        ]
        for target, each in zip(found.targets, want, strict=True):
            np.testing.assert_array_equal(pixels(target.segmentation), lisa(objects[each["ann_id"]]) > 0)
            union = np.zeros((HEIGHT, WIDTH), bool)
            for number in target.instances:
                union |= pixels(found.instances[number].segmentation)
            np.testing.assert_array_equal(union, pixels(target.segmentation))


def refer_matches(split: str, stored: str) -> bool:
    """getRefIds of lichengunc/refer."""
    if split in ["testA", "testB", "testC"]:
        return split[-1] in stored
    if split in ["testAB", "testBC", "testAC"]:
        return stored == split
    if split == "test":
        return "test" in stored
    return stored == split


def test_splits_are_those_of_lichengunc_refer(tmp_path: Path) -> None:
    there = ["train", "val", "test", "testA", "testB", "testC", "testAB", "testBC", "testAC"]
    refs = [ref(number, number, number, f"in {split}", split=split) for number, split in enumerate(there)]
    write(tmp_path, refs, [thing(n, n, [SQUARE]) for n in range(len(there))], images=range(len(there)))
    for split in there:
        want = [f"in {stored}" for stored in there if refer_matches(split, stored)]
        texts = [text for each in read(tmp_path, split).values() for target in each.targets for text in target.texts]
        assert texts == want
    for split in ("tes", "trainval", "TRAIN", ""):
        with pytest.raises(DatasetError, match=r"no refs of the split .* \(splits there: test \(1 refs\), testA"):
            list_sources(tmp_path, split)


def test_an_image_of_several_splits_has_the_targets_of_each_apart(tmp_path: Path) -> None:
    """refCOCO by google splits objects, not images."""
    refs = [
        ref(1, 7, 1, "first", split="train"),
        ref(2, 7, 2, "second", split="val"),
        ref(3, 7, 1, "third", split="test"),
    ]
    write(tmp_path, refs, [thing(1, 7, [SQUARE]), thing(2, 7, [BESIDE])], name="refs(google).p")
    for split, text in (("train", "first"), ("val", "second"), ("test", "third")):
        (found,) = read(tmp_path, split, split_by="google").values()
        assert [(target.target_id, target.texts) for target in found.targets] == [("000000000007/0", (text,))]
        assert len(found.instances) == 1


def test_a_picture_is_found_by_image_id_and_never_by_file_name(tmp_path: Path) -> None:
    """A ref's own file_name has the object's number in it, and may be of another picture altogether."""
    write(tmp_path, [ref(1, 7, 1, "a", file_name="COCO_train2014_000000000009_1.jpg")], [thing(1, 7, [SQUARE])])
    assert list(read(tmp_path)) == ["000000000007"]


def test_refclef_is_called_by_its_path_and_has_run_lengths(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[5:20, 8:30] = 1
    runs = pycocotools.mask.encode(mask)
    parts = [{"size": [HEIGHT, WIDTH], "counts": runs["counts"].decode()}]
    things = [thing(1, 25, parts)]
    write(
        tmp_path,
        [ref(1, 25, 1, "sky", split="testC")],
        things,
        images=[25],
        names="00/images/{:d}.jpg",
        name="refs(berkeley).p",
    )
    options = ReferOptions(split_by="berkeley", ids="path")
    (source,) = list_sources(tmp_path, "testC", options)
    assert (source.image_id, source.path) == ("00/images/25", "00/images/25.jpg")
    (target,) = annotate(tmp_path, source, HEIGHT, WIDTH, options).targets
    np.testing.assert_array_equal(pixels(target.segmentation), mask > 0)
    with pytest.raises(
        DatasetError, match=r"the pictures are not COCO's \(the first is '00/images/25.jpg'\); set ids: path"
    ):
        list_sources(tmp_path, "testC", ReferOptions(split_by="berkeley"))


def test_a_crowd_of_run_lengths_is_drawn(tmp_path: Path) -> None:
    crowd = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
    write(tmp_path, [ref(1, 7, 1, "people")], [thing(1, 7, crowd, iscrowd=1)])
    (target,) = read(tmp_path)["000000000007"].targets
    assert np.flatnonzero(pixels(target.segmentation).ravel(order="F")).tolist() == list(range(100, 150))


def test_parts_that_overlap_are_one_mask_and_are_counted_as_lisa_adds_them_up(tmp_path: Path) -> None:
    write(
        tmp_path,
        [ref(1, 7, 1, "a", "b"), ref(2, 7, 2, "c")],
        [thing(1, 7, [SQUARE, OVER]), thing(2, 7, [SQUARE, BESIDE])],
    )
    found = read(tmp_path)["000000000007"]
    assert lisa([SQUARE, OVER]).max() == 2
    np.testing.assert_array_equal(pixels(found.targets[0].segmentation), lisa([SQUARE, OVER]) > 0)
    assert found.notes == ("a mask whose parts overlap: here 1, in LISA's code the number of parts",)


def test_an_empty_list_of_polygons_is_a_zero_mask_and_not_absent(tmp_path: Path) -> None:
    outside = [-30.0, -30.0, -20.0, -30.0, -20.0, -20.0]
    write(
        tmp_path,
        [ref(1, 7, 1, "a"), ref(2, 7, 2, "b"), ref(3, 7, 3, "c")],
        [thing(1, 7, []), thing(2, 7, [outside]), thing(3, 7, [[1.0, 2.0, 3.0, 4.0], SQUARE])],
    )
    found = read(tmp_path)["000000000007"]
    assert [target.absent for target in found.targets] == [False] * 3
    assert [target.instances for target in found.targets] == [(), (), (0,)]
    assert not pixels(found.targets[0].segmentation).any()
    assert sorted(found.notes) == [
        "a polygon of fewer than three points, or half a point, left out",
        "an object that is drawn on no pixel",
        "an object that is drawn on no pixel",
    ]


def test_a_size_that_exif_explains_is_the_frame_of_the_objects(tmp_path: Path) -> None:
    write(tmp_path, [ref(1, 7, 1, "a")], [thing(1, 7, [SQUARE])])
    picture = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(picture, exif=exif)
    (source,) = list_sources(tmp_path, "train")
    found = annotate(tmp_path, source, WIDTH, HEIGHT, picture=picture)
    np.testing.assert_array_equal(
        rle.decode(found.targets[0].segmentation, WIDTH, HEIGHT), np.rot90(lisa([SQUARE]) > 0, -1)
    )
    assert found.notes == ("objects drawn before EXIF orientation 6, turned with the image",)
    Image.new("RGB", (HEIGHT, WIDTH)).save(picture)
    with pytest.raises(
        ImageFailure,
        match="image 7 in instances.json has 64 x 48 px, the upright image 48 x 64 px, and no EXIF orientation",
    ):
        annotate(tmp_path, source, WIDTH, HEIGHT, picture=picture)
    with pytest.raises(
        ImageFailure, match="the upright image 65 x 48 px; expected one size: it is of another picture, or one"
    ):
        annotate(tmp_path, source, HEIGHT, WIDTH + 1)


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    write(tmp_path, [ref(1, 7, 1, "a")], [thing(1, 7, [SQUARE])])
    assert read(tmp_path)["000000000007"].targets[0].texts == ("a",)
    write_refs(tmp_path, [ref(1, 7, 1, "another text")])
    assert read(tmp_path)["000000000007"].targets[0].texts == ("another text",)


def test_instances_json_without_sizes_or_names_of_pictures_is_read(tmp_path: Path) -> None:
    write(tmp_path, [ref(1, 7, 1, "a", " ")], [thing(1, 7, [SQUARE])])
    document = json.loads((tmp_path / "instances.json").read_text())
    document["images"] = [{"id": 7}]
    document["categories"] = []
    (tmp_path / "instances.json").write_text(json.dumps(document))
    (found,) = read(tmp_path).values()
    assert found.instances[0].label == "category 1"
    assert found.notes == ("a sentence without a word",)
