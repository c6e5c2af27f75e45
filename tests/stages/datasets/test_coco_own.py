"""One's own files in COCO's form, as labelme, CVAT, Label Studio and scripts write them, and hostile ones."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from written_coco import HEIGHT, WIDTH, annotation, category, image, square, write

from stages.datasets import cocofile
from stages.datasets.base import Annotation, DatasetError
from stages.datasets.coco import annotate, list_sources
from stages.datasets.cocopicture import BACKSLASHES, OTHER_NUMBER
from stages.datasets.cocoregion import FILLED_BOX, NO_POLYGON
from stages.datasets.params import CocoOptions
from stages.images import ImageFailure, read_image
from store import rle

CATS = [category(1, "bolt"), category(2, "nut")]


def read(root: Path, images: list[Any], anns: list[Any], cats: list[Any] | None = None, **options: Any) -> Annotation:
    write(root, images, anns, CATS if cats is None else cats)
    chosen = CocoOptions(**options)
    return annotate(root, list_sources(root, "train", chosen)[0], HEIGHT, WIDTH, chosen)


def test_folders_backslashes_and_dots_in_file_names(tmp_path: Path) -> None:
    names = ["day 1/a.jpg", "day2\\raw\\b.JPG", "./c.png", "Küche/d.jpg"]
    write(tmp_path, [image(k, name) for k, name in enumerate(names)], [], CATS, ensure_ascii=False)
    sources = list_sources(tmp_path, "train", CocoOptions(pictures="."))
    assert [each.path for each in sources] == ["Küche/d.jpg", "c.png", "day 1/a.jpg", "day2/raw/b.JPG"]
    assert [each.image_id for each in sources] == ["Küche/d", "c", "day 1/a", "day2/raw/b"]
    notes = [annotate(tmp_path, each, HEIGHT, WIDTH).notes for each in sources]
    assert notes == [(), (), (), (BACKSLASHES,)]


def test_sizes_may_be_missing_and_ids_may_be_texts(tmp_path: Path) -> None:
    images: list[Any] = [{"id": "img-7", "file_name": "a.jpg"}, {"id": "8", "file_name": "b.jpg", "height": None}]
    anns = [annotation("x", "img-7", "2", square(1, 1)), annotation("y", 8, 2.0, square(1, 1))]
    found = read(tmp_path, images, anns)
    assert [each.texts for each in found.targets] == [("nut",)]
    other = list_sources(tmp_path, "train")[1]
    assert [each.texts for each in annotate(tmp_path, other, HEIGHT, WIDTH).targets] == [("nut",)]


def test_a_number_of_coco_is_taken_from_the_file_name_before_the_id(tmp_path: Path) -> None:
    """CVAT numbers the images of a file from 1."""
    found = read(tmp_path, [image(1, "coco/000000391895.jpg")], [annotation(1, 1, 1, square(1, 1))], ids="coco")
    assert found.targets[0].target_id == "000000391895/0"
    assert found.notes == (OTHER_NUMBER,)
    with pytest.raises(DatasetError, match=r"images\[0\] \(id a\): expected the number in COCO as 'id'"):
        read(tmp_path, [image("a", "x.jpg")], [], ids="coco")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 7}, "annotation 31: 'category_id' is 7, expected the id of a category that the file lists"),
        ({"category_id": None}, "annotation 31: 'category_id' is None"),
        ({"segmentation": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}, "annotation 31: polygon is 1.0, expected a flat list"),
        ({"segmentation": [["a"] * 6]}, "annotation 31: polygon is ..a., .a."),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "annotation 31: polygon has numbers beyond"),
        ({"segmentation": [[0, 0, 10**9, 0, 0, 10**9]]}, "annotation 31: polygon has numbers beyond"),
        ({"segmentation": [[0, 0, 9e6, 0, 0, 9e6]]}, "annotation 31: polygon has an outline"),
        ({"segmentation": [[0, 0, 3e6, 0, 0, 3e6]] * 2}, "annotation 31: polygons have outlines"),
        ({"segmentation": "x" * 9}, "annotation 31: segmentation is 'xxxxxxxxx', expected polygons or run lengths"),
        ({"segmentation": {"counts": [2**40], "size": [40, 50]}}, "annotation 31: run lengths are"),
        ({"segmentation": {"counts": [1] * 5000, "size": [40, 50]}}, "annotation 31: found 5000 run lengths, too many"),
        ({"segmentation": {"counts": "oooooooo3", "size": [40, 50]}}, "annotation 31: run lengths: "),
        ({"segmentation": {"counts": [9], "size": [40, 50]}}, "annotation 31: run lengths: counts cover 9 pixels"),
        ({"segmentation": {"counts": [2000], "size": [2**20, 2**20]}}, "annotation 31: run lengths are of an image of"),
        ({"segmentation": None}, "annotation 31: neither 'segmentation' nor 'bbox': .*keypoints are no region"),
        ({"segmentation": [], "bbox": [1, 2, 3]}, r"annotation 31: 'bbox' is \[1, 2, 3\], expected \[x, y, width, height\]"),
        ({"segmentation": [], "bbox": [1, 2, -3, 4]}, "annotation 31: 'bbox' is"),
        ({"segmentation": [], "bbox": [0, 0, 1e9, 1e9]}, "annotation 31: polygon has numbers beyond"),
        ({"iscrowd": "no"}, "annotation 31: 'iscrowd' is 'no', expected 0 or 1"),
    ],
)  # fmt: skip
def test_an_unusable_annotation_is_named_and_fails_its_image_alone(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    anns = [annotation(30, 8, 1, square(1, 1)), {**annotation(31, 9, 1, square(1, 1)), **change}]
    if change.get("category_id", 1) is None:
        anns[1].pop("instance_id", None)
    images = [image(9, "a.jpg"), image(8, "b.jpg")]
    with pytest.raises(ImageFailure, match=f"train.json: {message}"):
        read(tmp_path, images, anns)
    assert len(annotate(tmp_path, list_sources(tmp_path, "train")[1], HEIGHT, WIDTH).targets) == 1


def test_an_annotation_without_the_key_category_id_is_named(tmp_path: Path) -> None:
    ann = annotation(31, 9, 1, square(1, 1))
    del ann["category_id"]
    with pytest.raises(ImageFailure, match="annotation 31: 'category_id' is missing"):
        read(tmp_path, [image(9, "a.jpg")], [ann])


def test_rectangles_of_label_studio_are_filled_and_short_polygons_dropped(tmp_path: Path) -> None:
    anns = [
        annotation(1, 9, 1, [], bbox=[3, 4, 10, 6]),
        annotation(2, 9, 2, [[1, 1, 5, 5], *square(20, 20), [1, 2, 3, 4, 5, 6, 7]]),
    ]
    found = read(tmp_path, [image(9, "a.jpg")], anns)
    assert [each.kind for each in found.targets] == ["box", "object"]
    assert [rle.area(each.segmentation) for each in found.targets] == [60, 100]
    assert found.notes == (FILLED_BOX, NO_POLYGON, NO_POLYGON)


def test_polygons_and_run_lengths_may_be_mixed(tmp_path: Path) -> None:
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT, HEIGHT * (WIDTH - 1)]}
    found = read(tmp_path, [image(9, "a.jpg")], [annotation(1, 9, 1, [runs, *square(20, 20), [1, 1]])])
    assert rle.area(found.targets[0].segmentation) == HEIGHT + 100
    assert found.notes == (NO_POLYGON,)


def test_annotations_of_images_that_are_not_listed_are_counted(tmp_path: Path) -> None:
    anns = [annotation(k, 9 if k else 99, 1, square(1, 1)) for k in range(2)]
    found = read(tmp_path, [image(9, "a.jpg")], anns)
    assert found.notes == (cocofile.OF_NO_IMAGE,)
    with pytest.raises(
        DatasetError, match="none of the 1 annotations is of an image in 'images': found the image_id '99'"
    ):
        read(tmp_path, [image(9, "a.jpg")], anns[:1])


def test_a_url_as_a_file_name_is_its_last_folder_and_file(tmp_path: Path) -> None:
    write(tmp_path, [image(1, "http://host:8080/data/upload/4/a.jpg")], [], CATS)
    assert list_sources(tmp_path, "train")[0].path == "train/4/a.jpg"


def test_paths_that_leave_the_folder_are_the_failure_of_their_row(tmp_path: Path) -> None:
    write(tmp_path, [image(1, "../../etc/a.jpg"), image(2, "/etc/b.jpg"), image(3, "..\\c.jpg")], [], CATS)
    for source in list_sources(tmp_path, "train", CocoOptions(pictures="")):
        assert ".." in source.path or source.path.startswith("/")
        with pytest.raises((ImageFailure, OSError)):
            read_image(tmp_path / "nothing" / source.path, 100)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], r"found '\[' at byte 0, expected '\{'.* expected COCO's form, an object with the lists images, annotations"),
        ({"annotations": []}, r"key 'images' is missing \(found: 'annotations'\)"),
        ({"images": {}}, "'images' is dict, expected list"),
        ({"images": []}, "'images' is empty, expected the images of the split 'train'"),
        ({"images": [7]}, r"images\[0\] is int, expected an object"),
        ({"images": [{"file_name": "a.jpg"}]}, r"images\[0\]: 'id' is None, expected a number or a text"),
        ({"images": [{"id": True}]}, r"images\[0\]: 'id' is True"),
        ({"images": [{"id": 1}]}, r"images\[0\] \(id 1\): no 'file_name' and no 'coco_url'; set ids: coco"),
        ({"images": [{"id": 1, "file_name": 7}]}, r"images\[0\] \(id 1\): 'file_name' is int, expected str"),
        ({"images": [{"id": 1, "file_name": "\ud800.jpg"}]}, "half of a surrogate pair"),
        ({"images": [image(1, "a.jpg"), image("1", "b.jpg")]}, "two images have the id 1: 'a.jpg' and 'b.jpg'"),
        ({"images": [image(1, "a.jpg"), image(2, "a.png")]}, r"the images 1 \(a.jpg\) and 2 \(a.png\) would both be"),
        ({"images": [image(1, "a.jpg", neg_category_ids=7)]}, "'neg_category_ids' is 7, expected a list"),
        ({"images": [image(1, "a.jpg", neg_category_ids=[[]])]}, "'neg_category_ids' is"),
        ({"images": [image(1, "a.jpg")], "annotations": [annotation(1, 1, 1, [])]}, "no categories: expected a key 'categories'"),
        ({"images": [image(1, "a.jpg")], "annotations": [[]]}, r"annotations\[0\] is list, expected an object"),
        ({"images": [image(1, "a.jpg")], "annotations": [{"id": 5}]}, "annotation 5: 'image_id' is missing"),
        ({"images": [image(1, "a.jpg")], "categories": [category(1, "a"), category("1", "b")]}, "two categories have the id 1"),
        ({"images": [image(1, "a.jpg")], "categories": [{"id": 1}]}, r"categories\[0\]: 'name' is null, expected str"),
        ({"images": [image(1, "a.jpg")], "categories": [category(1, " ")]}, r"categories\[0\]: 'name' is empty"),
        ({"images": [image(1, "a.jpg")], "categories": [{"name": "a"}]}, r"categories\[0\]: 'id' is None"),
        ({"images": [image(1, "a.jpg")], "categories": "x"}, "'categories' is str, expected list"),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_nobodys_row(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=f"train.json: .*{message}"):
        list_sources(tmp_path, "train")


def test_hostile_files_take_no_memory(tmp_path: Path) -> None:
    long = "x" * 2**20
    anns = [annotation(1, 2, 1, {"size": [HEIGHT, WIDTH], "counts": "o" * 2**20})]
    tracemalloc.start()
    try:
        with pytest.raises(ImageFailure, match="train.json: 'height' is .*xxx.*, expected a number of px"):
            read(tmp_path, [image(2, "b.jpg", height=long, width=[[]] * 9)], anns)  # type: ignore[arg-type]
        with pytest.raises(ImageFailure, match="annotation 1: run lengths: counts have 1048576 characters, too many"):
            read(tmp_path, [image(2, "b.jpg")], anns)
        with pytest.raises(DatasetError, match="'file_name' has 1048580 characters or a name of more than 255 bytes"):
            read(tmp_path, [image(2, f"{long}.jpg")], anns)
        with pytest.raises(
            DatasetError, match=r"categories\[0\]: 'name' has 1048576 characters, expected at most 1000"
        ):
            read(tmp_path, [image(2, "b.jpg")], anns, [category(1, long)])
        assert tracemalloc.get_traced_memory()[1] < 2**25
    finally:
        tracemalloc.stop()


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path, [image(1, "a.jpg"), image(2, "b.jpg")], [annotation(1, 2, 1, square(1, 1))], CATS)
    found = cocofile.read_coco(tmp_path, ("train.json",), "path")
    path.write_text(path.read_text().replace('"image_id": 2', '"image_id": 1'))
    with pytest.raises(ImageFailure, match="has another annotation now: the file was changed"):
        list(found.annotations(path, "b"))
    path.write_text("{}")
    with pytest.raises(ImageFailure, match="no longer starts the element"):
        list(found.annotations(path, "b"))
