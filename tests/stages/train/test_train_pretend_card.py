"""A loss, an answer and a training step of the three systems on a pretended card, and who waits for the card in them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import pytest
import torch

from stages.train import run
from stages.train.elisa.system import Elisa
from stages.train.language.llava import IGNORED
from stages.train.language.text import Encoded, collate
from tests.stages.fakecard import attentions
from tests.stages.pretendcard import Card, pretend_card, put, sent
from tests.stages.test_pretend_card import explained

SYSTEMS = pytest.mark.parametrize("name", ["elisa", "llmseg", "lisa"])
PATCHES, WIDTH, DIM, MOST = 16, 24, 8, 5


@pytest.fixture
def ready(
    seg_params: Callable[..., Any], seg_system: Callable[..., Any], seg_batch: Callable[..., Any]
) -> Callable[[str], tuple[Any, dict[str, Any]]]:
    """System -> it, and a batch as its inputs."""

    def make(name: str) -> tuple[Any, dict[str, Any]]:
        if name != "elisa":
            system = seg_system(name)
            return system, system.inputs(seg_batch(system, training=True), 0)
        params = seg_params(name)
        torch.manual_seed(1)
        system = Elisa(params, DIM, MOST, PATCHES, "cpu")
        run.prepare(system, params)
        system.model.eval()
        first = system.model.first_mask
        asked = [*[system.model.config.image_token_id] * PATCHES, *system.tokenizer("opens a lock")["input_ids"]]
        ends = system.tokenizer.eos_token_id
        answers = ([first, first + 2, ends], [first + 1, ends])
        rows = [Encoded([*asked, *answer], [*[IGNORED] * len(asked), *answer]) for answer in answers]
        adapter = system.model.adapter
        inputs = {
            **collate(rows, system.tokenizer.pad_token_id),
            "pixel_values": torch.randn(2, PATCHES, WIDTH),
            "masks": torch.randn(2, MOST, DIM + adapter.geometry),
            "masks_valid": torch.ones(2, MOST, dtype=torch.bool),
        }
        return system, inputs

    return make


def on(card: Card, system: Any) -> None:
    moved = put(system.model, card)
    system.device = str(card.device)
    if hasattr(system, "new"):
        system.new = [moved[id(weight)] for weight in system.new]


LANGUAGE = {
    "train/language/vocabulary.py:ExtendedLlava.forward: number": (
        4,
        "image tokens, features, longest answer; one text per row",
    ),
    "train/language/vocabulary.py:ExtendedLlava.forward: nonzero": (1, "where the answers are"),
    "train/language/vocabulary.py:ExtendedLlava.scores: bincount": (1, "tokens of each answer"),
    "train/language/vocabulary.py:ExtendedLlava.scores: to the CPU": (1, "these counts"),
    "train/language/vocabulary.py:token_loss: number": (1, "a loss that is not finite is an error here"),
}
STATES = {"train/language/seg_states.py:seg_states: nonzero": (1, "where the [SEG] are")}
OWN = {
    "elisa": {},
    "llmseg": {
        **STATES,
        "train/llmseg/selector.py:mean_over_images: _unique2": (2, "states of each image, for each loss"),
    },
    "lisa": {
        **STATES,
        "train/lisa/decoder.py:MaskDecoder.forward: number": (1, "states must come image by image"),
        "train/lisa/decoder.py:MaskDecoder.forward: bincount": (1, "states of each image"),
        "train/lisa/decoder.py:MaskDecoder.forward: to the CPU": (1, "these counts"),
        "train/lisa/decoder.py:mask_losses: number": (9, "whether an image has ignored pixels"),
        "train/lisa/decoder.py:mask_losses: mask as index": (14, "pixels and truth, of the 7 images that have some"),
    },
}
"""A step of a 7B model takes seconds, and these together a millisecond: they are named, not removed."""


@SYSTEMS
def test_a_loss_is_the_cpus(name: str, ready: Callable[[str], Any]) -> None:
    system, inputs = ready(name)
    want = float(system.loss(inputs).detach())
    with pretend_card() as card, attentions() as asked:
        on(card, system)
        loss = system.loss(sent(inputs, card)).detach()
    explained(card, LANGUAGE | OWN[name])
    assert float(loss.values) == pytest.approx(want, rel=1e-5)
    assert asked
    assert all(call.causal and not call.masked for call in asked)


@pytest.mark.parametrize("name", ["llmseg", "lisa"])
def test_answers_are_the_cpus(name: str, seg_system: Callable[..., Any], seg_batch: Callable[..., Any]) -> None:
    system = seg_system(name)
    batch = seg_batch(system, training=False)
    want = system.predict(batch)
    with pretend_card() as card:
        on(card, system)
        assert system.predict(batch) == want


@SYSTEMS
def test_a_training_step_stays_on_the_card(name: str, ready: Callable[[str], Any]) -> None:
    """The way back, the norm of the gradients and AdamW, with the numbers of the CPU."""
    system, inputs = ready(name)
    with pretend_card("meta") as card, mock.patch("torch.autocast", return_value=nullcontext()):
        on(card, system)
        groups = [{"params": weights, "lr": rate} for weights, rate in system.groups() if weights]
        trained = [weight for group in groups for weight in group["params"]]
        before = [weight.detach().values.clone() for weight in trained]
        optimizer = torch.optim.AdamW(groups)
        system.model.train()
        system.loss(sent(inputs, card)).backward()
        assert all(weight.grad is not None and weight.grad.device == weight.device for weight in trained)
        card.waits.clear()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        after = [weight.detach().values for weight in trained]
    assert not card.waits
    assert any(bool((new != old).any()) for new, old in zip(after, before, strict=True))
