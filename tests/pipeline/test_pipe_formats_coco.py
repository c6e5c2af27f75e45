"""Files in COCO's form through ``index``: pictures of COCO borrowed by number, and one's own pictures with their file."""

from __future__ import annotations

from typing import Any

import yaml
from lending import rows
from written_coco import HEIGHT, WIDTH, annotation, category, image, lvis_image, square, write, write_picture


def configure(project: Any, **data: dict[str, Any]) -> None:
    values = project.values
    first = next(iter(data))
    values["data"] = {
        name: {"images": name, "root": str(project.folder / name), **entry} for name, entry in data.items()
    }
    values["means"] = {"m": {"train": [f"{first}/train"]}}
    values["train"]["train"] = [f"{first}/train"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))


def test_lvis_and_paco_borrow_pictures_of_coco_by_their_number(empty: Any) -> None:
    for folder, number in (("train2014/COCO_train2014_", 9), ("train2017/", 9), ("val2017/", 12)):
        write_picture(empty.folder / "coco" / f"{folder}{number:012d}.jpg")
    cats = [category(1, "cat_(animal)"), category(2, "dog")]
    images = [lvis_image(12, "val2017", neg_category_ids=[2]), lvis_image(9, not_exhaustive_category_ids=[1])]
    anns = [annotation(1, 9, 1, square(3, 4)), annotation(2, 12, 1, square(1, 1)), annotation(3, 9, 1, square(20, 20))]
    write(empty.folder / "lvis", images, anns, cats, "lvis_v1_train.json")
    parts = [category(5, "cat_(animal)", "OBJECT"), category(6, "cat_(animal):ear", "PART")]
    paco = [annotation(1, 9, 5, square(3, 4), obj_ann_id=1), annotation(2, 9, 6, square(5, 5, 2), obj_ann_id=1)]
    write(empty.folder / "paco", [image(9, "train2017/000000000009.jpg")], paco, parts, "paco_lvis_v1_train.json")
    borrows = {"format": "coco", "images": "coco", "ids": "coco", "splits": ["train"]}
    configure(
        empty,
        lvis={**borrows, "file": "lvis_v1_{split}.json", "absent": True},
        paco={**borrows, "file": "paco_lvis_v1_{split}.json", "targets": "instance"},
        coco={"format": "images", "ids": "coco", "splits": ["all"]},
    )
    done = empty.run("index")
    assert done.code == 0, done.out + done.err
    assert len(rows(empty, "coco/images/all")) == 2
    held = rows(empty, "lvis/images/train")
    assert [(row["image_id"], row["holder_index"]) for row in held] == [("000000000009", 0), ("000000000012", 1)]
    found = rows(empty, "lvis/targets/train")
    assert [(row["target_id"], row["texts"], row["absent"], row["incomplete"]) for row in found] == [
        ("000000000009/0", ["cat"], False, True),
        ("000000000012/0", ["cat"], False, False),
        ("000000000012/1", ["dog"], True, False),
    ]
    assert rows(empty, "lvis/instances/train")[0]["area"] == [100, 100]
    found = rows(empty, "paco/targets/train")
    assert [(row["kind"], row["texts"]) for row in found] == [
        ("object", ["cat"]),
        ("part", ["cat ear", "the ear of the cat"]),
    ]
    assert empty.run("index").out.count("up to date") >= 2


def test_own_pictures_with_a_file_of_ones_own(empty: Any) -> None:
    for name in ("day1/a", "day1/b", "c"):
        write_picture(empty.folder / "own/pictures" / f"{name}.jpg")
    images = [
        image(1, "day1\\a.jpg"),
        image(2, "day1\\b.jpg"),
        image(3, "c.jpg", HEIGHT, WIDTH + 1),
        image(4, "lost.jpg"),
    ]
    anns = [annotation(1, 1, 1, [], bbox=[2, 2, 5, 5]), annotation(2, 3, 1, square(1, 1))]
    write(empty.folder / "own", images, anns, [category(1, "bolt")])
    configure(empty, own={"format": "coco", "pictures": "pictures", "splits": ["train"]})
    done = empty.run("index")
    assert done.code == 1, "two of them failed"
    assert "instances are boxes: an annotation without segmentation is its filled box" in done.out + done.err
    assert "file name with backslashes, read as folders" in done.out + done.err
    found = rows(empty, "own/images/train")
    assert [(row["image_id"], row["status"]) for row in found] == [
        ("c", "ok"), ("day1/a", "ok"), ("day1/b", "ok"), ("lost", "failed"),
    ]  # fmt: skip
    found = rows(empty, "own/instances/train")
    assert [row["status"] for row in found] == ["failed", "ok", "ok", "failed"]
    assert (
        "train.json: the JSON says 51 x 40 px (width, height), the upright image has 50 x 40: factor"
        in found[0]["error"]
    )
    assert [(row["kind"], row["texts"]) for row in rows(empty, "own/targets/train")] == [("box", ["bolt"])]

    write(empty.folder / "own", images, [annotation(1, 1, 7, square(1, 1))], [category(1, "bolt")])
    done = empty.run("index")
    assert (
        "train.json: annotation 1: 'category_id' is 7, expected the id of a category that the file lists"
        in done.out + done.err
    )
    (empty.folder / "own/train.json").write_text('{"images": [')
    done = empty.run("index")
    assert done.code == 2
    assert "own/train.json: not JSON: " in done.err
    assert "expected COCO's form" in done.err
