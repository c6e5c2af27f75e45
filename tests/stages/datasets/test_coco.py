"""The format coco: what becomes a target, compared with pycocotools; federated sets; crowds; boxes; frames."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.coco
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from written_coco import (
    HEIGHT,
    WIDTH,
    annotation,
    category,
    image,
    lvis_image,
    run_list,
    run_string,
    square,
    write,
)

from stages.datasets import coco
from stages.datasets.base import Annotation, DatasetError, Target
from stages.datasets.coco import annotate, list_sources, wordings
from stages.datasets.params import CocoOptions
from stages.images import ImageFailure
from store import rle

CATS = [category(1, "cat"), category(2, "trash_can"), category(3, "bow_(weapon)"), category(4, "car:wheel")]


def read(root: Path, options: CocoOptions = coco.DEFAULTS, number: int = 0) -> Annotation:
    return annotate(root, list_sources(root, "train", options)[number], HEIGHT, WIDTH, options)


def pixels(counts: str) -> NDArray[np.bool_]:
    return rle.decode(counts, HEIGHT, WIDTH)


def box_of(x: int, y: int, side: int = 10) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def by_text(found: Annotation) -> dict[str, Target]:
    return {target.texts[0]: target for target in found.targets}


def test_a_target_for_each_category_in_file_order(tmp_path: Path) -> None:
    write(
        tmp_path,
        [image(9, "sub/a.jpg")],
        [
            annotation(1, 9, 2, square(1, 1)),
            annotation(2, 9, 1, square(20, 20)),
            annotation(3, 9, 2, square(30, 1)),
        ],
        CATS,
    )
    (source,) = list_sources(tmp_path, "train")
    assert (source.image_id, source.path, source.annotations) == ("sub/a", "train/sub/a.jpg", ("train.json",))
    found = read(tmp_path)
    assert [(each.target_id, each.texts, each.instances, each.kind) for each in found.targets] == [
        ("sub/a/0", ("trash_can",), (0, 2), "object"),
        ("sub/a/1", ("cat",), (1,), "object"),
    ]
    assert [each.label for each in found.instances] == ["trash_can", "cat", "trash_can"]
    assert np.array_equal(pixels(found.targets[0].segmentation), box_of(1, 1) | box_of(30, 1))
    assert not any(each.absent or each.incomplete or each.is_sentence or each.answer for each in found.targets)
    assert not any(pixels(each.ignore).any() for each in found.targets)
    assert found.notes == ()


def test_a_target_for_each_annotation(tmp_path: Path) -> None:
    anns = [annotation(k, 9, c, square(10 * k, 1)) for k, c in enumerate((4, 1, 4))]
    write(tmp_path, [image(9, "a.jpg")], anns, CATS)
    found = read(tmp_path, CocoOptions(targets="instance"))
    assert [(each.texts[0], each.instances, each.kind) for each in found.targets] == [
        ("car wheel", (0,), "part"),
        ("cat", (1,), "object"),
        ("car wheel", (2,), "part"),
    ]
    assert [np.array_equal(pixels(t.segmentation), box_of(10 * k, 1)) for k, t in enumerate(found.targets)] == [
        True
    ] * 3


def test_a_crowd_is_part_of_its_category_and_ignored_where_instances_are_asked(tmp_path: Path) -> None:
    crowd = run_list(box_of(5, 5, 20))
    anns = [
        annotation(1, 9, 1, square(0, 0)),
        annotation(2, 9, 1, crowd, iscrowd=1),
        annotation(3, 9, 2, square(0, 0)),
        annotation(4, 9, 3, crowd, iscrowd=1),
    ]
    write(tmp_path, [image(9, "a.jpg")], anns, CATS)
    found = read(tmp_path)
    assert np.array_equal(pixels(by_text(found)["cat"].segmentation), box_of(0, 0) | box_of(5, 5, 20))
    assert by_text(found)["cat"].instances == (0, 1)
    assert len(found.targets) == 3
    alone = read(tmp_path, CocoOptions(targets="instance"))
    assert list(by_text(alone)) == ["cat", "trash_can"], "a crowd alone is asked for by nobody"
    assert np.array_equal(pixels(by_text(alone)["cat"].ignore), box_of(5, 5, 20) & ~box_of(0, 0))
    assert not pixels(by_text(alone)["trash_can"].ignore).any(), "only that of its own category"
    assert [each.label for each in alone.instances] == ["cat", "trash_can"]


def test_federated_categories_are_absent_only_where_the_file_says_so(tmp_path: Path) -> None:
    images = [lvis_image(9, neg_category_ids=[3, 1, 3], not_exhaustive_category_ids=[2])]
    write(tmp_path, images, [annotation(1, 9, 1, square(1, 1)), annotation(2, 9, 2, square(2, 2))], CATS)
    lvis = CocoOptions(ids="coco")
    assert list_sources(tmp_path, "train", lvis)[0].image_id == "000000000009"
    found = read(tmp_path, lvis)
    assert [each.texts[0] for each in found.targets] == ["cat", "trash_can"], "car:wheel may be there, bow is not asked"
    assert [each.incomplete for each in found.targets] == [False, True]
    found = read(tmp_path, CocoOptions(ids="coco", absent=True))
    assert [(each.texts[0], each.absent, each.instances) for each in found.targets] == [
        ("cat", False, (0,)), ("trash_can", False, (1,)), ("bow", True, ()),
    ]  # fmt: skip
    assert not pixels(found.targets[2].segmentation).any()
    assert found.targets[2].target_id == "000000000009/2"
    assert coco.ABSENT_BUT_ANNOTATED in found.notes
    write(tmp_path, [lvis_image(9, neg_category_ids=[77])], [], CATS)
    with pytest.raises(ImageFailure, match="image 9: 'neg_category_ids' has an id that no category has"):
        read(tmp_path, CocoOptions(ids="coco", absent=True))
    assert read(tmp_path, lvis).targets == ()


def test_a_region_without_a_pixel_is_not_absent(tmp_path: Path) -> None:
    write(tmp_path, [image(9, "a.jpg")], [annotation(1, 9, 1, [[90, 90, 95, 90, 95, 95]])], CATS)
    found = read(tmp_path)
    assert (found.targets[0].absent, found.targets[0].instances) == (False, (0,))
    assert found.notes == (coco.NO_PIXEL,)


def test_names_are_those_of_lisa() -> None:
    def lisa(name: str) -> tuple[str, ...]:
        """init_paco_lvis and the questions of utils/vqa- and sem_seg_dataset.py, in both of its draws."""
        split = name.strip().split(":")
        if len(split) == 1:
            return (split[0].split("_(")[0],)
        obj, part = split[0].split("_(")[0], split[1].split("_(")[0]
        return obj + " " + part, f"the {part} of the {obj}"

    for name in (
        "cat", "trash_can", "car_(automobile)", "bow_(decorative_ribbons)", "dog:ear", "potted plant:pot", "bus:license plate",
        "car_(automobile):headlight", "mouse_(computer_equipment):left_button_(x)", "Quadruped Head",
    ):  # fmt: skip
        assert wordings(name) == lisa(name)
    assert wordings("ratio 1:2:3") == ("ratio 1:2:3",)
    assert wordings("_(odd)") == ("_(odd)",)
    assert wordings("dog:") == ("dog:",)


def test_names_as_they_stand_and_kinds_by_option(tmp_path: Path) -> None:
    cats = [category(1, "a:b"), category(2, "x_(y)"), category(3, "bolt", "PART")]
    write(tmp_path, [image(9, "a.jpg")], [annotation(k, 9, k, square(1, 1)) for k in (1, 2, 3)], cats)
    found = read(tmp_path, CocoOptions(names="plain"))
    assert [each.texts for each in found.targets] == [("a:b",), ("x_(y)",), ("bolt",)]
    assert [each.kind for each in found.targets] == ["object", "object", "part"]
    assert [each.kind for each in read(tmp_path).targets] == ["part", "object", "part"]
    assert [each.kind for each in read(tmp_path, CocoOptions(kind="part")).targets] == ["part"] * 3


def test_two_categories_of_one_text_are_noted(tmp_path: Path) -> None:
    cats = [category(1, "bow_(weapon)"), category(2, "bow_(decorative_ribbons)")]
    write(tmp_path, [image(9, "a.jpg")], [annotation(k, 9, k, square(k, 1)) for k in (1, 2)], cats)
    found = read(tmp_path)
    assert [each.texts for each in found.targets] == [("bow",), ("bow",)]
    assert found.notes == (coco.ALIKE,)
    assert read(tmp_path, CocoOptions(names="plain")).notes == ()


@st.composite
def documents(draw: st.DrawFn) -> tuple[list[Any], list[Any], list[Any]]:
    rng = random.Random(draw(st.integers(0, 10**6)))
    images = [image(number, f"{number}.jpg") for number in rng.sample(range(50), draw(st.integers(1, 4)))]
    cats = [category(number, f"name {number}") for number in rng.sample(range(9), 3)]
    anns = []
    for number in range(draw(st.integers(0, 8))):
        how = draw(st.sampled_from(["polygons", "list", "string"]))
        mask = np.random.default_rng(rng.randrange(99)).random((HEIGHT, WIDTH)) < rng.random()
        polygons = [[rng.uniform(-9, 60) for _ in range(rng.choice([6, 8, 14]))] for _ in range(rng.randint(1, 3))]
        value = {"polygons": polygons, "list": run_list(mask), "string": run_string(mask)}[how]
        of = rng.choice(images)["id"], rng.choice(cats)["id"]
        anns.append(annotation(number, *of, value, iscrowd=int(how == "list")))
    return images, anns, cats


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")
@settings(max_examples=25, deadline=None)
@given(documents(), st.permutations(["info", "images", "annotations", "categories"]), st.sampled_from([None, 1]))
def test_unions_are_those_of_pycocotools(
    tmp_path_factory: pytest.TempPathFactory, document: Any, keys: list[str], indent: int | None
) -> None:
    images, anns, cats = document
    root = tmp_path_factory.mktemp("coco")
    path = write(root, images, anns, cats, keys=keys, indent=indent)
    with contextlib.redirect_stdout(io.StringIO()):
        api = pycocotools.coco.COCO(path)
    sources = list_sources(root, "train")
    assert [each.path for each in sources] == sorted(f"train/{each['file_name']}" for each in images)
    for each, source in zip(sorted(images, key=lambda each: each["file_name"]), sources, strict=True):
        listed = api.loadAnns(api.getAnnIds(imgIds=[each["id"]]))
        want: dict[str, NDArray[np.bool_]] = {}
        for ann in listed:
            name = api.loadCats([ann["category_id"]])[0]["name"]
            mask = api.annToMask(ann).astype(bool)
            want[name] = want.get(name, np.zeros_like(mask)) | mask
        found = annotate(root, source, HEIGHT, WIDTH)
        assert [target.texts for target in found.targets] == [(name,) for name in want]
        for target in found.targets:
            assert np.array_equal(pixels(target.segmentation), want[target.texts[0]])
            union = rle.union([found.instances[i].segmentation for i in target.instances], HEIGHT, WIDTH)
            assert union == target.segmentation, "the union of its instances, and in the one form that a mask has"
        singly = annotate(root, source, HEIGHT, WIDTH, CocoOptions(targets="instance"))
        masks = [api.annToMask(ann).astype(bool) for ann in listed if not ann["iscrowd"]]
        assert [pixels(target.segmentation).tolist() for target in singly.targets] == [mask.tolist() for mask in masks]
        for target in singly.targets:
            assert not (pixels(target.segmentation) & pixels(target.ignore)).any()


def test_the_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []
    real = coco.read_coco
    monkeypatch.setattr(coco, "read_coco", lambda *args: reads.append(args) or real(*args))
    write(tmp_path, [image(k, f"{k}.jpg") for k in range(5)], [annotation(1, 3, 1, square(1, 1))], CATS)
    for source in list_sources(tmp_path, "train"):
        annotate(tmp_path, source, HEIGHT, WIDTH)
    assert len(reads) == 1
    old = list_sources(tmp_path, "train")
    write(tmp_path, [image(3, "3.jpg")], [annotation(1, 3, 2, square(1, 1)), annotation(2, 3, 1, square(1, 1))], CATS)
    assert len(annotate(tmp_path, old[3], HEIGHT, WIDTH).targets) == 2
    with pytest.raises(ImageFailure, match="train.json: no image '4' in it any more"):
        annotate(tmp_path, old[4], HEIGHT, WIDTH)
    assert len(reads) == 2


def test_listing_decodes_no_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, [image(9, "a.jpg")], [annotation(1, 9, 1, {"size": [1, 1], "counts": "broken"})], CATS)
    monkeypatch.setattr(coco, "read_region", lambda *_: pytest.fail("decoded"))
    assert len(list_sources(tmp_path, "train")) == 1


def test_a_split_is_a_file_and_a_missing_one_names_what_is_there(tmp_path: Path) -> None:
    options = CocoOptions(file="annotations/instances_{split}.json", pictures="{split}", ids="coco")
    write(tmp_path, [image(9)], [], CATS, "annotations/instances_val2017.json")
    source = list_sources(tmp_path, "val2017", options)[0]
    assert (source.image_id, source.path) == ("000000000009", "val2017/000000000009.jpg")
    assert list_sources(tmp_path, "val2017", options.model_copy(update={"pictures": ""}))[0].path == "000000000009.jpg"
    with pytest.raises(
        DatasetError, match=r"no file 'annotations/instances_val.json' in .* \(JSON files there: annotations/inst"
    ):
        list_sources(tmp_path, "val", options)
    with pytest.raises(DatasetError, match="leads outside"):
        list_sources(tmp_path, "val", CocoOptions(file="../{split}.json"))
