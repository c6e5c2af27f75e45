"""Masks of several proposers in one split: which columns a name without a proposer stands for, and what raises."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store

from store import Candidates, Split, StoreError, mix, open_split
from store.format.layout import column_dir
from store.format.names import find_name, proposer_of, with_proposer, without_proposer

NAMES = {
    "masks/sam": "masks",
    "mask_embeddings/sam/x": "mask_embeddings/x",
    "match/sam/targets": "match/targets",
    "match/sam/instances": "match/instances",
}


@pytest.mark.parametrize(("column", "short"), NAMES.items())
def test_a_name_with_and_without_its_proposer(column: str, short: str) -> None:
    assert (proposer_of(column), without_proposer(column), with_proposer(short, "sam")) == ("sam", short, column)
    assert (proposer_of(short), without_proposer(short)) == (None, short)
    assert find_name(short, [column]) == find_name(column, [column]) == column
    with pytest.raises(StoreError, match=f"{short}: there are {column}, .*; name one of them, or .*proposer='sam'"):
        find_name(short, [column, with_proposer(short, "other")])


@pytest.mark.parametrize("column", ["images", "instance_embeddings/x", "sam_features/sam", "image_features/x"])
def test_names_that_have_no_proposer(column: str) -> None:
    assert (proposer_of(column), without_proposer(column), with_proposer(column, "sam")) == (None, column, column)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Known, Known]:
    """A split with the masks of two proposers: ``sam``'s own and, as ``other``, those of another store's ``sam``."""
    store = tmp_path_factory.mktemp("two")
    first = full_store(store, images=6)
    second = full_store(tmp_path_factory.mktemp("second"), images=6, seed=5)
    for column in ("masks/sam", "mask_embeddings/sam/x"):
        copy_as_other(second.store, store, column)
    return first, second


def copy_as_other(source: Path, target: Path, column: str) -> None:
    """Write a column again under the other proposer's name, as a writer would: every record names its place."""
    from factory import write_table, write_vectors

    opened = open_split(source, "d", "val")
    other = with_proposer(without_proposer(column), "other")
    upstream = {"images": list(open_split(target, "d", "val", columns=[]).column("images").commits)}
    if column.startswith("masks/"):
        rows = [
            row
            for shard in range(opened.column(column).meta.shards)
            for row in opened.column(column).table(shard).to_pylist()
        ]
        write_table(target, f"d/{other}/val", [[row] for row in rows], upstream)
    else:
        found = [record[column] for record in opened]
        above = {
            "masks/other": list(open_split(target, "d", "val", columns=["masks/other"]).column("masks/other").commits)
        }
        write_vectors(target, f"d/{other}/val", found, above)


def masks_of(split: Split) -> list[list[Any]]:
    return [[mask.decode().tolist() for mask in record.masks] for record in split]


def known_masks(known: Known) -> list[list[Any]]:
    return [[mask.tolist() for mask in own] for own in known.masks]


def test_a_split_with_one_proposer_needs_no_choice(two: tuple[Known, Known]) -> None:
    _, second = two
    split = open_split(second.store, "d", "val")
    assert split.proposers == ("sam",)
    assert masks_of(split) == known_masks(second)
    record = split[1]
    np.testing.assert_array_equal(record["mask_embeddings/x"], record["mask_embeddings/sam/x"])
    opened = open_split(second.store, "d", "val", columns=["masks", "mask_embeddings/x"])
    assert list(opened.columns) == ["images", "masks/sam", "mask_embeddings/sam/x"]


def test_with_several_a_name_without_one_raises_with_the_choices(two: tuple[Known, Known]) -> None:
    split = open_split(two[0].store, "d", "val")
    assert split.proposers == ("other", "sam")
    choices = "masks: there are masks/other, masks/sam; name one of them"
    for ask in (
        lambda: split[0].masks,
        lambda: split.column("masks"),
        lambda: split.stream("masks.area"),
        lambda: open_split(two[0].store, "d", "val", columns=["masks"]),
    ):
        with pytest.raises(StoreError, match=choices):
            ask()
    assert split[0].instances is not None, "what has no proposer needs no choice"


