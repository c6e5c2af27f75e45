"""The forms of GSVA and SESAME: one question for all names of a picture, and premises that may be false."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stages.train import run
from stages.train.language.llava import IGNORED
from stages.train.language.mask_words import REJ
from stages.train.language.seg_text import RELEASED, SEG, evaluation, given, names_conversation, premise_conversation
from stages.train.params import overridden
from store.split import Split

BOTH = pytest.mark.parametrize("name", ["llmseg", "lisa"])


def rngs(times: int = 300) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(times)]


def test_gsva_asks_for_all_names_at_once_and_answers_each_by_name() -> None:
    texts, masks = [" The Red Key. ", "left dog"], [1, 0]
    turns = {names_conversation(texts, masks, False, rng) for rng in rngs()}
    assert {question for question, _ in turns} == {
        "<image>\nCan you segment the red key, left dog in this image?",
        "<image>\nPlease segment the red key, left dog in this image.",
        "<image>\nWhat are the red key, left dog in this image? Please respond with segmentation masks.",
        "<image>\nWhat are the red key, left dog in this image? Please output segmentation masks.",
    }
    assert {answer for _, answer in turns} == {
        "The segmentation results are The Red Key [SEG], left dog [REJ].",
        "Sure, they are The Red Key:[SEG], left dog:[REJ].",
        "Sure, the mask of The Red Key is [SEG], the mask of left dog is [REJ].",
        "Sure, the segmentation of The Red Key is [SEG], the segmentation of left dog is [REJ].",
        "Sure, the referred The Red Key is [SEG], the referred left dog is [REJ].",
    }
    assert len(turns) == 20
    labels = {names_conversation(["wall", "sky"], [1, 1], True, rng)[1] for rng in rngs()}
    assert "Sure, they are wall:[SEG],sky:[SEG]." in labels  # without a space, as released


def test_gsva_is_evaluated_as_released() -> None:
    form = RELEASED.gsva.evaluation
    assert evaluation("Key", False, form) == "<image>\n What are Keyin this image? Please output segmentation masks."
    assert given("Key", form) == "Sure,Key:[SEG]."


def test_sesame_doubts_and_corrects() -> None:
    """A correction where there is one, else the data set's own answer, else a denial; none of them has a mask."""
    own = RELEASED.sesame
    true = {premise_conversation("The Key", False, 1, None, None, rng) for rng in rngs()}
    assert {asked for asked, _ in true} == {f"<image>\n{form.format(text='the key')}" for form in own.short}
    assert {answer for _, answer in true} == {form.format(text="the key") for form in own.answers_short}
    false = {premise_conversation("The Key", False, 0, None, "A Green Lock", rng)[1] for rng in rngs()}
    assert false == {form.format(text="the key", correction="a green lock") for form in own.corrections}
    denied = {premise_conversation("The Key", False, 0, None, None, rng)[1] for rng in rngs()}
    assert denied == {form.format(text="the key") for form in own.denials}
    told = premise_conversation("What opens IT?", True, 0, "Nothing here Does.", None, np.random.default_rng(0))
    assert told[1] == "Nothing here Does."
    assert told[0].startswith("<image>\nWhat opens IT? ")
    assert not any(word in answer for answer in {*false, *denied, told[1]} for word in (SEG, REJ))
    long = {premise_conversation("Why?", True, 2, None, None, rng)[1] for rng in rngs()}
    assert long == {form.replace(SEG, "[SEG], [SEG]") for form in own.answers_long}


def said(system: Any, row: torch.Tensor) -> str:
    return str(system.words.decode([token for token in row.tolist() if token != IGNORED])[0])


