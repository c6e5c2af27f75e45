"""LLM-Seg and LISA learn from a store: what they read, what their losses are made of, what is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import Known
from pydantic import ValidationError

from stages.train import run
from stages.train.language.llava import IGNORED
from stages.train.language.mask_words import REJ
from stages.train.language.seg_text import SEG
from stages.train.lisa.decoder import mask_losses
from stages.train.llmseg.selector import align_loss, regression_loss
from stages.train.places import GEOMETRY, place_features, with_places
from stages.train.trainer import trained_state
from store.format.schema import TABLES
from store.overlap import against_instances, against_targets
from store.rle import encode
from store.split import Split

BOTH = pytest.mark.parametrize("name", ["llmseg", "lisa"])


def in_order(known: Known) -> list[dict[str, Any]]:
    """The targets as a stream gives them."""
    return [target for targets in known.targets for target in targets]


def segs(system: Any, inputs: dict[str, Any]) -> list[int]:
    """How many [SEG] each answer has."""
    return (inputs["labels"] == system.seg).sum(1).tolist()  # type: ignore[no-any-return]


@BOTH
@pytest.mark.parametrize("one_per", ["target", "instance"])
def test_the_columns_are_there(name: str, one_per: str, seg_params: Callable[..., Any], seg_split: Split) -> None:
    params = seg_params(name, one_per=one_per)
    assert all(map(seg_split.has, run.columns(params, name)))
    for training in (True, False):
        for column in run.system_class(name).columns(params, training).values():
            table, _, field = column.rpartition(".")
            assert seg_split.has(column) or field in TABLES[table].names


@BOTH
def test_inputs_are_those_of_sample_and_epoch(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, explanatory=0.3)
    batch = seg_batch(system, training=True)
    first, again, later = (system.inputs(batch, epoch) for epoch in (0, 0, 1))
    assert first.keys() == again.keys()
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert not torch.equal(first["input_ids"], later["input_ids"])
    one = {key: value[4:5] for key, value in batch.items()}  # the same in another batch
    alone = system.inputs(one, 0)["input_ids"][0]
    assert torch.equal(first["input_ids"][4][: len(alone)], alone)


@BOTH
@pytest.mark.parametrize("one_per", ["target", "instance"])
def test_answers_have_a_seg_for_what_is_there_and_rej_where_nothing_is(
    name: str, one_per: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any], seg_store: Known
) -> None:
    system = seg_system(name, one_per=one_per)
    inputs = system.inputs(seg_batch(system, training=True), 0)
    counts = [len(target["instances"]) for target in in_order(seg_store)]
    assert max(counts) == 2
    assert segs(system, inputs) == (counts if one_per == "instance" else [min(count, 1) for count in counts])
    rejected = (inputs["labels"] == system.rej).any(1).tolist()
    assert rejected == [not count for count in counts]
    assert not bool(((inputs["input_ids"] >= system.seg) & (inputs["labels"] == IGNORED)).any())


@BOTH
def test_an_explanation_alone_asks_for_no_mask(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, explanatory=1.0)
    batch = seg_batch(system, training=True)
    inputs = system.inputs(batch, 0)
    answered = [answer is not None for answer in batch["answer"]]
    assert any(answered)
    assert not any(count for count, explained in zip(segs(system, inputs), answered, strict=True) if explained)
    assert bool(torch.isfinite(system.loss(inputs)))


@pytest.mark.parametrize("one_per", ["target", "instance"])
def test_llmsegs_truth_is_the_overlap_with_the_masks(
    one_per: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any], seg_store: Known
) -> None:
    system = seg_system("llmseg", one_per=one_per, top_k=16)
    inputs = system.inputs(seg_batch(system, training=True), 0)
    assert inputs["masks"].shape[2] == 8 + GEOMETRY
    want = []
    for image, targets in enumerate(seg_store.targets):
        masks = [encode(mask) for mask in seg_store.masks[image][:16]]
        for target in targets:
            if one_per == "target" and target["instances"]:
                iou, iop, *_ = against_targets(masks, target["segmentation"], target["ignore"])
                want.append((iou, iop))
            elif one_per == "instance":
                regions = [encode(seg_store.instances[image][j]) for j in target["instances"]]
                iou, iop = against_instances(masks, regions)
                want += [(iou[:, j], iop[:, j]) for j in range(len(regions))]
    assert inputs["iou"].shape == inputs["iop"].shape == (len(want), 16)
    for row, (iou, iop) in enumerate(want):
        np.testing.assert_allclose(inputs["iou"][row, : len(iou)], iou, atol=1e-6)
        np.testing.assert_allclose(inputs["iop"][row, : len(iop)], iop, atol=1e-6)


def test_vectors_get_the_places_of_their_own_image() -> None:
    vectors, boxes = torch.randn(2, 3, 5), [[[1, 2, 3, 4], [0, 0, 8, 4]], []]
    found = with_places(vectors, boxes, [(4, 8), (10, 10)])
    assert torch.equal(found[..., :5], vectors)
    want = place_features(torch.tensor(boxes[0]).float(), torch.tensor([4.0, 8.0]))
    torch.testing.assert_close(found[0, :2, 5:], want)
    assert found[0, 1, 5:9].tolist() == [0, 0, 1, 1]  # in the middle, and as large as the image


@pytest.mark.parametrize("one_per", ["target", "instance"])
def test_lisas_truth_is_as_painted_at_the_original_size(
    one_per: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any], seg_store: Known
) -> None:
    system = seg_system("lisa", one_per=one_per)
    inputs = system.inputs(seg_batch(system, training=True), 0)
    assert inputs["sizes"] == [((171, 256), (4, 6))] * len(in_order(seg_store))
    number = 0
    for image, targets in enumerate(seg_store.targets):
        for target in targets:
            regions = [seg_store.instances[image][j] for j in target["instances"]]
            if one_per == "target" and regions:
                regions = [np.any(regions, axis=0)]
            found, ignored = inputs["targets"][number], inputs["ignored"][number]
            assert found.shape == (len(regions), *ignored.shape) == (len(regions), 4, 6)
            assert all(np.array_equal(mask, region) for mask, region in zip(found, regions, strict=True))
            assert encode(ignored.numpy()) == target["ignore"]
            number += 1


def plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


def test_the_losses_are_weighted_sums(seg_system: Callable[..., Any], seg_batch: Callable[..., Any]) -> None:
    system = seg_system("llmseg", text_weight=3.0, align_weight=5.0, regression_weight=7.0, tau=0.1)
    inputs = system.inputs(seg_batch(system, training=True), 0)
    with torch.no_grad():
        outputs = system.model(**{key: inputs[key] for key in ("input_ids", "pixel_values")})
        text = plain_loss(outputs.logits, inputs["labels"])
        owner, at = (inputs["labels"] == system.seg).nonzero(as_tuple=True)
        scores = system.selector(inputs["masks"], inputs["valid"], outputs.hidden_states[0][owner, at - 1], owner)
        align = align_loss(scores.similarity, inputs["iou"], scores.valid, 0.1).mean()
        regression = regression_loss(scores.iop, inputs["iop"], scores.valid).mean()
        torch.testing.assert_close(system.loss(inputs), 3 * text + 5 * align + 7 * regression)

        system = seg_system("lisa", text_weight=3.0, bce_weight=5.0, dice_weight=7.0, ignore="excluded")
        inputs = system.inputs(seg_batch(system, training=True), 0)
        outputs = system.model(**{key: inputs[key] for key in ("input_ids", "pixel_values")})
        text = plain_loss(outputs.logits, inputs["labels"])
        owner, at = (inputs["labels"] == system.seg).nonzero(as_tuple=True)
        logits = system.decoder(outputs.hidden_states[0][owner, at - 1], owner, inputs["sam"], inputs["sizes"])
        parts = mask_losses(logits, inputs["targets"], inputs["ignored"], "excluded", 5.0, 7.0)
        torch.testing.assert_close(system.loss(inputs), 3 * text + sum(parts.values()))


@BOTH
def test_padding_changes_no_state_and_no_loss(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name)
    inputs = system.inputs(seg_batch(system, training=True), 0)
    longer = {**inputs}
    for key, value in (("input_ids", 5), ("labels", IGNORED)):
        longer[key] = torch.nn.functional.pad(inputs[key], (0, 7), value=value)
    with torch.no_grad():
        for found, expected in zip(system._read(longer), system._read(inputs), strict=True):
            torch.testing.assert_close(found, expected)


@BOTH
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"one_per": "instance", "family": "llama", "train_embeddings": True},
        {"train_embeddings": True, "base": "bfloat16", "explanatory": 0.1},
        {"base": "8bit"},
        {"base": "4bit"},
    ],
    ids=["plain", "llama, instances", "bfloat16", "8 bit", "4 bit"],
)
def test_it_learns_and_gradients_reach_exactly_what_is_trained(
    name: str, how: dict[str, Any], seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, **how)
    inputs = system.inputs(seg_batch(system, training=True), 0)
    groups = [{"params": weights, "lr": 1e-3} for weights, _ in system.groups()]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = system.loss(inputs)
        loss.backward()
        reached = {key for key, weight in system.model.named_parameters() if weight.grad is not None}
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    trained = {id(weight) for weights, _ in system.groups() for weight in weights}
    assert reached == trained_state(system.model).keys()
    assert reached == {key for key, weight in system.model.named_parameters() if id(weight) in trained}
    assert any("lora_" in key for key in reached)
    assert ("lm_head.weight" in reached) == (how.get("family") == "llama")  # Gemma's is its embeddings
    new = [weight for weight in system.groups()[0][0]]
    assert {weight.dtype for weight in new} == {torch.float32}
    assert any(weight is system.model.words for weight in new)
    frozen = [key for key in reached if "prompt_encoder" in key or "iou_prediction_head" in key]
    assert not frozen


@BOTH
def test_a_batch_of_nothing_but_rejections_trains(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name)
    batch = seg_batch(system, training=True)
    empty = [number for number, instances in enumerate(batch["instances"]) if not len(instances)]
    only = {
        key: value[empty] if isinstance(value, torch.Tensor) else [value[k] for k in empty]
        for key, value in batch.items()
    }
    loss = system.loss(system.inputs(only, 0))
    loss.backward()
    assert bool(torch.isfinite(loss))
    for weights, _ in system.groups():
        assert all(weight.grad is not None for weight in weights)  # of zero: other processes wait for one


def test_the_words_start_apart_and_the_ids_are_behind_the_vocabulary(seg_system: Callable[..., Any]) -> None:
    system = seg_system("llmseg")
    assert system.model.config.words == (SEG, REJ)
    assert [system.seg, system.rej] == [system.model.first_row, system.model.first_row + 1]
    assert not torch.allclose(*system.model.words.detach())


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"num_heads": 3}, "num_heads: found 3, expected a divisor of dim"),
        ({"heads": "iop", "fusion": False, "strategy": "iop"}, "would never see the question"),
        ({"heads": "iou", "strategy": "iop"}, "strategy: found iop, which needs a head"),
        ({"heads": "iop", "strategy": "top1"}, "strategy: found top1, which needs a head"),
    ],
)
def test_parameters_that_cannot_work_are_refused(
    own: dict[str, Any], said: str, seg_params: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValidationError, match=said):
        seg_params("llmseg", **own)
