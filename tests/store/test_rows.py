"""Masks, instances and questions of an image: one kind of object, with the fields of their table as attributes and items."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from borrowers import lent_store
from factory import Known, full_store

from store import FailedImageError, Split, open_split

X = "mask_embeddings/sam/x"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=11)


@pytest.fixture
def split(known: Known) -> Split:
    return open_split(known.store, "d", "val")


@pytest.mark.parametrize("column", ["masks", "instances", "targets"])
def test_a_field_is_an_attribute_and_an_item(split: Split, known: Known, column: str) -> None:
    rows = [row for record in split for row in getattr(record, column)]
    assert len(rows) > 10
    for row in rows:
        assert {"segmentation"} < set(row) <= set(dir(row))
        for name, value in row.items():
            assert getattr(row, name) is row[name] is value
        assert row.decode().sum() == (row.area if "area" in row else row.decode().sum())
        assert row.coco() == {"size": [4, 6], "counts": row.segmentation}
    pixels = {"masks": known.masks, "instances": known.instances}.get(column)
    if pixels is not None:
        assert [row.decode().tolist() for row in rows] == [mask.tolist() for own in pixels for mask in own]


def test_of_a_question_the_answer_and_the_ignored_pixels_are_decoded(split: Split, known: Known) -> None:
    for record, own in zip(split, known.instances, strict=True):
        for target in record.targets:
            painted = np.any([own[k] for k in target.instances], axis=0) if target.instances else np.zeros((4, 6), bool)
            np.testing.assert_array_equal(target.decode(), painted)
            assert not (target.decode("ignore") & painted).any()
            assert len(target.iou) == len(record.masks)


def test_an_unknown_field_is_named_with_the_others(split: Split) -> None:
    (mask, *_), (target, *_) = split[3].masks, split[3].targets
    with pytest.raises(AttributeError, match=r"no field 'aera'; did you mean 'area'\? found segmentation, bbox, area"):
        _ = mask.aera
    with pytest.raises(KeyError, match="no field 'text'; did you mean 'texts'"):
        _ = target["text"]
    with pytest.raises(AttributeError, match="__wrapped__"):
        _ = mask.__wrapped__


def test_a_record_is_a_mapping_of_the_columns(split: Split, known: Known) -> None:
    record = split[3]
    assert list(record) == list(split.columns)
    assert "masks" in record
    assert "masks/sam" in record
    assert "masks/other" not in record
    assert 3 not in record
    assert record["masks/sam"] == record["masks"] == record.masks
    assert record["targets"] == record.targets
    assert record["instances"] == record.instances
    assert record["images"] == record.rows("images")
    np.testing.assert_array_equal(record[X], known.embeddings[3])
    held = dict(record)
    assert set(held) == set(split.columns)
    assert record != split[3], "as before: comparing reads nothing"
    assert len({record, split[4]}) == 2


def test_images_are_selected_in_any_order(split: Split) -> None:
    few = split.select(["image7", 2, -1, np.int64(2)])
    assert [record.image_index for record in few] == list(few.numbers) == [7, 2, 10, 2]
    assert [record.image_index for record in few[1:]] == [2, 10, 2]
    with pytest.raises(KeyError, match="no image 'image99'"):
        split.select(["image99"])
    with pytest.raises(IndexError, match="11 is outside"):
        split.select([11])


def test_images_are_filtered(split: Split, known: Known) -> None:
    many = split.filter(lambda record: len(record.masks) > 8)
    assert many.numbers == [k for k, own in enumerate(known.masks) if len(own) > 8]
    assert many.filter(lambda record: record.image_index % 2).numbers == [k for k in many.numbers if k % 2]
    assert split[:6].filter(lambda record: record.targets).numbers == [0, 1, 2, 3, 4, 5]


def test_a_selection_is_streamed_in_its_order(split: Split, known: Known) -> None:
    few = split.select([7, 2, 10])
    (batch,) = few.stream(X)
    assert batch["image_index"].tolist() == [7, 2, 10]
    np.testing.assert_array_equal(batch[X][0][batch[f"{X}_mask"][0]], known.embeddings[7])
    (asked,) = few.stream("targets.texts", level="target")
    asked = list(zip(asked["image_index"].tolist(), asked["target"].tolist(), strict=True))
    assert asked == [(image, number) for image in (7, 2, 10) for number in range(len(known.targets[image]))]
    shuffled = [image for b in few.stream(X, 2, shuffle=True) for image in b["image_index"].tolist()]
    assert sorted(shuffled) == [2, 7, 10]


def test_what_failed_outside_a_selection_is_nobodys_trouble(tmp_path: Path) -> None:
    lent = lent_store(tmp_path)
    split = open_split(lent.store, "words", "test")
    with pytest.raises(FailedImageError, match="failed"):
        split.stream("masks.area")
    good = split.filter(lambda record: split.column("masks").is_ok(record.image_index))
    assert 0 < len(good) < len(split)
    assert [image for batch in good.stream("masks.area") for image in batch["image_index"]] == good.numbers
    with pytest.raises(FailedImageError, match=r" (\d+) of \1 images failed"):
        split.select(set(range(len(split))) - set(good.numbers)).stream("masks.area")
