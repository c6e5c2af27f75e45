"""The systems learn and answer from int8 features as from float16 ones, to half a step of their scales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stages.train import run
from stages.train.system import dense
from store.split import Split


@pytest.mark.parametrize(("name", "keys"), [("llmseg", ["features"]), ("lisa", ["features", "sam"])])
def test_inputs_and_answers(
    name: str, keys: list[str], seg_system: Callable[..., Any], seg_batch: Callable[..., Any], seg_split: Split
) -> None:
    system = seg_system(name)
    whole = seg_batch(system, training=True)
    loss = system.loss(system.inputs(whole, 0))
    system.params = system.params.model_copy(update={"dense": "int8"})
    assert all(map(seg_split.has, run.columns(system.params, name)))
    batch = seg_batch(system, training=True)
    for key in keys:
        axis = {"features": -1, "sam": -3}[key]
        assert batch[key].dtype == torch.int8
        found, scale = dense(batch, key, axis), batch[f"{key}_scale"].unsqueeze(axis)
        assert found.dtype == whole[key].dtype == torch.float16
        assert bool(((found.float() - whole[key].float()).abs() <= 0.6 * scale.float()).all())
        assert not torch.equal(found, whole[key])
    inputs = system.inputs(batch, 0)
    assert torch.equal(inputs["pixel_values"], dense(batch, "features", -1))
    torch.testing.assert_close(system.loss(inputs), loss, rtol=0.02, atol=0.02)
    answers = system.predict(seg_batch(system, training=False), "teacher_forced")
    assert len(answers) == len(batch["id"])


@pytest.mark.parametrize("name", ["elisa", "llmseg", "lisa"])
def test_the_columns_of_the_other_form_are_not_asked_for(name: str, seg_params: Callable[..., Any]) -> None:
    params = seg_params(name).model_copy(update={"mean": "m"})
    whole = run.columns(params, name)
    half = run.columns(params.model_copy(update={"dense": "int8"}), name)
    features = {column for column in whole if column.startswith(("image_features/", "sam_features/"))}
    assert {"image_features/tiny"} <= features == whole - half
    split = [column.split("/") for column in features]
    assert half - whole == {f"{kind}/{form}/{of}" for kind, of in split for form in ("int8", "scale")}
