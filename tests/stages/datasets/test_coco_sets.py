"""Published sets in COCO's form, each as it is on disk, and what is odd about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from written_coco import HEIGHT, WIDTH, annotation, category, image, lvis_image, run_string, square, write

from stages.datasets import coco
from stages.datasets.base import Annotation
from stages.datasets.coco import annotate, list_sources
from stages.datasets.cocoregion import FILLED_BOX, NO_POLYGON
from stages.datasets.params import CocoOptions
from stages.images import ImageFailure
from store import rle

LVIS = CocoOptions(file="lvis_v1_{split}.json", ids="coco")
PACO = CocoOptions(file="annotations/paco_lvis_v1_{split}.json", ids="coco", targets="instance")


def read(root: Path, options: CocoOptions, number: int = 0, split: str = "train") -> Annotation:
    return annotate(root, list_sources(root, split, options)[number], HEIGHT, WIDTH, options)


def pixels(counts: str) -> NDArray[np.bool_]:
    return rle.decode(counts, HEIGHT, WIDTH)


def test_lvis_names_a_picture_by_its_url_and_its_number(tmp_path: Path) -> None:
    """Most of the split val lies in train2017."""
    cats = [
        {**category(1, "aerosol_can"), "synonyms": ["aerosol_can", "spray_can"], "def": "a dispenser", "frequency": "c"}
    ]
    images = [lvis_image(391895), lvis_image(7, "val2017"), lvis_image(12)]
    write(tmp_path, images, [annotation(1, 7, 1, square(1, 1))], cats, "lvis_v1_val.json")
    sources = list_sources(tmp_path, "val", LVIS)
    assert [each.image_id for each in sources] == ["000000000007", "000000000012", "000000391895"]
    assert sources[0].path == "val/val2017/000000000007.jpg"
    assert [each.texts for each in read(tmp_path, LVIS, 0, "val").targets] == [("aerosol_can",)]
    empty = read(tmp_path, LVIS, 1, "val")
    assert (empty.instances, empty.targets, empty.notes) == ((), (), ())


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(1, 6)), st.lists(st.integers(1, 6)), st.lists(st.integers(1, 6)), st.booleans())
def test_what_a_federated_file_says_of_a_category(
    tmp_path_factory: pytest.TempPathFactory, negative: set[int], open_ended: list[int], annotated: list[int], ask: bool
) -> None:
    root = tmp_path_factory.mktemp("lvis")
    lists = {"neg_category_ids": list(negative), "not_exhaustive_category_ids": open_ended}
    anns = [annotation(k, 7, each, square(k, k, 4)) for k, each in enumerate(annotated)]
    write(root, [lvis_image(7, **lists)], anns, [category(k, f"c{k}") for k in range(1, 7)], "lvis_v1_train.json")
    found = {
        int(each.texts[0][1:]): (each.absent, each.incomplete)
        for each in read(root, LVIS.model_copy(update={"absent": ask})).targets
    }
    assert {each for each, (absent, _) in found.items() if absent} == (negative - set(annotated) if ask else set())
    assert {each for each, (absent, _) in found.items() if not absent} == set(annotated)
    assert {each for each, (_, incomplete) in found.items() if incomplete} == set(open_ended) & set(annotated)


def test_a_list_of_pictures_without_annotations_has_none(tmp_path: Path) -> None:
    """LVIS test-dev, COCO's image_info_test2017.json."""
    write(tmp_path, [lvis_image(9)], None, [category(1, "cat")], "lvis_v1_test.json")
    (source,) = list_sources(tmp_path, "test", LVIS)
    assert source.annotations == ()
    with pytest.raises(ImageFailure, match="no annotation: the file that lists the image has no key 'annotations'"):
        annotate(tmp_path, source, HEIGHT, WIDTH, LVIS)


