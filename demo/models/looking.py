"""Initialises `demo_llava` so that it can look words up in the image, which it would not learn in an hour on two cores.

Three things are set in the weights before the first step. The projector turns a patch token into the embeddings of the words for
what the patch shows and where it lies, as closely as a ridge regression on its hidden layer can. These embeddings are in a space
of their own, a rotation of the text's space, in which the first layers' queries look for the text's words: a word finds the
patches that say it, and not itself. The values are rotated back at the output, so what was found comes out as words. This is
the mimetic initialisation of Trockman and Kolter (arXiv 2305.09828), W_q W_k^T and W_v W_o near the identity, across two
spaces.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stages.train.language.llava import FeatureLlava

LAYERS = 2
"""The first layers, which look words up at the start."""
SHARPNESS = 2.0
PLACE_WEIGHT = 2.0
"""A patch's place has more weight than what it shows, which is harder to predict and spread over several words."""
RIDGE = 1e-4
NEARNESS = 0.7
"""Fraction of a place's embedding that it shares with its neighbours, so that what is learned about a place holds near it too."""
REACH = 2.0
"""Standard deviation, in cells, of the Gaussian that neighbours share."""


@torch.no_grad()
def start_looking(model: FeatureLlava, features: Tensor, shown: Tensor, words: Tensor, places: Tensor) -> None:
    """Set embeddings, projector and the first layers' attention.

    Args:
        model: untrained, with a key head for each query head.
        features: patch tokens float [n, P, C].
        shown: which words say what a patch shows, float [n, P, W]: 0, or the weight of the word.
        words: their tokens int64 [W].
        places: tokens int64 [P] of the words for the patches' places.
    """
    language: Any = model.model.language_model
    table = nn.init.normal_(language.embed_tokens.weight, std=language.config.hidden_size**-0.5)
    table[places] = _near_alike(table[places])
    language.norm.weight.fill_(
        -0.7
    )  # with such long tied embeddings, logits would be overconfident before anything is learned
    turn = _rotation(len(table[0]))
    _fit(model.model.multi_modal_projector, features, (shown @ table[words] + PLACE_WEIGHT * table[places]) @ turn.T)
    for layer in language.layers[:LAYERS]:
        attention = layer.self_attn
        rotations = -(-len(attention.q_proj.weight) // len(turn))
        matched, carried = (
            torch.cat([_rotation(len(turn)) for _ in range(rotations)])[: len(attention.q_proj.weight)]
            for _ in range(2)
        )
        attention.k_proj.weight.copy_(SHARPNESS * matched)
        attention.q_proj.weight.copy_(SHARPNESS * matched @ turn)
        attention.v_proj.weight.copy_(carried)
        attention.o_proj.weight.copy_((carried @ turn).T * len(turn) / len(carried))


@torch.no_grad()
def carry_over(model: FeatureLlava, before: Tensor, features: Tensor) -> None:
    """Fit a trained model's projector to a new tower, so that its tokens are projected to where the old tower's were.

    ``before`` and ``features`` are the patch tokens float [n, P, C] of the same pictures by the two.
    """
    projector: Any = model.model.multi_modal_projector
    _fit(projector, features, projector(before))


def _near_alike(places: Tensor) -> Tensor:
    """Embeddings [P, h] of the cells of a square grid, row by row, mixed with embeddings of their row and of their column."""
    side, width = math.isqrt(len(places)), places.shape[1]
    steps = torch.arange(side, dtype=torch.float64)
    alike = torch.exp(-((steps[:, None] - steps) ** 2) / (2 * REACH**2))
    root = torch.linalg.cholesky(alike + 1e-6 * torch.eye(side, dtype=torch.float64)).float()
    rows, columns = (root @ torch.randn(side, width) * width**-0.5 for _ in range(2))
    shared: Tensor = (rows[:, None] + columns).reshape(-1, width)
    found: Tensor = math.sqrt(NEARNESS / 2) * shared + math.sqrt(1 - NEARNESS) * places
    return found


def _rotation(width: int) -> Tensor:
    return nn.init.orthogonal_(torch.empty(width, width))


def _fit(projector: Any, features: Tensor, targets: Tensor) -> None:
    """LLaVA's two layers: the first at random on standardised features, the second by ridge regression on ``targets`` [n, P, h]."""
    first, last, flat = projector.linear_1, projector.linear_2, features.flatten(0, 1)
    weight = torch.randn(first.weight.shape) / features.shape[-1] ** 0.5 / (flat.std(0) + 1e-6)
    first.weight.copy_(weight)
    first.bias.copy_(0.3 * torch.randn(len(weight)) - weight @ flat.mean(0))
    hidden = projector.act(first(flat))
    hidden = torch.cat([hidden, torch.ones(len(hidden), 1)], dim=1)
    inner = hidden.T @ hidden + RIDGE * len(hidden) * torch.eye(hidden.shape[1])
    solved = torch.linalg.solve(inner, hidden.T @ targets.flatten(0, 1))
    last.weight.copy_(solved[:-1].T)
    last.bias.copy_(solved[-1])
