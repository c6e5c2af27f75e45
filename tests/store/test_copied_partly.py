"""A split that is not there as a whole (copied partly, restored partly, with links): no column is left out without a word."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from factory import small_store

from store import open_split
from store.errors import DamagedStoreError, IncompleteColumnError, StoreError
from store.format.layout import find_columns

X = "mask_embeddings/sam/x"


def without(*names: str) -> Callable[[Path], None]:
    def take(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return take


def store_of(folder: Path) -> Path:
    return next(path for path in folder.parents if path.name == "store")


def moved(folder: Path) -> None:
    shutil.move(folder, store_of(folder).parent / "elsewhere")
    folder.symlink_to(store_of(folder).parent / "elsewhere")


def dangling(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


PARTS: dict[str, tuple[str, Callable[[Path], None], type[StoreError]]] = {
    "no column.json": (X, without("column.json"), DamagedStoreError),
    "data alone": (X, without("column.json", "zarr.json"), DamagedStoreError),
    "a shard less": (X, without("c/1"), IncompleteColumnError),
    "no column.json of images": ("images", without("column.json"), DamagedStoreError),
    "a link": (X, moved, StoreError),
    "a link of the folder of columns": (X, lambda folder: moved(folder.parents[1]), StoreError),
    "a link to nothing": (X, dangling, StoreError),
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return small_store(tmp_path / "store", [1] * 8)


@pytest.mark.parametrize("name", PARTS)
def test_a_column_that_is_not_whole_is_not_left_out(store: Path, name: str) -> None:
    column, damage, error = PARTS[name]
    assert X in open_split(store, "d", "val").columns
    damage(store / "d" / column / "val")
    with pytest.raises(error, match=column.split("/")[0]):
        open_split(store, "d", "val")


def test_others_can_be_opened_by_name(store: Path) -> None:
    moved(store / "d" / X / "val")
    assert list(open_split(store, "d", "val", columns="images").columns) == ["images"]
    with pytest.raises(StoreError, match="no column"):
        open_split(store, "d", "val", columns=X)


def test_a_column_that_was_only_begun_stops_nobody(store: Path) -> None:
    without("column.json", "c")(store / "d" / X / "val")
    (store / "d" / X / "val/c").mkdir()
    assert X not in open_split(store, "d", "val").columns


def test_names_like_those_of_shards_are_columns(store: Path) -> None:
    base = store / "d/mask_embeddings/sam"
    for name in ("c", "00000"):
        shutil.copytree(base / "x", base / name)
        os.utime(base / name)
    assert find_columns(store, "d", "val") == [
        "images",
        *(f"mask_embeddings/sam/{n}" for n in ("00000", "c", "x")),
    ]
