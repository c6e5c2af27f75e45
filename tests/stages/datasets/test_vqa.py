"""Conversations about pictures: every turn is kept, and each source of pictures is an entry of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_vqa import record, write

from stages.datasets.base import Annotation, DatasetError
from stages.datasets.params import VqaOptions
from stages.datasets.vqa import annotate, list_sources
from stages.images import ImageFailure
from store import rle

FILE = "llava_instruct_150k.json"
COCO = VqaOptions(ids="coco")
NAME = "000000000009.jpg"
SAID = ("What is it?\n<image>", "A cat.", "And this?", "A dog.")


def read(root: Path, *records: Any, options: VqaOptions = COCO) -> Annotation:
    write(root, list(records))
    (source,) = list_sources(root, "train", options)
    return annotate(root, source, 4, 6, options)


def with_turns(*turns: tuple[str, Any]) -> dict[str, Any]:
    said = [{"from": speaker, "value": value} for speaker, value in turns]
    return {"id": "r7", "image": NAME, "conversations": said}


def lisa_messages(conversation: list[dict[str, str]]) -> list[str]:
    """The messages of dvlab-research/LISA's utils/vqa_dataset.py, ``<image>`` taken out as its utils/dataset.py moves it."""
    roles = {"human": "USER", "gpt": "ASSISTANT"}
    if roles[conversation[0]["from"]] != "USER":
        conversation = conversation[1:]
    messages = []
    for place, sentence in enumerate(conversation):
        assert roles[sentence["from"]] == ("USER", "ASSISTANT")[place % 2]
        messages.append(sentence["value"].replace("<image>", "").strip())
    return messages


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text("ab<>\n ", max_size=8).map(lambda said: f"w{said}"), min_size=1, max_size=3),
    st.booleans(),
    st.booleans(),
)
def test_turns_are_lisas(tmp_path_factory: pytest.TempPathFactory, words: list[str], led: bool, in_front: bool) -> None:
    turns = [("gpt", "I begin.")] * led
    for word in words:
        turns += [("human", f"<image>\n{word}" if in_front else f"{word}\n<image>"), ("gpt", f"a {word}")]
    row = with_turns(*turns)
    (target,) = read(tmp_path_factory.mktemp("set"), row).targets
    assert list(target.turns) == lisa_messages(row["conversations"])
    assert (target.texts, target.answer) == (target.turns[:1], target.turns[1])


def test_a_record_is_a_target_without_a_mask(tmp_path: Path) -> None:
    annotation = read(tmp_path, record("9", NAME, *SAID))
    (target,) = annotation.targets
    assert target.turns == ("What is it?", "A cat.", "And this?", "A dog.")
    assert (target.target_id, target.texts, target.answer) == ("000000000009/0", ("What is it?",), "A cat.")
    assert (target.kind, target.is_sentence, target.absent, target.instances) == ("vqa", True, False, ())
    assert target.segmentation == target.ignore == rle.union([], 4, 6)
    assert (annotation.instances, annotation.notes) == ((), ())


def test_records_of_one_picture_are_its_targets_in_file_order(tmp_path: Path) -> None:
    other = record("b", "000000000005.jpg", "q", "other")
    write(tmp_path, [record("a", NAME, "q", "one"), other, record("a", NAME, "q", "two")])
    sources = list_sources(tmp_path, "train", COCO)
    assert [(each.image_id, each.path, each.annotations) for each in sources] == [
        ("000000000005", "000000000005.jpg", (FILE,)),
        ("000000000009", NAME, (FILE,)),
    ]
    targets = annotate(tmp_path, sources[1], 4, 6, COCO).targets
    assert [(each.target_id, each.answer) for each in targets] == [("000000000009/0", "one"), ("000000000009/1", "two")]


def test_an_entry_reads_the_pictures_of_one_source(tmp_path: Path) -> None:
    records = [
        record(1, "coco/train2017/000000000009.jpg", "q", "coco"),
        record(2, "vg/VG_100K_2/107899.jpg", "q", "genome"),
        record(3, "gqa/images/2354786.jpg", "q", "gqa"),
        record(4, None, "q", "text alone"),
        record(5, None, "q", "text alone"),
    ]
    write(tmp_path, records, "llava_v1_5_mix665k.json")
    file = "llava_v1_5_mix665k.json"
    for under, ids, image_id, path in (
        ("coco/", "coco", "000000000009", "coco/train2017/000000000009.jpg"),
        ("vg/", "path", "VG_100K_2/107899", "vg/VG_100K_2/107899.jpg"),
        ("gqa/images/", "path", "2354786", "gqa/images/2354786.jpg"),
    ):
        options = VqaOptions(file=file, under=under, ids=ids)
        (source,) = list_sources(tmp_path, "train", options)
        assert (source.image_id, source.path, source.annotations) == (image_id, path, (file,))
        annotation = annotate(tmp_path, source, 4, 6, options)
        assert annotation.targets[0].target_id == f"{image_id}/0"
        assert annotation.notes == ("records about text alone, which are left out: 2",)
    with pytest.raises(DatasetError, match=r"no record has an image under 'ocr/' \(3 have another one, 2 none\)"):
        list_sources(tmp_path, "train", VqaOptions(file=file, under="ocr/"))