def together(system: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """All rows as two samples of a mixture: of three names, of which one is absent, and of the rest, one of them of ReasonSeg."""
    rows = len(batch["id"])
    batch["sample"] = torch.tensor([0, 0, 0] + [1] * (rows - 3))
    batch["text"] = torch.zeros(rows, dtype=torch.float64)
    batch["texts"] = [[f"lock {number}"] for number in range(rows)]
    batch["is_sentence"], batch["answer"] = [False] * rows, [None] * rows
    batch["kind"] = ["refer"] * rows
    batch["kind"][3] = "reasonseg"
    batch["instances"] = [np.array([0])] * rows
    batch["instances"][1] = np.array([], int)
    return batch


@BOTH
def test_gsva_s_names_of_a_picture_are_one_sequence(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, form="gsva", one_per="target")
    batch = together(system, {**seg_batch(system, training=True)})
    rows = len(batch["id"])
    assert rows >= 6
    inputs = system.inputs(batch, 0)
    assert len(inputs["input_ids"]) == len(inputs["pixel_values"]) == 3  # three names; one of ReasonSeg; the others
    first, second, third = (said(system, row) for row in inputs["labels"])
    assert [first.count(word) for word in (SEG, REJ, "lock")] == [2, 1, 3]
    assert second.count(SEG) == 1
    assert third.count(SEG) == rows - 4
    assert inputs["owner"].tolist() == [0, *range(2, rows)]
    assert torch.equal(inputs["pixel_values"][1], batch["features"][3])
    again = system.inputs(batch, 0)
    assert torch.equal(inputs["labels"], again["labels"])
    loss = system.loss(inputs)
    assert torch.isfinite(loss)
    loss.backward()


@BOTH
def test_a_name_behind_the_cut_has_no_mask(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, form="gsva", one_per="target")
    batch = together(system, {**seg_batch(system, training=True)})
    whole = system.inputs(batch, 0)
    row = whole["labels"][0].tolist()
    first = row.index(system.seg)
    system.params = overridden(system.params, {"max_text_tokens": first + 2 - system.tokens})
    inputs = system.inputs(batch, 0)
    assert inputs["labels"][0].tolist().count(system.seg) == 1
    assert 0 in inputs["owner"].tolist()
    assert 2 not in inputs["owner"].tolist()
    assert torch.isfinite(system.loss(inputs))


@BOTH
def test_a_run_in_gsva_s_form_learns_from_a_mixture(
    name: str, seg_system: Callable[..., Any], seg_split: Split
) -> None:
    system = seg_system(name, form="gsva")
    changes = {"mixture": {"a": {"weight": 1, "of": ["val"], "absent": "redrawn"}}, "epoch_samples": 4, "questions": 5}
    params = overridden(system.params, {**changes, "batch_size": 2})
    batch = next(iter(run.batches(params, system, {"val": seg_split})))
    assert "kind" in batch
    assert torch.isfinite(system.loss(system.inputs(batch, 0)))


@BOTH
def test_sesame_s_answers_to_false_premises_ask_for_no_mask(
    name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, form="sesame", one_per="target")
    batch = {**seg_batch(system, training=True)}
    rows = len(batch["id"])
    batch["texts"], batch["is_sentence"] = [["lock"]] * rows, [False] * rows
    batch["instances"] = [np.array([0])] * rows
    batch["answer"], batch["correction"] = [None] * rows, [None] * rows
    batch["instances"][0] = batch["instances"][1] = np.array([], int)
    batch["correction"][0] = "a red key"
    inputs = system.inputs(batch, 0)
    assert "a red key" in said(system, inputs["labels"][0])
    assert not any(word in said(system, row) for row in inputs["labels"][:2] for word in (SEG, REJ))
    assert inputs["owner"].tolist() == list(range(2, rows))
    assert torch.isfinite(system.loss(inputs))


@BOTH
@pytest.mark.parametrize(("form", "rejected"), [("lisa", False), ("sesame", True)])
def test_who_answers_in_words_denies_in_sesame_s_form(
    name: str, form: str, rejected: bool, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> None:
    system = seg_system(name, form=form)
    batch = seg_batch(system, training=False)
    silent = system.tokenizer(" Nothing.", add_special_tokens=False)["input_ids"]
    system.model.generate = lambda input_ids, **_: torch.cat([input_ids, torch.tensor([silent] * len(input_ids))], 1)
    assert {one.rejected for one in system.predict(batch)} == {rejected}
    assert all(not one.rejected for one in system.predict(batch, "teacher_forced"))
