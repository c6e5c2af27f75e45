"""``embed.dense``: the store holds patch tokens and SAM's embeddings in float16, in int8 with scales, or in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

from stages.dense import channel_axis, dense_columns
from store import open_split
from store.dense import from_int8
from store.format.layout import column_dir

FEATURES = ("image_features/demo_clip", "sam_features/demo_sam")
HALVES = [name for column in FEATURES for name in dense_columns(column, "int8")]


def test_int8_is_added_read_by_zarr_and_then_alone(finished: Any) -> None:
    before = set(finished.commits())
    whole = open_split(finished.store, "tiny", "val", columns=[*FEATURES])
    finished.configure(embed__dense=["float16", "int8"])
    finished.build("extract --split val")
    made = {name.partition("#")[0] for name in set(finished.commits()) - before}
    assert made == {f"{name}/val" for name in HALVES}
    split = open_split(finished.store, "tiny", "val")
    for column in FEATURES:
        values, scale = dense_columns(column, "int8")
        arrays = [zarr.open_array(column_dir(finished.store, f"tiny/{name}/val"), mode="r") for name in (values, scale)]
        assert [array.dtype for array in arrays] == [np.int8, np.float16]
        for image in range(len(split)):
            if not split.column(column).is_ok(image):
                assert set(np.unique(arrays[0][image])) == {-128}
                assert np.isnan(arrays[1][image]).all()
                continue
            stored = [split[image][name] for name in (values, scale)]
            for mine, array in zip(stored, arrays, strict=True):
                np.testing.assert_array_equal(mine, array[image])
            steps = np.expand_dims(stored[1].astype(float), channel_axis(column))
            near = from_int8(stored[0], stored[1], channel_axis(column)).astype(float)
            assert (np.abs(near - whole[image][column]) <= 0.6 * steps).all()
    assert finished.run("verify", "--split", "val", "--deep", "--complete").code == 0


def test_int8_alone_is_half_the_bytes_and_feeds_sam_s_pooling(finished: Any) -> None:
    wide = finished.info()["splits"]["tiny/val"]["columns"]
    finished.configure(embed__dense=["int8"])
    finished.build("extract --split val --replace")
    found = finished.info()["splits"]["tiny/val"]
    assert set(FEATURES) <= set(found["not_in_params"])
    assert set(HALVES) <= found["columns"].keys()
    for column in FEATURES:
        half = sum(found["columns"][name]["bytes"] for name in dense_columns(column, "int8"))
        assert half < 0.56 * wide[column]["bytes"]  # of demo models' narrow tokens; 0.502 at 256 channels
    assert finished.run("verify", "--split", "val", "--deep").code == 0
    record = open_split(finished.store, "tiny", "val", columns=["mask_embeddings/sam/demo_sam"])[0]
    assert np.isfinite(record["mask_embeddings/sam/demo_sam"]).all()


@pytest.mark.parametrize("value", ["[]", "[int4]", "int8"])
def test_what_is_no_form_is_refused(tiny: Any, value: str) -> None:
    done = tiny.run("--set", f"embed.dense={value}", "index")
    assert done.code == 2
    assert "embed.dense" in done.err