def test_records_without_a_picture_are_said_once(tmp_path: Path) -> None:
    write(tmp_path, [record(1, NAME, "q", "a"), record(2, None, "q", "a"), record(3, "000000000003.jpg", "q", "a")])
    sources = list_sources(tmp_path, "train", COCO)
    notes = [annotate(tmp_path, source, 4, 6, COCO).notes for source in sources]
    assert notes == [("records about text alone, which are left out: 1",), ()]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            with_turns(("human", "a"), ("human", "b")),
            "turn 1 is from 'human', expected 'gpt', as human and gpt take turns",
        ),
        (with_turns(("gpt", "a"), ("gpt", "b")), "turn 0 is from 'gpt', expected 'human'"),
        (with_turns(("human", "a"), ("gpt", "b"), ("system", "c")), "turn 2 is from 'system', expected 'human'"),
        (with_turns(("human", " <image>\n"), ("gpt", "b")), "turn 0 is empty"),
        (with_turns(("human", "a"), ("gpt", "")), "turn 1 is empty"),
        (with_turns(("human", "a")), "found 1 turns, expected questions and an answer to each"),
        (with_turns(("human", "a"), ("gpt", "b"), ("human", "c")), "found 3 turns"),
        (with_turns(), "found 0 turns"),
        (with_turns(("human", 4), ("gpt", "b")), "'value' is int"),
        (with_turns(("human", "\ud800"), ("gpt", "b")), "turn 0 has half of a surrogate pair"),
        ({"id": "r7", "image": NAME}, "key 'conversations' is missing"),
        ({"id": "r7", "image": NAME, "conversations": ["a", "b"]}, "found str, expected an object with 'from'"),
    ],
)
def test_a_broken_record_fails_its_image_and_is_named(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(ImageFailure, match=f"^{FILE}: record 'r7': {message}"):
        read(tmp_path, row)


def test_a_broken_record_leaves_other_pictures_alone(tmp_path: Path) -> None:
    write(tmp_path, [with_turns(), record(1, "000000000003.jpg", "q", "a")])
    first, _ = list_sources(tmp_path, "train", COCO)
    assert annotate(tmp_path, first, 4, 6, COCO).targets[0].answer == "a"


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ({}, COCO, "found an object, expected an array; expected a list of records"),
        (["a"], COCO, "record 0: is str, expected an object"),
        ([{"id": 3, "image": 5}], COCO, "record 3: 'image' is int"),
        ([{"image": "cat.jpg"}], COCO, "record 0: 'cat.jpg' is not a file name of COCO's; set under"),
        ([{"id": "a", "image": "../x.jpg"}], VqaOptions(), "record 'a': .*leads outside"),
        ([{"id": "a", "image": "/etc/x.jpg"}], VqaOptions(), "record 'a': .*leads outside"),
        ([record(1, "x.jpg", "q", "a"), record(2, "x.png", "q", "a")], VqaOptions(), "would both be the image 'x'"),
        ([record(1, None, "q", "a")], COCO, r"no record has an image under '' \(0 have another one, 1 none\)"),
    ],
)
def test_a_file_of_another_form_is_refused_as_a_whole(
    tmp_path: Path, content: Any, options: VqaOptions, message: str
) -> None:
    write(tmp_path, content)
    with pytest.raises(DatasetError, match=message):
        list_sources(tmp_path, "train", options)


def test_missing_files_and_other_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{FILE}: no such file; expected a list of records"):
        list_sources(tmp_path, "train")
    with pytest.raises(DatasetError, match=f"found the split 'val', expected train: {FILE} is one split"):
        list_sources(tmp_path, "val")
    with pytest.raises(DatasetError, match="leads outside"):
        list_sources(tmp_path, "train", VqaOptions(file="../x.json"))
