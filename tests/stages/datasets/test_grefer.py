"""The format grefer: gRefCOCO and Ref-ZOM as they are on disk; what is absent is said by ann_id, never by an empty mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from written_refer import BESIDE, HEIGHT, OVER, SQUARE, WIDTH, Long, ref, thing, write_instances, write_refs

from stages.datasets.base import Annotation, DatasetError
from stages.datasets.grefer import annotate, count, list_sources
from stages.datasets.params import GReferOptions
from stages.datasets.published import Counts
from stages.images import ImageFailure
from store import rle

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # pycocotools with numpy 2
RUNS = {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}
THINGS = [
    thing(1, 7, [SQUARE]),
    thing(2, 7, [BESIDE]),
    thing(3, 7, RUNS),
    thing(4, 7, RUNS, iscrowd=1),
    thing(5, 7, []),
]


def read(root: Path, *refs: Any, things: Any = None, name: str = "grefs(unc).json", **options: Any) -> Annotation:
    write_refs(root, refs, name)
    write_instances(root, THINGS if things is None else things)
    chosen = GReferOptions(**options)
    (source,) = list_sources(root, "train", chosen)
    return annotate(root, source, HEIGHT, WIDTH, chosen)


def pixels(counts: str) -> NDArray[np.bool_]:
    return rle.decode(counts, HEIGHT, WIDTH)


def lisa(ann_ids: list[int], things: Any) -> NDArray[np.bool_]:
    """dvlab-research/LISA, utils/refer_seg_dataset.py, grefcoco: the objects' masks, with OR; -1 stands for no object."""
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    if -1 in ann_ids:
        return found > 0
    for ann in (each for each in things if each["id"] in ann_ids):
        segmentation = ann["segmentation"]
        if segmentation and not ann["iscrowd"]:  # crowds: henghuiding/ReLA
            coded = pycocotools.mask.frPyObjects(segmentation, HEIGHT, WIDTH)
            mask = pycocotools.mask.decode(coded)
            found |= mask.sum(axis=2).astype(np.uint8) if mask.ndim == 3 else mask
    return found > 0


def test_several_objects_are_one_target_and_minus_one_is_none(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        ref(1, 7, [1, 2], "both people", "the two", category_id=[1, 1]),
        ref(2, 7, [-1], "the zebra", category_id=[-1]),
        ref(3, 7, [Long(2)], "right one"),
        ref(4, 7, [3, 1, 3], "three"),
    )
    assert [target.texts for target in found.targets] == [
        ("both people", "the two"),
        ("the zebra",),
        ("right one",),
        ("three",),
    ]
    assert [target.absent for target in found.targets] == [False, True, False, False]
    assert [target.instances for target in found.targets] == [(0, 1), (), (1,), (2, 0)]
    assert {(target.kind, target.is_sentence) for target in found.targets} == {("grefer", False)}
    for target, ids in zip(found.targets, ([1, 2], [-1], [2], [3, 1]), strict=True):
        np.testing.assert_array_equal(pixels(target.segmentation), lisa(ids, THINGS))


@settings(max_examples=25, deadline=None)
@given(
    chosen=st.lists(
        st.lists(st.sampled_from([1, 2, 3, 4, 5]), min_size=1, max_size=4) | st.just([-1]), min_size=1, max_size=4
    )
)
def test_what_was_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, chosen: list[list[int]]) -> None:
    root = tmp_path_factory.mktemp("grefs")
    found = read(root, *(ref(number, 7, ids, f"text {number}") for number, ids in enumerate(chosen)))
    for number, (target, ids) in enumerate(zip(found.targets, chosen, strict=True)):
        assert (target.texts, target.absent) == ((f"text {number}",), ids == [-1])
        np.testing.assert_array_equal(pixels(target.segmentation), lisa(ids, THINGS))
        union = rle.union([found.instances[each].segmentation for each in target.instances], HEIGHT, WIDTH)
        assert union == target.segmentation


def test_a_target_whose_objects_are_drawn_on_no_pixel_is_not_absent(tmp_path: Path) -> None:
    found = read(tmp_path, ref(1, 7, [5], "tiny"), ref(2, 7, [4], "a crowd"), ref(3, 7, [4, 1], "crowd and one"))
    assert [target.absent for target in found.targets] == [False] * 3
    assert [target.instances for target in found.targets] == [(), (), (0,)]
    assert sorted(found.notes) == [
        "a crowd, left out as in ReLA",
        "a crowd, left out as in ReLA",
        "an object that is drawn on no pixel",
    ]


