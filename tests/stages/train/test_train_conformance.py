"""What every system promises, whatever it is made of: columns, inputs, learning, answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import Known, write_vectors

from stages.train import run
from stages.train.controls import _OF_IMAGE, blanked
from stages.train.params import TrainParams, overridden
from stages.train.system import ALWAYS, Batch
from stages.train.systems import SYSTEMS
from stages.train.trainer import trained_state
from store import open_split, rle
from store.format.schema import TABLES
from store.split import Split
from store.torch import loader

OPTIONS: dict[str, dict[str, Any]] = {
    "elisa": {"mask_encoder": "x", "top_k": 16, "max_new_tokens": 6, "drop_near_gt": None},
    "llmseg": {},
    "lisa": {},
}
"""System -> its parameters, where those of the fixture ``seg_params`` do not fit: masks have vectors of the encoder x."""


def test_there_are_options_for_every_system() -> None:
    assert OPTIONS.keys() == SYSTEMS.keys()


@pytest.fixture(scope="module")
def split(seg_store: Known, tmp_path_factory: pytest.TempPathFactory) -> Split:
    """The store of the other tests, with centred vectors."""
    store = tmp_path_factory.mktemp("systems") / "store"
    shutil.copytree(seg_store.store, store)
    plain = open_split(store, "d", "val")
    for name, rows in (
        ("mask_embeddings/sam/x", seg_store.embeddings),
        ("instance_embeddings/x", seg_store.instance_embeddings),
    ):
        commits = [commit for commit in plain.column(name).commits if commit is not None]
        centered = f"centered/m/{name}" if "sam" in name else "centered/m/instance_embeddings/sam/x"
        write_vectors(store, f"d/{centered}/val", list(rows), {name: commits})
    return open_split(store, "d", "val")


@pytest.fixture(params=SYSTEMS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def params(name: str, seg_params: Callable[..., TrainParams]) -> TrainParams:
    return seg_params(name, **OPTIONS[name]).model_copy(update={"mean": "m"})


@pytest.fixture
def system(name: str, params: TrainParams, split: Split, sam_weights: Callable[[str], Path]) -> Any:
    torch.manual_seed(1)
    made = run.system_class(name).build(params, split, "cpu", sam_weights)
    run.prepare(made, params)
    made.model.eval()
    return made


def batch_of(system: Any, split: Split, training: bool) -> Batch:
    """All targets of the split."""
    names = {**ALWAYS, **system.columns(system.params, training)}
    view = system.candidates(system.params, training)
    return next(iter(loader(split.stream(names, 100, level="target", candidates=view))))  # type: ignore[no-any-return]


def test_what_it_reads_is_in_a_store_and_what_its_line_says(name: str, params: TrainParams, split: Split) -> None:
    kind, line = run.system_class(name), SYSTEMS[name]
    assert all(map(split.has, run.columns(params, name)))
    for training in (True, False):
        read = kind.columns(params, training)
        arrays = {key for key, column in read.items() if column.rpartition(".")[0] not in TABLES}
        assert arrays <= {*_OF_IMAGE, *(f"{key}_scale" for key in _OF_IMAGE)}, "controls blank these keys"
        assert all(column.rpartition(".")[2] in TABLES[column.rpartition(".")[0]].names
                   for key, column in read.items() if key not in arrays)  # fmt: skip
        assert any(column.startswith("centered/") for column in read.values()) == line.centered
        assert (kind.candidates(params, training) is not None) == line.chooses


def test_the_same_sample_and_epoch_have_the_same_inputs(system: Any, split: Split) -> None:
    batch = batch_of(system, split, training=True)
    first, again = system.inputs(batch, 0), system.inputs(batch, 0)
    assert first.keys() == again.keys()
    for key, value in first.items():
        assert not isinstance(value, torch.Tensor) or torch.equal(value, again[key]), key
    with torch.no_grad():
        assert float(system.loss(first)) == float(system.loss(again))


def test_it_learns_and_gradients_reach_exactly_what_is_trained(system: Any, split: Split) -> None:
    inputs = system.inputs(batch_of(system, split, training=True), 0)
    optimizer = torch.optim.AdamW([{"params": weights, "lr": 1e-3} for weights, _ in system.groups()], weight_decay=0.0)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = system.loss(inputs)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    reached = {key for key, weight in system.model.named_parameters() if weight.grad is not None}
    trained = {id(weight) for weights, _ in system.groups() for weight in weights}
    assert reached == trained_state(system.model).keys()
    assert reached == {key for key, weight in system.model.named_parameters() if id(weight) in trained}
    assert any("lora_" in key for key in reached)


def test_a_batch_without_anything_to_find_trains(system: Any, split: Split) -> None:
    batch = batch_of(system, split, training=True)
    empty = [number for number, meant in enumerate(batch["instances"]) if not len(meant)]
    assert empty
    only = {key: values[empty] if isinstance(values, torch.Tensor) else [values[number] for number in empty]
            for key, values in batch.items()}  # fmt: skip
    loss = system.loss(system.inputs(only, 0))
    loss.backward()
    assert bool(torch.isfinite(loss))


@pytest.mark.parametrize("without", [None, "image", "question"])
def test_every_target_gets_an_answer_in_the_frame_of_its_image(
    system: Any, split: Split, name: str, without: Any
) -> None:
    batch = blanked(batch_of(system, split, training=False), without)
    for mode in SYSTEMS[name].modes:
        answers = system.predict(batch, mode)
        assert [answer.target_id for answer in answers] == list(batch["id"])
        for number, answer in enumerate(answers):
            height, width = int(batch["height_px"][number]), int(batch["width_px"][number])
            if answer.segmentation is not None:
                assert rle.decode(answer.segmentation, height, width).any()
            assert (answer.chosen is None) == (not SYSTEMS[name].chooses)
            if answer.chosen:
                assert {*answer.chosen} <= {*batch["candidates"][number].tolist()}
        assert system.predict(batch, mode) == answers
    others = {"generated", "teacher_forced"} - {*SYSTEMS[name].modes}
    for mode in others:
        with pytest.raises(ValueError, match="mode"):
            system.predict(batch, mode)


@pytest.mark.parametrize("mixture", [{}, {"a": {"weight": 1, "of": ["val"]}}], ids=["splits", "mixture"])
def test_batches_of_one_process_are_those_of_all(
    system: Any, split: Split, mixture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before training, and answers, are the same on every rank, whatever process group there is."""
    params = overridden(system.params, {"mixture": mixture, "epoch_samples": 6 if mixture else 0, "batch_size": 2})

    def seen() -> list[str]:
        asked = [name for batch in run.batches(params, system, {"val": split}) for name in batch["id"]]
        return asked + [answer.target_id for answer in run.predict(system, split)]

    alone = seen()
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    assert seen() == alone
    ranks = [run.batches(params, system, {"val": split}, rank, 2) for rank in (0, 1)]
    first, other = ([name for batch in rank for name in batch["id"]] for rank in ranks)
    assert first
    assert other
    assert mixture or not {*first} & {*other}
