"""A tiny store of every format version is kept in tests/data and must stay readable as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from factory import LAYOUT, vectors

from store import FailedImageError, open_split
from store.write.verify import verify

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("version", ["v1"])
def test_every_vector_of_an_old_store_reads_as_it_was_written(version: str) -> None:
    split = open_split(DATA / version, "d", "val")
    assert split.image_ids == tuple(f"image{number}" for number in range(6))
    want = vectors([3, 0, 20, 1, 2, 32], LAYOUT)
    stock = zarr.open_array(DATA / version / "d/mask_embeddings/x/val", mode="r")
    for number, record in enumerate(split):
        if number == 4:
            with pytest.raises(FailedImageError, match="cannot be decoded: a test"):
                record["mask_embeddings/x"]
            continue
        np.testing.assert_array_equal(record["mask_embeddings/x"], want[number])
        np.testing.assert_array_equal(np.asarray(stock[number])[: len(want[number])], want[number])


@pytest.mark.parametrize("version", ["v1"])
def test_an_old_store_verifies(version: str) -> None:
    report = verify(DATA / version, ["d/val"], deep=True)
    assert report.problems == []
    assert (report.done, report.missing, report.stale) == (4, 0, 0)
