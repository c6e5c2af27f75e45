"""Throw-away heads used while the demo models train: they name the class, colour and texture of objects."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from demo.models.encoder_scenes import ATTRIBUTES, cell_targets

_ATTRIBUTE_WEIGHTS = (1.0, 0.3, 0.4)  # class, colour, texture


class Words(nn.Module):
    """Logits of an embedding float32 [..., dim] for every word: cosine with its vector, over a learned temperature."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(sum(ATTRIBUTES), dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, embedding: Tensor) -> Tensor:
        """Float32 [..., classes + colours + textures]."""
        cosine = F.normalize(embedding, dim=-1) @ F.normalize(self.vectors, dim=-1).T
        return cosine * self.log_scale.exp().clamp(max=100)


class Cells(nn.Module):
    """Logits of patch tokens [B, P, dim] for what covers the patch: each kind of each attribute, and background."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.heads = nn.ModuleList(nn.Linear(dim, kinds + 1) for kinds in ATTRIBUTES)

    def loss(self, tokens: Tensor, cells: Tensor, scene_of: Tensor, attributes: Tensor) -> Tensor:
        """Cross entropy with :func:`cell_targets`; a patch of pure background counts a fifth."""
        tokens, total = self.norm(tokens), torch.zeros(())
        for head, kinds, labels, weight in zip(
            self.heads, ATTRIBUTES, attributes.unbind(1), _ATTRIBUTE_WEIGHTS, strict=True
        ):
            wanted = cell_targets(cells, scene_of, labels, len(tokens), kinds)
            entropy = F.cross_entropy(head(tokens).flatten(0, 1), wanted.flatten(0, 1), reduction="none")
            share = 1 - 0.8 * wanted[:, :, -1].flatten()
            total = total + weight * (entropy * share).sum() / share.sum()
        return total


class Places(nn.Module):
    """Logits of patch tokens [B, P, dim] for which of the P patches they are."""

    def __init__(self, dim: int, patches: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, patches)

    def loss(self, tokens: Tensor) -> Tensor:
        """Cross entropy with each token's own position."""
        wanted = torch.arange(tokens.shape[1]).repeat(len(tokens))
        return F.cross_entropy(self.head(self.norm(tokens)).flatten(0, 1), wanted)


class Centres(nn.Module):
    """Where the middle of the object is that covers a patch, and how large it is, from patch tokens [B, P, dim] of a square grid.

    So a token tells which of its neighbours belong to the same thing, and a language model can find the whole thing from any of
    them.
    """

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 2 * side + 1)

    def loss(self, tokens: Tensor, cells: Tensor, scene_of: Tensor) -> Tensor:
        """Cross entropy of the middle's column and row, plus squared error of the log area in patches.

        Arguments as :meth:`Cells.loss`. A patch is weighted by how much of it is covered; each patch of a large object counts
        less.
        """
        area = cells.sum(1).clamp(min=0.3)
        grid, steps = cells.view(-1, self.side, self.side), torch.arange(self.side, dtype=torch.float32)
        said = self.head(self.norm(tokens))[scene_of]
        error = (said[..., -1] - area.log()[:, None]).square()
        for logits, along in zip(said[..., :-1].chunk(2, dim=-1), (grid.sum(1), grid.sum(2)), strict=True):
            middle = self._between((along * steps).sum(1) / area)
            error = error - (logits.log_softmax(-1) * middle[:, None]).sum(-1)
        weights = cells / area.sqrt()[:, None]
        mean: Tensor = (error * weights).sum() / weights.sum()
        return mean

    def _between(self, places: Tensor) -> Tensor:
        """Shares [m, side] of the two steps on either side of places [m], by linear interpolation."""
        lower = places.floor().clamp(0, self.side - 2)
        upper = (places - lower).clamp(0, 1)
        shares = torch.zeros(len(places), self.side)
        shares.scatter_(1, lower.long()[:, None], 1 - upper[:, None])
        shares.scatter_(1, lower.long()[:, None] + 1, upper[:, None])
        return shares


def word_loss(logits: Tensor, attributes: Tensor) -> Tensor:
    """Cross entropy of each attribute: logits [B, classes + colours + textures], attributes int64 [B, 3]."""
    parts = logits.split(ATTRIBUTES, dim=-1)
    pairs = zip(parts, attributes.unbind(1), _ATTRIBUTE_WEIGHTS, strict=True)
    return sum((weight * F.cross_entropy(part, wanted) for part, wanted, weight in pairs), torch.zeros(()))
