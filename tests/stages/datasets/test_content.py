"""One image's annotation in a file of many: its digest changes with what decides it, and with nothing that is said of others."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from written_coco import annotation, category, image, square
from written_llmseg40k import pair
from written_reasonseg_plus import muse_row
from written_refer import BESIDE, HEIGHT, OVER, SQUARE, WIDTH, python2, ref, thing
from written_vqa import record

from stages.base import Entry
from stages.datasets import FORMATS, contents, data_params, list_sources
from stages.datasets.base import DatasetError, Source
from stages.datasets.content import content_of, digest_of
from stages.images import ImageFailure
from stages.source_files import source_content, source_files
from store import rle
from store.read.folders import Folders

A, B, C = "000000000003", "000000000005", "000000000009"
_TIMES = itertools.count(10**18)
Edit = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """A data set of the pictures A and B.

    files: name -> document. of_a: edits of what A is annotated with. of_none: edits of nothing that A or B is annotated with.
    add: adds the picture C. reorder: the images in another order. Of each, the name of the file and what is done to its document.
    """

    options: Mapping[str, Any]
    files: Mapping[str, Any]
    of_a: tuple[tuple[str, Edit], ...]
    of_none: tuple[tuple[str, Edit], ...]
    add: tuple[tuple[str, Edit], ...]
    reorder: tuple[tuple[str, Edit], ...]


def write(root: Path, files: Mapping[str, Any], indent: int | None = None) -> None:
    for name, document in files.items():
        (root / name).write_bytes(as_file(name, document, indent))
        time = next(_TIMES)
        os.utime(root / name, ns=(time, time))  # clocks of files go by milliseconds


def as_file(name: str, document: Any, indent: int | None) -> bytes:
    if name.endswith(".p"):
        return python2(document)
    if name.endswith(".jsonl"):
        return b"".join(json.dumps(row).encode() + b"\n" for row in document)
    return json.dumps(document, indent=indent).encode()


def found(root: Path, case: Case) -> dict[str, str]:
    """image_id -> content."""
    data = data_params({"images": "x", "root": str(root), "splits": ["train"], **case.options})
    sources = list_sources(data, Folders(root), "train")
    assert contents(data, Folders(root), sources) == [source.content for source in sources]
    return {source.image_id: source.content for source in sources}


def set_at(*path: Any, to: Any) -> Edit:
    def edit(document: Any) -> Any:
        inner = document
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = to
        return document

    return edit


def reverse(*path: Any) -> Edit:
    def edit(document: Any) -> Any:
        inner = document
        for key in path:
            inner = inner[key]
        inner.reverse()
        return document

    return edit


def append(path: tuple[Any, ...], value: Any) -> Edit:
    def edit(document: Any) -> Any:
        inner = document
        for key in path:
            inner = inner[key]
        inner.append(value)
        return document

    return edit


def turned_round(document: Any) -> Any:
    return dict(reversed(document.items()))


def instances() -> dict[str, Any]:
    pictures = [
        {"id": number, "file_name": f"{number:012d}.jpg", "height": HEIGHT, "width": WIDTH} for number in (3, 5, 9)
    ]
    names = [{"id": 1, "name": "person"}, {"id": 2, "name": "cat"}, {"id": 7, "name": "unused"}]
    things = [thing(1, 3, [SQUARE]), thing(2, 5, [OVER], category_id=2), thing(3, 9, [BESIDE]), thing(4, 3, [OVER])]
    return {"images": pictures, "annotations": things, "categories": names}


def refer(format_: str, refs: str, one: Callable[[int], Any]) -> Case:
    written = [ref(1, 3, one(1), "left man", "guy"), ref(2, 5, one(2), "the cat"), ref(3, 3, one(4), "it", split="val")]
    return Case(
        options={"format": format_},
        files={refs: written, "instances.json": instances()},
        of_a=(
            (refs, set_at(0, "sentences", 1, "sent", to="boy")),
            (refs, set_at(0, "ann_id", to=one(4))),
            (refs, append((), ref(4, 3, one(1), "another"))),
            ("instances.json", set_at("annotations", 0, "segmentation", 0, 0, to=11.5)),
            ("instances.json", set_at("annotations", 0, "iscrowd", to=1)),
            ("instances.json", set_at("categories", 0, "name", to="human")),
            ("instances.json", set_at("images", 0, "height", to=HEIGHT + 1)),
        ),
        of_none=(
            (refs, set_at(2, "sentences", 0, "sent", to="of another split")),
            (refs, set_at(0, "file_name", to="x.jpg")),
            ("instances.json", set_at("annotations", 2, "segmentation", 0, 0, to=44.0)),
            ("instances.json", set_at("annotations", 0, "area", to=1.0)),
            ("instances.json", set_at("categories", 2, "name", to="renamed")),
            ("instances.json", set_at("images", 2, "height", to=HEIGHT + 1)),
        ),
        add=((refs, append((), ref(4, 9, one(3), "new"))),),
        reorder=(
            (refs, reverse()),
            ("instances.json", reverse("annotations")),
            ("instances.json", reverse("images")),
        ),
    )


def coco(**options: Any) -> Case:
    lists = {"neg_category_ids": [3], "not_exhaustive_category_ids": [1]}
    document = {
        "images": [image(3, **lists), image(5, **lists)],
        "annotations": [
            annotation(1, 3, 1, square(1, 1)),
            annotation(2, 5, 2, square(2, 2)),
            annotation(3, 3, 4, square(9, 9)),
        ],
        "categories": [category(4, "dog"), *(category(number, f"name {number}") for number in (1, 2, 3, 7))],
    }
    file = "train.json"
    return Case(
        options={"format": "coco", "ids": "coco", **options},
        files={file: document},
        of_a=(
            (file, set_at("annotations", 0, "segmentation", 0, 0, to=3)),
            (file, set_at("annotations", 2, "category_id", to=1)),
            (file, set_at("annotations", 2, "iscrowd", to=1)),
            (file, set_at("annotations", 2, "instance_id", to=5)),
            (file, append(("annotations",), annotation(4, 3, 1, square(5, 5)))),
            (file, set_at("categories", 0, "name", to="hound")),
            (file, set_at("categories", 0, "supercategory", to="PART")),
            (file, set_at("images", 0, "neg_category_ids", to=[7, 3])),
            (file, set_at("images", 0, "not_exhaustive_category_ids", to=[])),
            (file, set_at("images", 0, "width", to=60)),
        ),
        of_none=(
            (file, set_at("categories", 4, "name", to="renamed")),
            (file, append(("categories",), category(8, "new"))),
            (file, set_at("annotations", 0, "area", to=1.0)),
            (file, set_at("images", 0, "license", to=5)),
        ),
        add=(
            (file, append(("images",), image(9))),
            (file, append(("annotations",), annotation(9, 9, 7, square(1, 1)))),
        ),
        reorder=(
            (file, reverse("images")),
            (file, reverse("categories")),
            (file, turned_round),
            (file, lambda all_: {**all_, "annotations": [all_["annotations"][at] for at in (1, 0, 2)]}),
        ),
    )


def vqa() -> Case:
    said = ("<image>\nWhat?", "A cat.")
    records = [record("a", f"{A}.jpg", *said), record("b", f"{B}.jpg", *said), record("c", f"{A}.jpg", "And?", "No.")]
    file = "llava_instruct_150k.json"
    return Case(
        options={"format": "vqa", "ids": "coco"},
        files={file: records},
        of_a=(
            (file, set_at(0, "conversations", 1, "value", to="A dog.")),
            (file, set_at(2, "conversations", 0, "from", to="gpt")),
            (file, append((), record("d", f"{A}.jpg", "More?", "Yes."))),
            (file, append((), record("d", None, "of text alone, which a note of the first picture counts", "!"))),
        ),
        of_none=((file, set_at(0, "model", to="x")),),
        add=((file, append((), record("d", f"{C}.jpg", *said))),),
        reorder=((file, lambda rows: [rows[at] for at in (1, 0, 2)]),),
    )


def llmseg40k() -> Case:
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:5] = True
    rows = {
        f"{name}.jpg": {"from_dataset": "coco", "qa_pairs": [pair("which?", "cat", mask), pair("who?", "dog", mask)]}
        for name in (A, B)
    }
    file, first = "train.json", f"{A}.jpg"
    return Case(
        options={"format": "llmseg40k"},
        files={file: rows},
        of_a=(
            (file, set_at(first, "qa_pairs", 1, "question", to="what?")),
            (file, set_at(first, "qa_pairs", 1, "answer", to="cup")),
            (file, set_at(first, "qa_pairs", 0, "rle_seg", to=pair("", "", ~mask)["rle_seg"])),
            (file, reverse(first, "qa_pairs")),
        ),
        of_none=((file, set_at(first, "qa_pairs", 0, "segmentation_path", to="x")),),
        add=((file, set_at(f"{C}.jpg", to={"from_dataset": "coco", "qa_pairs": [pair("new?", "cat", mask)]})),),
        reorder=((file, turned_round),),
    )


def muse() -> Case:
    corners = [(1, 1), (5, 1), (5, 4), (1, 4)]

    def row(name: str, *questions: str) -> dict[str, Any]:
        asked = [(each, [("cup", [corners])], "It is {seg}.") for each in questions]
        return muse_row({"file_name": f"COCO_train2014_{name}.jpg"}, (5, 7), asked)

    file = "MUSE_train.json"
    return Case(
        options={"format": "reasonseg_plus"},
        files={file: [row(A, "which?", "what?"), row(B, "which?"), row(A, "who?")]},
        of_a=(
            (file, set_at(0, "questions", 1, to="where?")),
            (file, set_at(0, "answers", 1, 0, "segmentation", 0, 0, to=2)),
            (file, set_at(2, "answers", 0, 0, "rephrased_name", to="mug")),
            (file, set_at(2, "height", to=6)),
            (file, append((), row(A, "one more?"))),
        ),
        of_none=(),
        add=((file, append((), row(C, "new?"))),),
        reorder=((file, lambda rows: [rows[at] for at in (1, 0, 2)]),),
    )


def questions() -> Case:
    def row(name: str, question: str, **more: Any) -> dict[str, Any]:
        return {"image": f"{name}.jpg", "question": question, "box": [1, 1, 3, 3], **more}

    file = "train.json"
    return Case(
        options={"format": "questions"},
        files={file: [row(A, "which?", answer="this"), row(B, "which?"), row(A, "who?")]},
        of_a=(
            (file, set_at(0, "question", to="where?")),
            (file, set_at(0, "answer", to="that")),
            (file, set_at(2, "box", 0, to=2)),
            (file, set_at(2, "is_sentence", to=False)),
            (file, append((), row(A, "one more?"))),
        ),
        of_none=(),
        add=((file, append((), row(C, "new?"))),),
        reorder=((file, lambda rows: [rows[at] for at in (1, 0, 2)]),),
    )


def generated() -> Case:
    def row(name: str) -> dict[str, Any]:
        made = {"request": 0, "verdicts": [], "usd": 0.5}
        target = {
            "texts": ["which?", "what?"],
            "is_sentence": True,
            "instances": [0],
            "absent": False,
            "incomplete": False,
        }
        return {
            "image_id": name,
            "path": f"all/{name}.jpg",
            "height_px": 5,
            "width_px": 7,
            "instances": [{"label": "cat", "counts": rle.encode(np.ones((5, 7), bool))}],
            "requests": [{"prompt": "[]", "response": "Which?", "model": "m"}],
            "targets": [{**target, "made": made}, {**target, "made": made}],
        }

    file = "train.jsonl"
    return Case(
        options={"format": "generated"},
        files={file: [row(A), row(B)]},
        of_a=(
            (file, set_at(0, "targets", 1, "texts", 0, to="where?")),
            (file, set_at(0, "targets", 0, "absent", to=True)),
            (file, set_at(0, "targets", 0, "made", "usd", to=1)),
            (file, set_at(0, "instances", 0, "label", to="dog")),
            (file, set_at(0, "requests", 0, "response", to="What?")),
        ),
        of_none=(),
        add=((file, append((), row(C))),),
        reorder=((file, lambda rows: rows[::-1]),),
    )


CASES = {
    "generated": generated(),
    "refer": refer("refer", "refs(unc).p", lambda number: number),
    "grefer": refer("grefer", "grefs(unc).json", lambda number: [number]),
    "coco": coco(),
    "vqa": vqa(),
    "llmseg40k": llmseg40k(),
    "reasonseg_plus": muse(),
    "questions": questions(),
}
NAMES = sorted(CASES)


def test_every_format_with_a_file_of_many_images_is_here() -> None:
    modules = {name: import_module(f"stages.datasets.{line.module}") for name, line in FORMATS.items()}
    assert {name for name, module in modules.items() if hasattr(module, "contents")} == set(CASES)


@pytest.mark.parametrize("name", NAMES)
def test_an_edit_changes_the_content_of_its_image_alone(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    write(tmp_path, case.files)
    before = found(tmp_path, case)
    assert sorted(before) == [A, B]
    for number, (file, edit) in enumerate(case.of_a):
        write(tmp_path, {**case.files, file: edit(deepcopy(case.files[file]))})
        after = found(tmp_path, case)
        assert (after[A] != before[A], after[B] == before[B]) == (True, True), (number, file)
    for number, (file, edit) in enumerate(case.of_none):
        write(tmp_path, {**case.files, file: edit(deepcopy(case.files[file]))})
        assert found(tmp_path, case) == before, (number, file)


@pytest.mark.parametrize("name", NAMES)
def test_images_that_are_added_or_stand_in_another_order_change_nothing(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    write(tmp_path, case.files)
    before = found(tmp_path, case)
    for file, edit in case.reorder:
        write(tmp_path, {**case.files, file: edit(deepcopy(case.files[file]))})
        assert found(tmp_path, case) == before
    write(tmp_path, case.files, indent=3)
    assert found(tmp_path, case) == before
    files = dict(deepcopy(case.files))
    for file, edit in case.add:
        files[file] = edit(files[file])
    write(tmp_path, files)
    after = found(tmp_path, case)
    assert {image_id: after[image_id] for image_id in (A, B)} == before
    assert sorted(after) == [A, B, C]


@pytest.mark.parametrize("name", NAMES)
def test_contents_are_those_of_the_files_as_they_are_now(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    write(tmp_path, case.files)
    data = data_params({"images": "x", "root": str(tmp_path), "splits": ["train"], **case.options})
    sources = list_sources(data, Folders(tmp_path), "train")
    file, edit = case.of_a[0]
    write(tmp_path, {**case.files, file: edit(deepcopy(case.files[file]))}, indent=1)
    now = contents(
        data, Folders(tmp_path), [*sources, replace(sources[0], image_id="000000000099", path="train2017/x.jpg")]
    )
    assert [now[0] != sources[0].content, *now[1:]] == [True, sources[1].content, "missing"]
    (tmp_path / file).write_bytes(b"{")
    with pytest.raises(DatasetError, match="not JSON|ends|pickle|expected"):
        contents(data, Folders(tmp_path), sources)


def test_a_category_that_an_id_lacked_is_part_of_the_content(tmp_path: Path) -> None:
    case = coco()
    document = deepcopy(case.files["train.json"])
    document["categories"] = document["categories"][1:]
    write(tmp_path, {"train.json": document})
    before = found(tmp_path, case)
    write(tmp_path, case.files)
    after = found(tmp_path, case)
    assert (after[A] != before[A], after[B]) == (True, before[B])


def test_annotations_of_images_that_are_not_listed_are_a_note_of_the_first_image(tmp_path: Path) -> None:
    case = coco()
    write(tmp_path, case.files)
    before = found(tmp_path, case)
    document = append(("annotations",), annotation(9, 77, 1, square(1, 1)))(deepcopy(case.files["train.json"]))
    write(tmp_path, {"train.json": document})
    after = found(tmp_path, case)
    assert (after[A] != before[A], after[B]) == (True, before[B])


def test_a_digest_is_that_of_values_whatever_the_interpreter_shares() -> None:
    name = "".join(["gn", "u"])
    shared = [name, name]
    assert content_of(shared, [1.5, 2, None, True, -(2**40)]) == content_of(
        ["gnu", "gn" + "u"], [1.5, 2, None, True, -(2**40)]
    )
    assert content_of((1, "ü\ud800", [1.5, {"a": None}])) == PINNED, "every shard of these formats would be stale"
    assert len({content_of(*parts) for parts in (("a", "b"), ("ab",), (["a", "b"],), (("a", "b"),), ())}) == 5
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ImageFailure, match="nested too deeply"):
        digest_of(deep)
    while deep:  # CPython frees a list of lists by recursion
        deep = deep.pop()


PINNED = "3bace0274a1379b2f97d1b970b218bab005a182f8ecf060e1e5baa56170604bc"


def test_files_of_one_image_alone_count_as_they_are() -> None:
    """As a mask next to the table of many images that names it."""
    source = Source("a", "a.jpg", ("val.csv", "a.png"), content="12", own=("a.png",))
    assert source_files(Entry(source), "annotations") == ("a.png",)
    assert source_content(Entry(source), "annotations") == {"val.csv#a": "12"}
    assert source_files(Entry(source), "images") == ("a.jpg",)
    assert source_content(Entry(source), "images") == source_content(Entry(source, removed=True), "annotations") == {}
    whole = Source("a", "a.jpg", ("val.csv", "a.png"))
    assert source_files(Entry(whole), "annotations") == ("val.csv", "a.png")
    assert source_content(Entry(whole), "annotations") == {}