def paco(root: Path, **more: Any) -> None:
    cats = [
        category(1, "car_(automobile)", "OBJECT"),
        category(2, "trash_can", "OBJECT"),
        category(300, "car_(automobile):wheel", "PART"),
        category(301, "trash_can:rim", "PART"),
    ]
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": [], **more}
    images = [image(9, "train2017/000000000009.jpg", **lists)]
    anns = [
        annotation(11, 9, 1, square(0, 0, 30), obj_ann_id=11, attribute_ids=[1], blur_level=1),
        annotation(12, 9, 300, square(1, 1, 4), obj_ann_id=11, attribute_ids=[]),
        annotation(13, 9, 300, square(20, 1, 4), obj_ann_id=11, attribute_ids=[]),
        annotation(14, 9, 301, square(40, 1, 4), obj_ann_id=99, attribute_ids=[]),
    ]
    write(root, images, anns, cats, "annotations/paco_lvis_v1_train.json")


def test_paco_asks_for_every_object_and_every_part(tmp_path: Path) -> None:
    paco(tmp_path)
    assert list_sources(tmp_path, "train", PACO)[0].image_id == "000000000009"
    found = read(tmp_path, PACO)
    assert [(each.texts, each.kind, each.instances) for each in found.targets] == [
        (("car",), "object", (0,)),
        (("car wheel", "the wheel of the car"), "part", (1,)),
        (("car wheel", "the wheel of the car"), "part", (2,)),
        (("trash_can rim", "the rim of the trash_can"), "part", (3,)),
    ]
    assert [each.label for each in found.instances][1] == "car_(automobile):wheel"
    whole = read(tmp_path, PACO.model_copy(update={"targets": "category"}))
    assert [each.instances for each in whole.targets] == [(0,), (1, 2), (3,)]


def test_a_part_of_an_object_that_is_not_all_annotated_is_not_either(tmp_path: Path) -> None:
    paco(tmp_path, not_exhaustive_category_ids=[1])
    assert [each.incomplete for each in read(tmp_path, PACO).targets] == [True, True, True, False]
    paco(tmp_path, not_exhaustive_category_ids=[300])
    assert [each.incomplete for each in read(tmp_path, PACO).targets] == [False, True, True, False]


def test_a_part_may_be_said_to_be_absent(tmp_path: Path) -> None:
    paco(tmp_path, neg_category_ids=[301, 2])
    found = read(tmp_path, PACO.model_copy(update={"absent": True}))
    assert [(each.texts[0], each.kind) for each in found.targets if each.absent] == [("trash_can", "object")]
    assert found.notes == (coco.ABSENT_BUT_ANNOTATED,), "the rim is annotated"


