"""Adapter pre-training for ELISA: a mask's row is moved towards the words for what it shows (future work in ELISA's slides).

The questions and answers that mean a mask say what it shows: the embedding of a text is the mean over its words. Rows and texts
are compared by cosine over temperature, each with all others of the batch, in both directions, as in CLIP (arXiv 2103.00020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.progress import tracked
from stages.train.params import AlignParams
from stages.train.system import Batch

Pairs = Callable[[Batch], tuple[Tensor, Tensor, Tensor]]
"""A batch -> for the n masks that are meant: the adapter's inputs, float [n, D]; the tokens of each mask's text, int64 [n, L];
and float [n, L], 1 for a token and 0 for padding."""


def align_loss(rows: Tensor, texts: Tensor, same: Tensor, temperature: float) -> Tensor:
    """InfoNCE in both directions of float [n, h] and [n, h], 0-d.

    Args:
        same: bool [n, n], which pairs belong together: several masks may share a text, and each counts as right.
    """
    scores = F.normalize(rows.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T / temperature
    wanted = same.float()
    found = torch.zeros(())
    for logits, right in ((scores, wanted), (scores.T, wanted.T)):
        found = found - (right / right.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    return found / 2


def align(
    adapter: nn.Module,
    embeddings: nn.Embedding,
    batches: Callable[[], Iterable[Batch]],
    pairs: Pairs,
    params: AlignParams,
) -> list[float]:
    """Train the adapter alone; the language model's embeddings are only looked up. Returns the mean loss of each epoch."""
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=params.learning_rate)
    losses = []
    adapter.train()
    for _ in tracked(range(params.epochs), "align", params.epochs, "epoch"):
        total, steps = 0.0, 0
        for batch in batches():
            inputs, tokens, there = pairs(batch)
            if len(inputs) < 2:
                continue
            with torch.no_grad():
                weights = there / there.sum(1, keepdim=True)
                texts = torch.einsum("nl,nlh->nh", weights, embeddings.weight[tokens].float())
            same = (tokens[:, None] == tokens[None]).all(-1)
            loss = align_loss(adapter(inputs), texts, same, params.temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, steps = total + float(loss.detach()), steps + 1
        losses.append(total / max(steps, 1))
    return losses
