"""What an error of the store says in words it says as data, too, for programs that have to choose what to do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factory import full_store, write_images

from store import DamagedStoreError, FailedImageError, IncompleteColumnError, StoreError, open_split


def caught(do: Callable[[], Any], kind: type[StoreError]) -> dict[str, Any]:
    with pytest.raises(kind) as error:
        do()
    copied = pickle.loads(pickle.dumps(error.value))  # from a worker process
    assert (str(copied), vars(copied)) == (str(error.value), vars(error.value))
    known = {name: getattr(copied, name) for name in ("dataset", "column", "split")} | vars(copied)
    return {name: value for name, value in known.items() if value is not None}


def test_a_split_column_or_proposer_that_is_not_there(tmp_path: Path) -> None:
    full_store(tmp_path, 5)
    assert caught(lambda: open_split(tmp_path, "d", "vla"), StoreError) == {
        "dataset": "d",
        "split": "vla",
        "place": "d/vla",
        "path": str(tmp_path / "d/images/vla"),
        "reason": "not indexed",
        "found": {"d": ["val"]},
        "expected": "d/vla",
    }
    column = caught(lambda: open_split(tmp_path, "d", "val", columns="mask_embeddings/y"), StoreError)
    assert (column["column"], column["expected"]) == ("mask_embeddings/y",) * 2
    assert "mask_embeddings/sam/x" in column["found"]
    proposer = caught(lambda: open_split(tmp_path, "d", "val", proposer="sma"), StoreError)
    assert (proposer["found"], proposer["expected"], proposer["reason"]) == (["sam"], "sma", "not computed")


def test_an_image_that_failed(tmp_path: Path) -> None:
    write_images(tmp_path, 5, failed={3: "it cannot be decoded"})
    split = open_split(tmp_path, "d", "val", images_root=tmp_path)
    wanted = {"dataset": "d", "image_index": 3, "split": "val"}
    pixels = caught(lambda: split[3].image(), FailedImageError)
    assert pixels == {**wanted, "place": "d/images/val", "column": "images", "reason": "it cannot be decoded"}
    stream = caught(lambda: split.stream("images.path"), FailedImageError)
    assert stream.items() >= wanted.items()
    assert stream["found"] == {3: "images: it cannot be decoded"}
    with pytest.raises(StoreError, match="holds no such file") as error:
        split[2].image()
    assert error.value.path == str(tmp_path / "val/image2.jpg")


def test_shards_that_are_missing_or_damaged(tmp_path: Path) -> None:
    known = full_store(tmp_path, 11)
    file = known.store / "d/masks/sam/val/00001.parquet"
    data = file.read_bytes()
    file.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
    split = open_split(known.store, "d", "val")
    damaged = caught(lambda: split[5].masks, DamagedStoreError)
    place = {"dataset": "d", "column": "masks/sam", "split": "val", "place": "d/masks/sam/val", "shard": 1}
    assert damaged == {**place, "path": str(file)}
    file.unlink()
    (file.parent / "summary.json").unlink()
    missing = caught(lambda: open_split(known.store, "d", "val"), IncompleteColumnError)
    assert missing == {**place, "reason": "not computed", "found": {1: "not computed"}}


def test_a_mean_has_no_split() -> None:
    error = StoreError("words", place="means/lisa/sam/x")
    assert (error.dataset, error.column, error.split) == ("means", "means/lisa/sam/x", None)
    bare = StoreError("words")
    assert (bare.dataset, bare.column, bare.split) == (None, None, None)
