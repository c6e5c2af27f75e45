"""Arrays: what is written is what our reader and the stock Zarr reader give back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from factory import LAYOUT, array_meta, vectors, write_array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store.errors import DamagedStoreError, IncompleteColumnError
from store.format.column import ArrayLayout, Commit
from store.read.column import open_column

LAYOUTS = {
    "embeddings": LAYOUT,
    "one_chunk": ArrayLayout((5, 3), 5, "float16"),
    "image": ArrayLayout((4, 3, 2), 4, "float16"),
    "mean": ArrayLayout((7,), 7, "float64"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_both_readers_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, layout: ArrayLayout, data: st.DataObject
) -> None:
    store = tmp_path_factory.mktemp("store")
    counts = data.draw(st.lists(st.integers(0, layout.row_shape[0]), min_size=1, max_size=9))
    folder = store / "d/mask_embeddings/sam/x/val"
    write_array(folder, array_meta(len(counts), layout=layout), counts)
    expected = vectors(counts, layout)
    column = open_column(store, "d/mask_embeddings/sam/x/val")
    stock = zarr.open_array(folder, mode="r")
    assert stock.shape == (len(counts), *layout.row_shape)
    assert stock.dtype == layout.dtype
    for image, want in enumerate(expected):
        np.testing.assert_array_equal(column.array(image), want)
        got = np.asarray(stock[image])
        np.testing.assert_array_equal(got[: len(want)], want)
        assert np.isnan(got[len(want) :]).all(), "padding is NaN, so that nobody takes it for data"


def test_chunks_of_an_image_are_adjacent_and_in_order(tmp_path: Path) -> None:
    counts = [32, 0, 17, 16]
    commits = write_array(tmp_path / "d/mask_embeddings/sam/x/val", array_meta(4), counts)
    raw = (tmp_path / "d/mask_embeddings/sam/x/val" / commits[0].file).read_bytes()
    index = np.frombuffer(raw[-(4 * 2 * 16 + 4) : -4], "<u8").reshape(4, 2, 2)
    chunk = 16 * 8 * 2 + 4
    absent = 2**64 - 1
    assert index.tolist() == [
        [[0, chunk], [chunk, chunk]],
        [[absent, absent], [absent, absent]],
        [[2 * chunk, chunk], [3 * chunk, chunk]],
        [[4 * chunk, chunk], [absent, absent]],
    ]


@pytest.mark.parametrize(
    ("row", "why"),
    [(np.zeros((33, 8), np.float16), "too many"), (np.zeros((2, 7), np.float16), "dim"), (np.zeros((2, 8)), "dtype")],
)
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, row: np.ndarray, why: str) -> None:
    from store.format.arrays import ShardEncoder

    with pytest.raises(ValueError, match="expected float16"):
        list(ShardEncoder(array_meta(1), Commit("d/val/x", 0, "", {}, (1,), ("ok",))).blocks([row]))


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    folder = tmp_path / "d/mask_embeddings/sam/x/val"
    counts = [3, 20]
    commits = write_array(folder, array_meta(2, layout=ArrayLayout((32, 2), 16, "float16")), counts)
    want = vectors(counts, ArrayLayout((32, 2), 16, "float16"))
    path = folder / commits[0].file
    good = path.read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << (position % 8)
        path.write_bytes(bad)
        noticed = 0
        for image in (0, 1):
            try:
                got = open_column(tmp_path, "d/mask_embeddings/sam/x/val").array(image)
            except DamagedStoreError:
                noticed += 1
            else:
                np.testing.assert_array_equal(got, want[image])
        assert noticed, f"no read noticed byte {position}"
    path.write_bytes(good)


@pytest.mark.parametrize("size", [0, 1, 50, -1])
def test_a_truncated_shard_is_noticed(tmp_path: Path, size: int) -> None:
    folder = tmp_path / "d/mask_embeddings/sam/x/val"
    commits = write_array(folder, array_meta(2), [3, 20])
    path = folder / commits[0].file
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedStoreError, match="found no record of the shard|its record is not where the index says"):
        open_column(tmp_path, "d/mask_embeddings/sam/x/val").array(0)


def test_a_missing_or_swapped_shard_is_never_fill_values(tmp_path: Path) -> None:
    folder = tmp_path / "d/mask_embeddings/sam/x/val"
    commits = write_array(folder, array_meta(8), [2] * 8)
    first, second = (folder / commit.file for commit in commits)
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)
    with pytest.raises(DamagedStoreError, match="shard is not right, expected 0"):
        open_column(tmp_path, "d/mask_embeddings/sam/x/val").array(0)
    second.write_bytes(first.read_bytes())
    first.write_bytes(kept)
    column = open_column(tmp_path, "d/mask_embeddings/sam/x/val")
    first.unlink()
    with pytest.raises(DamagedStoreError, match="missing"):
        column.array(0)
    with pytest.raises(IncompleteColumnError, match="shards 0 of 2: not computed"):
        open_column(tmp_path, "d/mask_embeddings/sam/x/val")


@pytest.mark.parametrize("check", ["always", "first-touch"])
def test_large_chunks_are_checked_part_by_part(tmp_path: Path, check: str) -> None:
    """Chunks larger than what the reader checks at once: every part of them, and the checksum after them."""
    layout = ArrayLayout((3, 400, 512), 1, "float16")
    folder = tmp_path / "d/mask_embeddings/sam/x/val"
    commits = write_array(folder, array_meta(2, layout=layout), [2, 3])
    want = vectors([2, 3], layout)
    path, size = folder / commits[0].file, 400 * 512 * 2 + 4
    good = path.read_bytes()
    column = open_column(tmp_path, "d/mask_embeddings/sam/x/val", check=check)
    for image in (0, 1):
        np.testing.assert_array_equal(column.array(image), want[image])
        np.testing.assert_array_equal(column.array(image, 1), want[image][:1])
    for place in (0, 100_000, 262_143, 262_144, size - 5, size - 4, size - 1, size + 7, 2 * size - 1):
        bad = bytearray(good)
        bad[place] ^= 4
        path.write_bytes(bad)
        with pytest.raises(DamagedStoreError, match="image 0 of the shard"):
            open_column(tmp_path, "d/mask_embeddings/sam/x/val", check=check).array(0)
