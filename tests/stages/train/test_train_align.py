"""Adapter pre-training: the loss, and that masks of known words come to lie at these words."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.train.elisa.align import align, align_loss
from stages.train.params import AlignParams


def test_the_loss_is_cross_entropy_both_ways() -> None:
    rows, texts = torch.eye(3), torch.eye(3)
    alone = torch.eye(3, dtype=torch.bool)
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    assert float(align_loss(rows, texts, alone, 0.5)) == pytest.approx(expected)
    # A mask whose text is another mask's, too, is not asked to tell them apart.
    rows, texts = torch.eye(3)[[0, 0, 1]], torch.eye(3)[[0, 0, 1]]
    shared = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    assert align_loss(rows, texts, shared, 0.01) < math.log(2) + 1e-3
    assert align_loss(rows, texts, torch.eye(3, dtype=torch.bool), 0.01) == pytest.approx(math.log(2) * 2 / 3, abs=1e-3)


def test_masks_come_to_lie_at_the_words_of_what_they_show() -> None:
    torch.manual_seed(0)
    words, kinds = nn.Embedding(40, 16), torch.randn(8, 6)
    before = words.weight.detach().clone()

    def batches() -> list[dict[str, Any]]:
        return [{"kind": torch.arange(8)}] * 4

    def pairs(batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        tokens = torch.stack([batch["kind"], torch.zeros_like(batch["kind"])], dim=1)  # the second is padding
        return kinds[batch["kind"]], tokens, torch.tensor([[1.0, 0.0]]).expand(8, 2)

    adapter = nn.Sequential(nn.Linear(6, 32), nn.GELU(), nn.Linear(32, 16))
    losses = align(adapter, words, batches, pairs, AlignParams(epochs=40, learning_rate=0.01, temperature=0.1))
    assert losses[-1] < 0.1 * losses[0]
    nearest = (adapter(kinds) @ nn.functional.normalize(words.weight[:8], dim=-1).T).argmax(1)
    assert nearest.tolist() == list(range(8))
    assert torch.equal(words.weight, before)
