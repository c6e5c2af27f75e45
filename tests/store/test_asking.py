"""What is asked of a split: one name or several, slices, numbers of candidates; and what an unknown name is answered."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store

from store import Candidates, Records, StoreError, mix, open_split

X = "mask_embeddings/sam/x"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=11)


def test_one_name_is_taken_as_it_is(known: Known) -> None:
    split = open_split(known.store, "d", "val", columns="masks")
    assert list(split.columns) == ["images", "masks/sam"]
    there = [each for batch in split.stream("masks.area") for each in batch["masks.area_mask"].sum(axis=1)]
    assert there == list(map(len, known.masks))
    assert set(next(iter(mix({"val": split}, "masks")))) == {"image_index", "masks"}
    assert list(open_split(known.store, "d", "val", columns=X).columns) == ["images", X]
    assert set(open_split(known.store, "d", "val", columns=(name for name in ["masks"])).columns) == {
        "images",
        "masks/sam",
    }


@pytest.mark.parametrize(
    "piece",
    [
        slice(2, 5),
        slice(None),
        slice(None, None, -1),
        slice(-3, None),
        slice(5, 2),
        slice(1, 99, 4),
        slice(np.int64(2), 4),
    ],
    ids=str,
)
def test_a_slice_is_a_sequence_of_records(known: Known, piece: slice) -> None:
    split = open_split(known.store, "d", "val")
    numbers = list(range(11))[piece]
    found = split[piece]
    assert isinstance(found, Records)
    assert len(found) == len(numbers)
    assert [record.image_index for record in found] == numbers
    assert [found[k].image_id for k in range(-len(numbers), len(numbers))] == [f"image{n}" for n in numbers] * 2
    assert [record.image_index for record in found[1:]] == numbers[1:]
    assert [record.image_index for record in reversed(found)] == numbers[::-1]
    assert [record.image_index for record in random.Random(0).sample(found, len(found))] == random.Random(0).sample(
        numbers, len(numbers)
    )
    with pytest.raises(IndexError, match="position 11 is outside"):
        found[11]


def test_records_of_a_slice_are_read_when_asked_for(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    found = split[2:5]
    assert split.tables.own_bytes == 0
    np.testing.assert_array_equal(found[1][X], known.embeddings[3])
    assert repr(found) == "Records(3 of the 11 images of d/val)"


@pytest.mark.parametrize("key", [None, 2.0, (1, 2), [1]], ids=repr)
def test_other_keys_are_named(known: Known, key: Any) -> None:
    split = open_split(known.store, "d", "val")
    with pytest.raises(TypeError, match="expected an image_index, an image_id or a slice"):
        split[key]
    with pytest.raises(TypeError, match="expected a position or a slice"):
        split[1:][key]


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array], ids=lambda kind: kind.__name__)
def test_whole_numbers_of_any_kind_are_taken(known: Known, kind: Any) -> None:
    split = open_split(known.store, "d", "val", table_cache_bytes=kind(100))
    for record in (split[kind(3)], split[1:][kind(2)]):
        assert record.image_index == 3
        assert type(record.image_index) is int
    for wrong in (None, True, 2.0, "2", -1):
        with pytest.raises(ValueError, match="found table_cache_bytes="):
            open_split(known.store, "d", "val", table_cache_bytes=wrong)


def test_a_number_of_candidates_is_that_of_the_largest_masks(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    for ours, theirs in zip(
        split.stream([X, "masks.area"], 4, candidates=3),
        split.stream([X, "masks.area"], 4, candidates=Candidates(top_k=3)),
        strict=True,
    ):
        assert ours.keys() == theirs.keys()
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)
    for wrong in (0, -1, True, 2.5, "16", {"top_k": 3}, [3]):
        with pytest.raises(ValueError, match="found candidates=.*, expected a whole number, 1 or more"):
            split.stream(X, candidates=wrong)
    for wrong in (-0.1, 2, True, "0.5", float("nan"), [0.5]):
        with pytest.raises(ValueError, match="found drop_near_gt=.*, expected a number from 0 to 1"):
            Candidates(drop_near_gt=wrong)
    with pytest.raises(ValueError, match="found with_gt='yes', expected True or False"):
        Candidates(with_gt="yes")
    assert Candidates(drop_near_gt=np.float32(0.5)) == Candidates(drop_near_gt=0.5)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("mask_embeddings/sam/y", "mask_embeddings/sam/x"),
        ("mask_embedding/x", "mask_embeddings/x"),
        ("mask", "masks"),
        ("masks.segmentations", "segmentation"),
        ("target.texts", "targets.texts"),
        ("masks/area", "masks.area"),
    ],
)
def test_an_unknown_name_is_answered_with_the_closest(known: Known, asked: str, meant: str) -> None:
    split = open_split(known.store, "d", "val")
    with pytest.raises(KeyError, match=f"did you mean '{meant}'"):
        split.stream(asked)


def test_did_you_mean_wherever_a_name_is_looked_up(known: Known, tmp_path: Path) -> None:
    split = open_split(known.store, "d", "val")
    with pytest.raises(StoreError, match="no column mask; did you mean 'masks'"):
        open_split(known.store, "d", "val", columns="mask")
    with pytest.raises(KeyError, match="did you mean 'mask_embeddings/x'"):
        split[0]["mask_embedding/x"]
    with pytest.raises(KeyError, match="did you mean 'masks'"):
        split.column("maks")
    region = next(record.masks[0] for record in split if record.masks)
    with pytest.raises(KeyError, match=r"no field 'aera'; did you mean 'area'\? found segmentation, "):
        region["aera"]
    with pytest.raises(KeyError) as told:
        split.stream("zzzzzz")
    assert "did you mean" not in str(told.value)


def test_no_split_at_all_is_named() -> None:
    with pytest.raises(ValueError, match="found no split to stream"):
        mix({}, [X])