def test_a_chosen_proposer_decides_what_the_masks_are(two: tuple[Known, Known]) -> None:
    first, second = two
    both = open_split(first.store, "d", "val")
    for name, known in (("sam", first), ("other", second)):
        alone = open_split(first.store, "d", "val", proposer=name)
        assert alone.proposers == (name,)
        for split in (alone, both.of_proposer(name)):
            assert masks_of(split) == known_masks(known)
            for record, vectors in zip(split, known.embeddings, strict=True):
                np.testing.assert_array_equal(record["mask_embeddings/x"], vectors)
            stream = split.stream({"v": "mask_embeddings/x", "area": "masks.area"}, 3, candidates=Candidates(top_k=4))
            for batch in stream:
                for slot, image in enumerate(batch["image_index"]):
                    want = [int(mask.sum()) for mask in known.masks[image]][:4]
                    there = batch["v_mask"][slot]
                    assert batch["area"][slot][there].tolist() == want[: there.sum()]
    named = open_split(first.store, "d", "val", columns=["masks/other", "masks/sam"], proposer="other")
    assert masks_of(named) == known_masks(second)


def test_full_names_work_beside_a_choice(two: tuple[Known, Known]) -> None:
    first, second = two
    split = open_split(first.store, "d", "val").of_proposer("sam")
    for record, vectors in zip(split, second.embeddings, strict=True):
        np.testing.assert_array_equal(record["mask_embeddings/other/x"], vectors)
    assert not split.of_proposer("other").has("match/targets"), "the other one's masks were never matched"
    assert split.has("match/targets")


def test_an_unknown_proposer_is_named_with_the_choices(two: tuple[Known, Known]) -> None:
    store = two[0].store
    for ask in (
        lambda: open_split(store, "d", "val", proposer="sma"),
        lambda: open_split(store, "d", "val").of_proposer("sma"),
    ):
        with pytest.raises(
            StoreError, match=r"d/val: no column of a proposer 'sma'; did you mean 'sam'\? found other, sam"
        ):
            ask()


def test_a_column_that_is_not_there_is_named_in_full(two: tuple[Known, Known]) -> None:
    with pytest.raises(StoreError, match="d/val: no column match/other/targets") as raised:
        open_split(two[0].store, "d", "val", columns=["match/targets"], proposer="other")
    assert raised.value.place == "d/match/other/targets/val"


def test_masks_of_two_proposers_are_no_samples_of_one_stream(two: tuple[Known, Known]) -> None:
    split = open_split(two[0].store, "d", "val")
    with pytest.raises(StoreError, match="masks of several proposers, other, sam: .* make a stream of each"):
        split.stream(["mask_embeddings/other/x", "masks/sam.area"])
    names = {"masks": "masks.area"}
    with pytest.raises(StoreError, match="not the same thing"):
        mix({"a": split.of_proposer("sam"), "b": split.of_proposer("other")}, names)
    assert len(mix({"a": split.of_proposer("sam"), "b": split.of_proposer("sam")}, names))


def test_a_proposer_that_is_not_finished_stops_nobody_who_asks_for_another(
    two: tuple[Known, Known], tmp_path: Path
) -> None:
    shutil.copytree(two[0].store, tmp_path / "store")
    folder = column_dir(tmp_path / "store", "d/mask_embeddings/other/x/val")
    (folder / "c/1/0/0").unlink()
    (folder / "summary.json").unlink(missing_ok=True)
    with pytest.raises(StoreError, match="mask_embeddings/other/x"):
        open_split(tmp_path / "store", "d", "val")
    assert masks_of(open_split(tmp_path / "store", "d", "val", proposer="sam")) == known_masks(two[0])