def test_pascal_part_as_vlpart_writes_it(tmp_path: Path) -> None:
    """Its ids are of ten digits, the first annotation is 0, its area is the box's, and its box is a pixel short."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 5:20] = True
    mask[4, 6] = False
    cats = [{"id": 25, "name": "car:license plate", "abbr": "car:liplate"}, {"id": 84, "name": "potted plant:pot"}]
    anns = [
        annotation(k, int("2008000002"), each["id"], run_string(mask), bbox=[5.0, 3.0, 14.0, 5.0], area=70.0)
        for k, each in enumerate(cats)
    ]
    write(tmp_path, [image(int("2008000002"), "2008_000002.jpg")], anns, cats)
    options = CocoOptions(targets="instance")
    assert list_sources(tmp_path, "train", options)[0].image_id == "2008_000002", "as in VOCdevkit/VOC2010/JPEGImages"
    found = read(tmp_path, options)
    assert [each.texts for each in found.targets] == [
        ("car license plate", "the license plate of the car"), ("potted plant pot", "the pot of the potted plant"),
    ]  # fmt: skip
    assert all(np.array_equal(pixels(each.segmentation), mask) and each.kind == "part" for each in found.targets)
    assert found.notes == ()


def test_partimagenet_original_and_as_vlpart_writes_it_again(tmp_path: Path) -> None:
    """Ids start at 0. VLPart puts the folder before the name, closes short polygons to lines, and one edition doubles them all."""
    name = "n01440764_1.JPEG"
    cats = [category(0, "Quadruped Head", "Quadruped"), category(1, "Quadruped Body", "Quadruped")]
    whole = square(5, 5)[0]
    original = [annotation(0, 0, 0, [whole, [30, 30, 34, 36], [7, 7]]), annotation(1, 0, 1, square(20, 20))]
    again = [whole, whole, [30, 30, 34, 36, 30, 30], [7, 7, 0, 0, 7, 7], [7, 7]]
    formatted = [{**original[0], "segmentation": again}, original[1]]
    write(tmp_path, [image(0, name)], original, cats)
    write(tmp_path, [image(0, f"{name[:9]}/{name}")], formatted, cats, "train_format.json")
    options = CocoOptions(kind="part")
    first = read(tmp_path, options)
    assert [(each.texts, each.kind) for each in first.targets] == [
        (("Quadruped Head",), "part"),
        (("Quadruped Body",), "part"),
    ]
    assert first.notes == (NO_POLYGON, NO_POLYGON)
    options = CocoOptions(kind="part", file="{split}_format.json")
    (source,) = list_sources(tmp_path, "train", options)
    assert (source.image_id, source.path) == ("n01440764/n01440764_1", "train/n01440764/n01440764_1.JPEG")
    second = annotate(tmp_path, source, HEIGHT, WIDTH, options)
    assert [each.segmentation for each in second.targets] == [each.segmentation for each in first.targets]
    assert rle.area(first.targets[0].segmentation) == 100, "no line leads to the corner"


def test_egoobjects_has_boxes_urls_and_instances_without_category(tmp_path: Path) -> None:
    lists = {"neg_category_ids": [3], "not_exhaustive_category_ids": []}
    images = [image(5, None, url="6E4C_0012.jpg", subset="val", **lists)]
    anns = [
        {"id": 1, "image_id": 5, "bbox": [4.0, 6.0, 10.0, 8.0], "area": 80.0, "category_id": 2, "instance_id": "C_1", "iscrowd": 0},
        {"id": 2, "image_id": 5, "bbox": [20.0, 20.0, 5.0, 5.0], "area": 25.0, "category_id": 2, "iscrowd": 0},
        {"id": 3, "image_id": 5, "bbox": [1.0, 1.0, 3.0, 3.0], "area": 9.0, "instance_id": "D_7"},
    ]  # fmt: skip
    write(tmp_path, images, anns, [], "data/val.json", keys=("images", "annotations"))
    write(tmp_path, [], None, [category(2, "mug"), category(3, "lamp")], "data/metadata.json", keys=("categories",))
    options = CocoOptions(file="data/{split}.json", categories="data/metadata.json", pictures="images", absent=True)
    (source,) = list_sources(tmp_path, "val", options)
    assert (source.image_id, source.path) == ("6E4C_0012", "images/6E4C_0012.jpg")
    assert source.annotations == ("data/val.json", "data/metadata.json")
    found = annotate(tmp_path, source, HEIGHT, WIDTH, options)
    mug, lamp = found.targets
    assert (mug.texts, mug.kind, mug.instances) == (("mug",), "box", (0, 1))
    assert rle.bbox(found.instances[0].segmentation, HEIGHT) == (4, 6, 10, 8)
    assert rle.area(mug.segmentation) == 80 + 25
    assert (lamp.texts, lamp.kind, lamp.absent) == (("lamp",), "object", True)
    assert sorted(found.notes) == sorted([FILLED_BOX, FILLED_BOX, coco.WITHOUT_CATEGORY])


def test_coco_itself_holds_its_pictures_or_borrows_them(tmp_path: Path) -> None:
    write(tmp_path, [image(139)], [], [category(1, "person")], "annotations/instances_val2017.json")
    for ids, image_id in (("coco", "000000000139"), ("path", "000000000139")):
        options = CocoOptions(file="annotations/instances_{split}.json", ids=ids)
        (source,) = list_sources(tmp_path, "val2017", options)
        assert (source.image_id, source.path) == (image_id, "val2017/000000000139.jpg")
    write(tmp_path, [image(139, "COCO_val2014_000000000139.jpg")], [], [], "val2014.json")
    assert list_sources(tmp_path, "val2014", CocoOptions(ids="coco"))[0].image_id == "000000000139"