def test_polygons_that_are_none_are_left_out(tmp_path: Path) -> None:
    things = [thing(1, 7, [SQUARE, [1.0, 1.0, 9.0, 9.0], [1.0] * 7]), thing(2, 7, [SQUARE, OVER])]
    found = read(tmp_path, ref(1, 7, [1], "a"), ref(2, 7, [2, 1], "b"), things=things)
    np.testing.assert_array_equal(pixels(found.targets[0].segmentation), lisa([1], [thing(1, 7, [SQUARE])]))
    assert found.notes == (
        "a polygon of fewer than three points, or half a point, left out",
        "a polygon of fewer than three points, or half a point, left out",
        "a mask whose parts overlap: here 1, in LISA's code the number of parts",
    )


def test_ref_zom_says_none_by_an_empty_list_and_by_its_source(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        ref(1, 7, [], "no such thing", source="zero"),
        ref(2, 7, [1, 2], "both", source="many"),
        ref(3, 7, 2, "right one", source="one"),
        ref(4, 7, [1], "not this", source="zero"),
        name="refs(final).p",
        split_by="final",
    )
    assert [target.absent for target in found.targets] == [True, False, False, True]
    assert [target.instances for target in found.targets] == [(), (0, 1), (1,), ()]
    assert found.notes == ("objects named by a ref with source zero, which is absent as in its own reader",)
    assert list_sources(tmp_path, "train", GReferOptions(split_by="final"))[0].annotations == (
        "refs(final).p",
        "instances.json",
    )


def test_ref_zom_is_found_under_the_name_it_is_downloaded_by(tmp_path: Path) -> None:
    assert read(tmp_path, ref(1, 7, [], "a"), name="Ref-ZOM(final).p", split_by="final").targets[0].absent


def test_pictures_of_both_folders_of_2014_are_known_by_their_number(tmp_path: Path) -> None:
    write_refs(tmp_path, [ref(1, 7, [1], "a"), ref(2, 9, [2], "b")], "refs(final).p")
    write_instances(tmp_path, [thing(1, 7, [SQUARE]), thing(2, 9, [SQUARE])], names="COCO_val2014_{:012d}.jpg")
    found = list_sources(tmp_path, "train", GReferOptions(split_by="final"))
    assert [source.image_id for source in found] == ["000000000007", "000000000009"]


def test_the_pickle_is_taken_where_both_files_are_there_as_by_its_own_reader(tmp_path: Path) -> None:
    write_refs(tmp_path, [ref(1, 7, [2], "of the pickle")], "grefs(unc).p")
    assert read(tmp_path, ref(1, 7, [1], "of the JSON")).targets[0].texts == ("of the pickle",)


def test_splits_are_of_exactly_their_name(tmp_path: Path) -> None:
    refs = [ref(number, 7, [1], split, split=split) for number, split in enumerate(["val", "testA", "testB"])]
    write_refs(tmp_path, refs, "grefs(unc).json")
    write_instances(tmp_path, THINGS)
    (source,) = list_sources(tmp_path, "testA")
    assert [target.texts for target in annotate(tmp_path, source, HEIGHT, WIDTH).targets] == [("testA",)]
    with pytest.raises(DatasetError, match=r"no refs of the split 'test' \(splits there: testA \(1 refs\), testB"):
        list_sources(tmp_path, "test")
    assert count(tmp_path, ["testA", "testB"]) == Counts(1, 2, 2)
    assert count(tmp_path, ["all"]) == Counts(1, 3, 3)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (ref(1, 7, [1, -1], "a"), "'ann_id' names objects and none (-1) at once"),
        (ref(1, 7, [], "a", source="many"), "'source' is 'many', and 'ann_id' names no object"),
        (ref(1, 7, "1", "a"), "'ann_id' is missing, or no list of numbers"),
        (ref(1, 7, [1.5], "a"), "'ann_id' is missing, or no list of numbers"),
        (ref(1, 7, [True], "a"), "'ann_id' is missing, or no list of numbers"),
        (ref(1, 7, [1, 99], "a"), "instances.json: annotation 99: not there"),
        (ref(1, 7, 1, ("a", {"exist": False})), "its object does not exist; the format refer reads such files"),
        (ref(1, 7, [1]), "'sentences' is empty"),
    ],
)
def test_a_ref_that_contradicts_itself_or_its_objects_is_named(tmp_path: Path, record: Any, found: str) -> None:
    with pytest.raises(ImageFailure) as caught:
        read(tmp_path, record)
    assert "grefs(unc).json: ref 0 (ref_id 1): " in str(caught.value)
    assert found in str(caught.value)


def test_a_file_that_is_not_there_says_which_are(tmp_path: Path) -> None:
    write_refs(tmp_path, [], "refs(unc).p")
    (tmp_path / "refs(unc).p").rename(tmp_path / "refs(umd).p")
    with pytest.raises(DatasetError) as caught:
        list_sources(tmp_path, "train")
    assert "no grefs(unc).p or grefs(unc).json or refs(unc).p or Ref-ZOM(unc).p in" in str(caught.value)
    assert "(files of refs there: refs(umd).p)" in str(caught.value)
