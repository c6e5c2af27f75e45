"""A tiny store of every released format version is kept in tests/data and must stay readable as it is.

``PYTHONPATH=. python tests/store/test_old_stores.py tests/data/v2`` made it: six images in shards of four, image 4 failed; and a
data set ``words`` that borrows two of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import zarr
from factory import LAYOUT, array_meta, vectors, write_images

from store import FailedImageError, open_split
from store.format.column import ColumnMeta, Commit, fingerprint
from store.format.layout import column_dir
from store.format.links import links_extra
from store.format.schema import IMAGES, OK
from store.format.tables import read_table
from store.write.verify import verify
from store.write.writer import ShardData, begin_column, finish_column, write_shard

DATA = Path(__file__).parents[1] / "data"
PLACE = "d/mask_embeddings/sam/x/val"
COUNTS, WHY = [3, 0, 20, 1, 0, 32], "cannot be decoded: a test"


def make(store: Path) -> None:
    """Write the store."""
    folder, rows = column_dir(store, PLACE), vectors(COUNTS)
    images = write_images(store, len(COUNTS), failed={4: WHY})
    meta = begin_column(folder, array_meta(len(COUNTS)))
    for shard, upstream in enumerate(images):
        span = meta.shard_range(shard)
        status = ["failed" if image == 4 else OK for image in span]
        errors = {4 - span.start: f"image: {WHY}"} if 4 in span else {}
        data = ShardData(rows[span.start : span.stop], COUNTS[span.start : span.stop], status, errors)
        write_shard(folder, meta, PLACE, shard, data, {"images": upstream.content}, None, {"made": "by a test"})
    finish_column(column_dir(store, "d/images/val"), "d/images/val")
    finish_column(folder, PLACE)
    make_borrower(store, images)


def make_borrower(store: Path, images: Sequence[Commit]) -> None:
    """Write ``words/images/ask``, whose images are two of ``d/val``."""
    place, links, identity = "words/images/ask", [("val", 5), ("val", 0)], {"stage": "index", "reads": {}}
    held = [row for commit in images for row in read_table(column_dir(store, "d/images/val"), commit).to_pylist()]
    rows = [
        {**held[index], "image_index": number, "holder_split": split, "holder_index": index}
        for number, (split, index) in enumerate(links)
    ]
    sources = tuple((row["image_id"], row["path"]) for row in rows)
    meta = ColumnMeta("images", identity, fingerprint(identity), len(rows), 4, None, None, sources, "d")
    folder = column_dir(store, place)
    meta = begin_column(folder, meta)
    data = ShardData(rows, [1, 1], [OK, OK], extra=links_extra(links))
    upstream = {f"/d/images/val#{commit.shard}": commit.content for commit in images}
    write_shard(folder, meta, place, 0, data, upstream, IMAGES, {"made": "by a test"})
    finish_column(folder, place)


@pytest.mark.parametrize("version", ["v2"])
def test_every_vector_of_an_old_store_reads_as_it_was_written(version: str) -> None:
    split = open_split(DATA / version, "d", "val")
    assert split.image_ids == tuple(f"image{number}" for number in range(6))
    want = vectors(COUNTS, LAYOUT)
    stock = zarr.open_array(DATA / version / PLACE, mode="r")
    for number, record in enumerate(split):
        if number == 4:
            with pytest.raises(FailedImageError, match=WHY):
                record["mask_embeddings/x"]
            continue
        np.testing.assert_array_equal(record["mask_embeddings/x"], want[number])
        np.testing.assert_array_equal(np.asarray(stock[number])[: len(want[number])], want[number])


@pytest.mark.parametrize("version", ["v2"])
def test_a_borrower_of_an_old_store_reads_its_holder(version: str) -> None:
    split = open_split(DATA / version, "words", "ask")
    assert split.image_ids == ("image5", "image0")
    want = vectors(COUNTS, LAYOUT)
    for record, image in zip(split, (5, 0), strict=True):
        np.testing.assert_array_equal(record["mask_embeddings/x"], want[image])


@pytest.mark.parametrize("version", ["v2"])
def test_an_old_store_verifies(version: str) -> None:
    report = verify(DATA / version, ["d/val", "words/ask"], deep=True)
    assert report.problems == []
    assert (report.done, report.missing, report.stale) == (5, 0, 0)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
