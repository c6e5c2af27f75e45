"""Whole tables for Arrow and pandas, and what a store holds."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa
import pytest
from borrowers import lent_store
from factory import Known, full_store, small_store, write_table

from store import IncompleteColumnError, Split, StoreError, open_split, splits
from store.format.schema import TABLES

PLAIN = ["images", "instances", "masks/sam", "match/sam/instances", "match/sam/targets", "targets"]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=11)


@pytest.fixture
def split(known: Known) -> Split:
    return open_split(known.store, "d", "val")


@pytest.mark.parametrize("column", PLAIN)
def test_a_whole_table_is_the_rows_of_all_images(split: Split, column: str) -> None:
    table = split.to_arrow(column)
    assert isinstance(table, pa.Table)
    assert split.tables.own_bytes == 0, "nothing is kept"
    assert table.to_pylist() == [row for record in split for row in record.rows(column)]


def test_some_fields_of_a_table_come_in_the_order_asked_for(split: Split) -> None:
    table = split.to_arrow("masks", ["area", "image_index"])
    assert table.column_names == ["area", "image_index"]
    assert table.column("area").to_pylist() == [[mask.area for mask in record.masks] for record in split]
    assert split.to_arrow("masks", "area").column_names == ["area"]


def test_what_is_no_table_or_field_is_named(split: Split) -> None:
    with pytest.raises(ValueError, match=r"mask_embeddings/x is an array, expected a table; .* split\[image\]\["):
        split.to_arrow("mask_embeddings/x")
    with pytest.raises(KeyError, match="the table masks has no field 'aera'; did you mean 'area'"):
        split.to_arrow("masks", "aera")
    with pytest.raises(KeyError, match="no column 'mask'; did you mean 'masks'"):
        split.to_arrow("mask")


def test_a_borrowed_table_has_the_image_index_of_the_borrower(tmp_path: Path) -> None:
    split = open_split(lent_store(tmp_path).store, "words", "test")
    table = split.to_arrow("masks", ["image_index", "segmentation", "status"])
    linked = [k for k in range(len(split)) if split.columns["images"].is_ok(k)]
    assert table.column("image_index").to_pylist() == linked
    for row in table.to_pylist():
        (stored,) = split[row["image_index"]].rows("masks")
        assert (row["segmentation"], row["status"]) == (stored["segmentation"], stored["status"])
    assert any(split[k].rows("masks")[0]["image_index"] != k for k in linked), "as stored, it is the holder's"
    assert split.to_arrow("masks", "area").column_names == ["area"]


def test_a_table_that_is_there_in_part_is_not_whole(tmp_path: Path) -> None:
    known = full_store(tmp_path, 11)
    (known.store / "d/masks/sam/val/00001.parquet").unlink()
    (known.store / "d/masks/sam/val/summary.json").unlink()
    part = open_split(known.store, "d", "val", allow_incomplete=True)
    with pytest.raises(IncompleteColumnError, match="shard 1 is not there"):
        part.to_arrow("masks")


def test_a_split_of_no_images_has_empty_tables(tmp_path: Path) -> None:
    write_table(tmp_path, "d/images/val", [], {})
    table = open_split(tmp_path, "d", "val").to_arrow("images")
    assert len(table) == 0
    assert table.schema.equals(TABLES["images"])


def test_without_pandas_it_says_what_to_install(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(StoreError, match="pip install pandas"):
        split.to_pandas("targets", ["texts"])


def test_a_store_lists_its_splits(known: Known, tmp_path: Path) -> None:
    full_store(tmp_path / "store", 3, "train")
    full_store(tmp_path / "store", 3, "val")
    assert splits(tmp_path / "store") == {"d": ["train", "val"]} == splits(str(tmp_path / "store"))
    for wrong, said in (
        (tmp_path, r"holds no indexed split; the store .* holds no data set"),
        (tmp_path / "store/d", "is the folder of a data set, with the splits train, val; the store is"),
        (tmp_path / "stroe", r"there is no folder .*stroe \(folders in .*: store\)"),
        ("https://127.0.0.1/store", "a web server does not list what it holds"),
        ("ftp://host/store", "expected a folder or an address"),
    ):
        with pytest.raises(StoreError, match=said):
            splits(wrong)
    assert splits(small_store(tmp_path / "small", [1] * 3)) == {"d": ["val"]}
