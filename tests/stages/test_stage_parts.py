"""The small parts of stages: collecting rows, the permanent order, means, similarity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.base import Collector, ColumnSpec, RleMasks, row_trouble
from stages.center import center
from stages.datasets.base import Source
from stages.index import order
from stages.means import part, whole
from stages.report.choose import spread
from stages.report.similarity import cosines, draw_heat_maps, mean_pairwise
from store import rle
from store.format.column import ArrayLayout
from store.format.schema import MASKS, MATCH_TARGETS

ARRAY = ColumnSpec("mask_embeddings/sam/x", "embed", (), {}, 1, layout=ArrayLayout((16, 2), 16, "float16"))


@pytest.mark.parametrize(
    ("value", "why"), [(np.nan, "NaN"), (70000.0, "outside float16"), (-np.inf, "outside float16")]
)
def test_values_that_float16_cannot_hold_fail_with_the_reason(value: float, why: str) -> None:
    column = Collector(ARRAY)
    column.array(0, np.ones((3, 2), np.float32))
    column.array(1, np.array([[1, value]], np.float32))
    data = column.data()
    assert data.status == ["ok", "failed"]
    assert data.counts == [3, 0]
    assert why in data.errors[1]
    assert data.rows[1].shape == (0, 2)
    assert data.rows[1].dtype == np.float16


def test_a_failed_row_of_a_table_has_empty_lists_and_its_reason() -> None:
    column = Collector(ColumnSpec("masks", "masks", (), {}, 1, schema=MASKS))
    column.ok(7, {"segmentation": ["a", "b"], "area": [2, 1]})
    column.failed(8, "failed", "image: truncated")
    ok, failed = column.data().rows
    assert ok["status"] == "ok"
    assert ok["image_index"] == 7
    assert failed["segmentation"] == []
    assert failed["error"] == "image: truncated"
    assert column.counts == [2, 0]


def test_a_failed_image_has_no_rows_in_a_table_of_targets() -> None:
    column = Collector(ColumnSpec("match/sam/targets", "match", (), {}, 1, schema=MATCH_TARGETS))
    column.ok(0, [{"target_id": "a/0"}, {"target_id": "a/1"}])
    column.failed(1, "removed", "removed")
    assert [row["target_id"] for row in column.rows] == ["a/0", "a/1"]
    assert column.counts == [2, 0]
    assert column.errors == {1: "removed"}


def test_trouble_upstream_keeps_its_status_and_says_where() -> None:
    assert row_trouble({"status": "ok"}, "image") is None
    assert row_trouble({"status": "removed", "error": "removed"}, "image") == ("removed", "removed")
    assert row_trouble({"status": "failed", "error": "truncated"}, "image") == ("failed", "image: truncated")


def test_masks_are_decoded_when_asked_for() -> None:
    masks = [np.eye(3, 4, k, dtype=bool) for k in range(3)]
    lazy = RleMasks([rle.encode(mask) for mask in masks], 3, 4)
    assert len(lazy) == 3
    np.testing.assert_array_equal(lazy[-1], masks[-1])
    np.testing.assert_array_equal(np.stack(list(lazy[1:])), np.stack(masks[1:]))


names = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(known=names, now=names)
def test_an_image_keeps_its_number_for_life(known: list[str], now: list[str]) -> None:
    listed = [Source(name, f"{name}.jpg", (f"{name}.json",)) for name in sorted(now)]
    entries = order([(name, f"{name}.jpg") for name in known], listed)
    ids = [entry.source.image_id for entry in entries]
    assert ids[: len(known)] == known
    assert ids[len(known) :] == sorted(set(now) - set(known))
    assert {entry.source.image_id for entry in entries if entry.removed} == set(known) - set(now)


def test_the_mean_has_one_vote_a_vector() -> None:
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((count, 5)).astype(np.float16) for count in (3, 0, 1, 7)]
    found = whole([part(images[:2]), part([]), part(images[2:])])
    (mean,) = found.rows
    assert found.extra == {"count": 11, "norm": float(np.linalg.norm(mean))}
    np.testing.assert_allclose(mean, np.concatenate(images).astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(center(images[3], mean), images[3].astype(np.float64) - mean)


def test_a_mean_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to take the mean of"):
        whole([part([np.empty((0, 4), np.float16)])])


def test_mean_pairwise_cosine_equals_the_plain_loop() -> None:
    vectors = np.random.default_rng(0).standard_normal((6, 3))
    vectors[2] = 0
    matrix = cosines(vectors)
    plain = [
        np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)) if np.any(a) and np.any(b) else 0.0
        for i, a in enumerate(vectors)
        for j, b in enumerate(vectors)
        if i != j
    ]
    assert mean_pairwise(matrix) == pytest.approx(np.mean(plain))
    assert np.isnan(mean_pairwise(matrix[:1, :1]))


def test_spread_takes_evenly_and_no_more_than_there_are() -> None:
    assert spread(3, 10).tolist() == [0, 1, 2]
    assert spread(100, 5).tolist() == [0, 25, 50, 74, 99]


def test_the_heat_map_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "similarity" / "val-x.png"
    draw_heat_maps(np.eye(4), np.zeros((4, 4)), "a title", path)
    with Image.open(path) as image:
        assert image.size == (1100, 500)
        assert len(image.convert("RGB").getcolors(1 << 20)) > 20
