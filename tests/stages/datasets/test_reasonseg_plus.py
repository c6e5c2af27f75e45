"""MUSE, MMR and LISA++: several masks for a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from written_reasonseg_plus import flat, mmr_row, muse_row, write
from written_semantic import jpeg

from stages.datasets.base import Annotation, DatasetError
from stages.datasets.params import ReasonSegPlusOptions
from stages.datasets.reasonseg_plus import annotate, list_sources
from stages.datasets.reasonseg_plus_rows import MAX_TEXT_CHARS, polygons_of
from stages.images import ImageFailure
from store import rle
from store.read.pixels import oriented

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # of pycocotools, in decode
SIZE = (20, 30)
NAME = "COCO_train2014_000000000009.jpg"
SQUARE = [(2, 2), (9, 2), (9, 9), (2, 9)]
OTHER = [(12, 4), (25, 4), (25, 15), (12, 15)]
FEET = np.zeros(SIZE, bool)
FEET[3:5, 4:9] = True
MMR = ReasonSegPlusOptions(release="mmr")
PLUS = ReasonSegPlusOptions(release="lisa_plus")


def painted(*shapes: Any) -> NDArray[np.bool_]:
    """PixelLM's masks: every polygon of COCO's code, added up."""
    found = pycocotools.mask.frPyObjects([flat(shape) for shape in shapes], *SIZE)
    return pycocotools.mask.decode(found).sum(2) > 0


def read(root: Path, file: str, split: str, rows: Any, options: ReasonSegPlusOptions) -> Annotation:
    write(root / file, rows)
    (source,) = list_sources(root, split, options)
    return annotate(root, source, *SIZE, options)


def muse(root: Path, *asked: Any, **more: Any) -> Annotation:
    rows = [muse_row({"file_name": NAME}, SIZE, asked, **more)]
    return read(root, "MUSE_train.json", "train", rows, ReasonSegPlusOptions())


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.lists(
            st.lists(st.tuples(st.integers(0, 30), st.integers(0, 20)), min_size=3, max_size=5), min_size=1, max_size=3
        ),
        min_size=1,
        max_size=3,
    )
)
def test_masks_of_muse_are_pixellms(tmp_path_factory: pytest.TempPathFactory, masks: Any) -> None:
    asked = ("why?", [(f"m{number}", each) for number, each in enumerate(masks)], None)
    annotation = muse(tmp_path_factory.mktemp("set"), asked)
    (target,) = annotation.targets
    expected = [painted(*each) for each in masks]
    assert target.segmentation == rle.encode(np.logical_or.reduce(expected))
    shown = [(rle.encode(mask), f"m{number}") for number, mask in enumerate(expected) if mask.any()]
    assert [(each.segmentation, each.label) for each in annotation.instances] == shown
    assert annotation.notes.count("mask without a pixel") == len(masks) - len(shown)


def test_a_question_of_several_masks_is_one_target(tmp_path: Path) -> None:
    both = ("Which two?", [("cup", [SQUARE]), ("plate", [OTHER])], "The cup {seg} and  the plate {seg}.")
    one = ("Which one?", [("plate", [OTHER])], "It is {seg}")
    annotation = muse(tmp_path, both, one)
    first, second = annotation.targets
    assert (first.target_id, second.target_id) == ("000000000009/0", "000000000009/1")
    assert (first.instances, second.instances) == ((0, 1), (1,))
    assert (first.texts, first.answer, first.is_sentence) == (("Which two?",), "The cup and the plate.", True)
    assert (first.kind, first.absent, first.incomplete) == ("reasonseg_plus", False, False)
    assert first.segmentation == rle.encode(painted(SQUARE, OTHER))
    assert annotation.notes == ()


def test_an_answer_with_another_number_of_seg_than_masks_is_left_out(tmp_path: Path) -> None:
    annotation = muse(
        tmp_path,
        ("two?", [("cup", [SQUARE])], "{seg} and {seg}"),
        ("none?", [], "Nothing."),
        ("one?", [("cup", [SQUARE])], "{seg}"),
    )
    assert [(target.target_id, target.texts) for target in annotation.targets] == [("000000000009/0", ("one?",))]
    assert annotation.notes == (
        "answer with another number of {seg} than masks, left out",
        "question without a mask, left out",
    )


def test_pictures_of_muse_are_in_train2014_or_where_the_url_says(tmp_path: Path) -> None:
    asked = [("one?", [("cup", [SQUARE])], None)]
    rows = [
        muse_row({"coco_url": "http://images.cocodataset.org/val2017/000000000005.jpg"}, SIZE, asked),
        muse_row({"coco_url": "http://images.cocodataset.org/train2017/000000000003.jpg"}, SIZE, asked),
        muse_row({"file_name": NAME}, SIZE, asked),
        muse_row({"coco_url": "http://images.cocodataset.org/train2017/000000000009.jpg"}, SIZE, asked),
    ]
    write(tmp_path / "muse_test_less.json", rows)
    sources = list_sources(tmp_path, "test_less")
    assert [(each.image_id, each.path, each.annotations) for each in sources] == [
        ("000000000003", "train2017/000000000003.jpg", ("muse_test_less.json",)),
        ("000000000005", "val2017/000000000005.jpg", ("muse_test_less.json",)),
        ("000000000009", f"train2014/{NAME}", ("muse_test_less.json",)),
    ]
    assert [target.target_id for target in annotate(tmp_path, sources[2], *SIZE).targets] == [
        "000000000009/0",
        "000000000009/1",
    ]


def test_a_row_without_a_question_is_left_out(tmp_path: Path) -> None:
    row = muse_row({"file_name": NAME}, SIZE, [])
    annotation = read(tmp_path, "MUSE_val.json", "val", [{**row, "questions": []}], ReasonSegPlusOptions())
    assert annotation == Annotation((), ())
    del row["questions"], row["answers"]
    annotation = read(tmp_path, "MUSE_val.json", "val", [row], ReasonSegPlusOptions())
    assert annotation == Annotation((), (), ("row without a question, left out",))


def test_mmr_has_run_lengths_and_says_what_is_incomplete(tmp_path: Path) -> None:
    asked = [("To rest?", [("bench:seat", 7, FEET)], "On {seg}"), ("To sit?", [("bench", 3, ~FEET)], "{seg}")]
    rows = [mmr_row("val2017/000000000009.jpg", SIZE, asked, not_exhaustive_category_ids=[7, 12])]
    annotation = read(tmp_path, "MMR_test_part_only.json", "test_part_only", rows, MMR)
    assert [target.incomplete for target in annotation.targets] == [True, False]
    assert annotation.targets[0].segmentation == rle.encode(FEET)
    assert annotation.instances[0].label == "bench:seat"


def test_instances_of_lisa_plus_are_listed(tmp_path: Path) -> None:
    points = {
        "380": {"label name": "remote", "points": [list(point) for point in SQUARE]},
        "348": {"label name": "tv", "points": [[list(point) for point in OTHER]]},
        "999": {"label name": "cat", "points": [flat(OTHER)]},
    }
    row = {
        "English Question": "What turns on?",
        "ID": ["348", 380, "17"],
        "points": points,
        "img_path": "000000000009.jpg",
    }
    annotation = read(tmp_path, "LISA_Plus_Instance_Seg/data.json", "instance_seg", [row], PLUS)
    (target,) = annotation.targets
    assert (target.texts, target.answer, target.instances) == (("What turns on?",), None, (0, 1))
    assert [instance.label for instance in annotation.instances] == ["tv", "remote"]
    assert target.segmentation == rle.encode(painted(SQUARE, OTHER))


@pytest.mark.parametrize(
    ("answer", "words", "labels"),
    [
        ("It is [<380| remote>, <348| tv>].", "It is remote, tv.", ["remote", "tv"]),
        ("It is <348|tv> here.", "It is tv here.", ["tv"]),
        ("It is 《380| remote》.", "It is remote.", ["remote"]),
        ("Take [remote <380>, tv <348>].", "Take remote, tv.", ["remote", "tv"]),
        ("Take [380| remote, 348| tv].", "Take remote, tv.", ["remote", "tv"]),
        ("The [left] one, <380| remote>, and <5| ghost>.", "The [left] one, remote, and ghost.", ["remote"]),
    ],
)
def test_answers_of_lisa_plus_point_to_masks(tmp_path: Path, answer: str, words: str, labels: list[str]) -> None:
    info = {"380": {"polygon": [flat(SQUARE)]}, "348": [flat(OTHER)], "1": {"points": [flat(OTHER)]}}
    row = {"image_path": "000000000009.jpg", "info": info, "English Question": "What?", "English Answer": answer}
    annotation = read(tmp_path, "LISA_Plus_COT.json", "cot", [row], PLUS)
    (target,) = annotation.targets
    assert (target.texts, target.answer) == (("What?",), words)
    assert [annotation.instances[number].label for number in target.instances] == labels
    shapes = {"remote": SQUARE, "tv": OTHER}
    assert target.segmentation == rle.encode(painted(*(shapes[label] for label in labels)))


def test_conversations_of_lisa_plus_are_pairs(tmp_path: Path) -> None:
    output = "<person>: Hello <robot>: Hi! <person>: Where is <348|it>? <robot>: There: <348|tv>. <person>: Thanks"
    row = {"img_pth": "000000000009.jpg", "info": {"348": [flat(OTHER)]}, "output": output}
    annotation = read(tmp_path, "LISA_Plus_Conversations.json", "conversations", [row], PLUS)
    (target,) = annotation.targets
    assert (target.texts, target.answer) == (("Where is it?",), "There: tv.")
    assert annotation.notes == ("answer that points to no mask, left out",)


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 2], [3, 4], [5, 6]], [[1, 2, 3, 4, 5, 6]]),
        ([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 1], [2, 3]]], [[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3]]),
        ([[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3]], [[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3]]),
        ([1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 6]]),
    ],
)
def test_polygons_are_nested_as_points_or_flat(mask: Any, expected: Any) -> None:
    assert polygons_of(mask) == polygons_of({"polygon": mask}) == polygons_of({"points": mask}) == expected


def test_masks_made_before_exif_are_turned_with_their_image(tmp_path: Path) -> None:
    jpeg(tmp_path / "train2017/000000000009.jpg", *SIZE, 6)
    rows = [mmr_row("train2017/000000000009.jpg", SIZE, [("a?", [("foot", 1, FEET)], "{seg}")])]
    write(tmp_path / "MMR_val.json", rows)
    (source,) = list_sources(tmp_path, "val", MMR)
    annotation = annotate(tmp_path, source, *SIZE[::-1], MMR)
    assert annotation.targets[0].segmentation == rle.encode(oriented(FEET, 6))
    assert annotation.notes == ("masks made before EXIF orientation 6, turned with the image",)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"height": 21}, "the row has 30 x 21 px, the upright image 30 x 20 px"),
        ({"height": 10**12}, "the row has 30 x 1000000000000 px"),
        ({"height": None}, "'height' is null"),
        ({"questions": ["a?", "b?"]}, "found 2 'questions', 1 'answers' and 2 'text_answers'"),
        ({"questions": [4]}, "question 0 is int"),
        ({"questions": ["x" * (MAX_TEXT_CHARS + 1)]}, "question 0 has 65537 characters"),
        ({"answers": ["cup"]}, "answer of question 0 is str"),
        ({"answers": [[{"category_name": "cup"}]]}, "key 'segmentation' is missing"),
        ({"answers": [[{"segmentation": [[1, 2, 3]]}]]}, "key 'category_name' is missing"),
        ({"answers": [[{"category_name": "cup", "segmentation": 5}]]}, "'one.': mask 0: segmentation is 5"),
        (
            {"answers": [[{"category_name": "cup", "segmentation": {"size": [9**9, 9**9], "counts": "0"}}]]},
            "'one.': mask 0: run lengths are of an image of",
        ),
        (
            {"answers": [[{"category_name": "cup", "segmentation": [[0, 0, 1e300, 0, 5, 5]]}]]},
            "'one.': mask 0: polygon has numbers beyond",
        ),
        ({"not_exhaustive_category_ids": 7}, "'not_exhaustive_category_ids' is int"),
    ],
)
def test_a_broken_row_fails_its_image_and_names_the_place(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageFailure, match=f"^MUSE_train.json: row 0: {message}"):
        muse(tmp_path, ("one?", [("cup", [SQUARE])], None), **more)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "found an object, expected an array; expected the list of rows"),
        ([5], "row 0: is int, expected an object"),
        ([{}], "row 0: names no picture"),
        ([{"file_name": "cat.jpg"}], "row 0: names the picture 'train2014/cat.jpg', expected a file name of COCO's"),
        ([{"file_name": "../000000000009.jpg"}], "leads outside"),
        ([{"coco_url": 5}], "row 0: 'coco_url' is int"),
    ],
)
def test_a_file_of_another_form_is_refused_as_a_whole(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path / "MUSE_train.json", content)
    with pytest.raises(DatasetError, match=message):
        list_sources(tmp_path, "train")


def test_missing_files_and_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file; expected the list of rows of mmr, MMR_train.json"):
        list_sources(tmp_path, "train", MMR)
    with pytest.raises(DatasetError, match="found the split 'train', of lisa_plus expected one of instance_seg, cot"):
        list_sources(tmp_path, "train", PLUS)


@pytest.mark.parametrize("text", ["<1|" * 20_000, "a" * 60_000, "[" * 60_000, "[1|a" * 15_000, "<person>:" * 6_000])
def test_texts_made_to_be_slow_are_not(tmp_path: Path, text: str) -> None:
    row = {"img_pth": "000000000009.jpg", "info": {"348": [flat(OTHER)]}, "output": f"<person>: a <robot>: {text}"}
    assert read(tmp_path, "LISA_Plus_Conversations.json", "conversations", [row], PLUS).targets == ()
