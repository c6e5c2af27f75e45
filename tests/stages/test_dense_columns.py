"""Dense features in each form: what the stages write, that the forms agree, and that what fails in one fails in all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.config import ROOT
from stages import embed, masks
from stages.dense import channel_axis, dense_columns, every_form, widened
from stages.proposers.sam.encoder import FastEncoder
from store.dense import to_int8
from store.write.writer import ShardData
from tests.stages.test_columns_apart import SIZES, WEIGHTS, batches_matter, compute, rows, settings, shard_of  # noqa: F401

BOTH = "embed.dense=[float16, int8]"
STAGES = [(masks, "sam_features/demo_sam", (64, 32, 32)), (embed, "image_features/demo_clip", (64, 128))]


def made(stage: Any, column: str, rows: Any, *changes: str) -> dict[str, ShardData]:  # noqa: F811
    params = settings("embed.sam_features=[demo_sam]", *changes)
    names = [spec.name for spec in stage.columns(params) if spec.name in every_form(column)]
    found: dict[str, ShardData] = stage.start(params, names, WEIGHTS, ROOT)(shard_of(rows))
    return found


@pytest.mark.parametrize(("stage", "column", "shape"), STAGES)
def test_both_forms_hold_the_same_features(stage: Any, column: str, shape: tuple[int, ...], rows: Any) -> None:  # noqa: F811
    both = made(stage, column, rows, BOTH)
    assert list(both) == [column, *dense_columns(column, "int8")]
    assert [len(data.rows) for data in both.values()] == [len(SIZES)] * 3
    assert len({tuple(data.status) for data in both.values()}) == 1
    for place, status in enumerate(both[column].status):
        whole, *parts = (data.rows[place] for data in both.values())
        if status != "ok":
            assert [len(row) for row in (whole, *parts)] == [0, 0, 0]
            continue
        assert [row.dtype for row in parts] == [np.int8, np.float16]
        assert whole.shape == parts[0].shape == shape
        near = widened(column, parts).astype(np.float64)
        axis = channel_axis(column)
        lengths = np.linalg.norm(near, axis=axis) * np.linalg.norm(whole.astype(np.float64), axis=axis)
        assert ((near * whole).sum(axis) / lengths).min() > 0.999


@pytest.mark.parametrize(("stage", "column", "shape"), STAGES)
@pytest.mark.usefixtures("batches_matter")
def test_each_column_is_the_same_alone(
    stage: Any,
    column: str,
    shape: tuple[int, ...],
    rows: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("stages.proposers.sam.generator.IMAGES_PER_BATCH", {"cpu": 3})
    params = settings("run.images_per_batch=3", "embed.sam_features=[demo_sam]", BOTH)
    names = [spec.name for spec in stage.columns(params) if spec.name in every_form(column)]
    together = compute(stage, params, names, rows)
    for name in names:
        assert compute(stage, params, [name], rows)[name] == together[name], name
    only = settings("run.images_per_batch=3", "embed.sam_features=[demo_sam]", "embed.dense=[int8]")
    assert compute(stage, only, names[1:], rows)[names[1]] == together[names[1]]


def test_the_network_runs_once_for_all_forms(rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    seen: list[int] = []
    forward = FastEncoder.__call__
    monkeypatch.setattr(
        FastEncoder, "__call__", lambda self, pixels: (seen.append(len(pixels)), forward(self, pixels))[1]
    )
    made(masks, "sam_features/demo_sam", rows, BOTH)
    assert sum(seen) == 4  # the failed image is not seen


@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_features_that_are_not_finite_fail_in_every_form(
    value: float,
    rows: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(*_: Any) -> Any:
        return lambda items: [np.full((64, 128), value if number else 1, np.float32) for number in range(len(items))]

    monkeypatch.setattr("stages.embed.build", build)
    both = made(embed, "image_features/demo_clip", rows, BOTH, "run.images_per_batch=5")
    whole, values, scale = both.values()
    assert whole.status == values.status == scale.status == ["ok", "failed", "failed", "failed", "failed"]
    assert whole.errors == values.errors == scale.errors
    assert "non-finite features" in whole.errors[1]


def test_masks_are_pooled_from_the_form_that_is_stored(rows: Any) -> None:  # noqa: F811
    params = {form: settings("embed.sam_features=[demo_sam]", f"embed.dense=[{form}]") for form in ("float16", "int8")}
    column, found = "mask_embeddings/sam/demo_sam", []
    shard = shard_of(rows)
    whole = np.stack([shard.array("sam_features/demo_sam", place) for place in range(len(SIZES))])
    names = ("sam_features/demo_sam", *dense_columns("sam_features/demo_sam", "int8"))
    stored = dict(zip(names, (whole, *to_int8(whole, -3)), strict=True))
    shard = replace(shard, array=lambda name, place: stored[name][place])
    for form, settings_ in params.items():
        (spec,) = (spec for spec in embed.columns(settings_) if spec.name == column)
        assert [name for name in spec.reads if name.startswith("sam_")] == list(
            dense_columns("sam_features/demo_sam", form)  # type: ignore[arg-type]
        )
        found.append(embed.start(settings_, [column], WEIGHTS, ROOT)(shard)[column])
    for one, other in zip(found[0].rows, found[1].rows, strict=True):
        np.testing.assert_allclose(one, other, atol=0.02)
        assert not len(one) or (one != other).any()
