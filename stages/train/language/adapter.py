"""Mask embeddings -> words of the language model (ELISA's adapters; DavidC001/ELISA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class AdapterSizes:
    """Sizes of a :class:`MaskAdapter`; the defaults are the released ones.

    ``dim_in``: of a mask embedding. ``geometry``: numbers that follow it and are not normalised (:func:`place_features`; ours,
    ELISA has none). ``expand``: hidden width of the MLPs over the model's. ``noise``: standard deviation of what
    is added after the first norm in training. ``linears``, ``queries`` and ``heads``: of the query variant, one block each.
    """

    dim_in: int
    geometry: int = 0
    variant: Literal["mlp", "query"] = "mlp"
    expand: int = 2
    dropout: float = 0.2
    noise: float = 1e-6
    linears: int = 25
    queries: tuple[int, ...] = (10,)
    heads: tuple[int, ...] = (1,)


class MaskAdapter(nn.Module):
    """Train-mean-centred embeddings float [..., D] -> rows float [..., h]: norm, body, norm, learned mean and spread."""

    def __init__(self, sizes: AdapterSizes, width: int) -> None:
        super().__init__()
        bodies = {"mlp": _mlp_body, "query": QueryBody}
        if sizes.variant not in bodies:
            raise ValueError(f"adapter variant: found {sizes.variant!r}, expected one of {', '.join(bodies)}")
        self.noise, self.geometry = sizes.noise, sizes.geometry
        self.norm_in, self.norm_out = nn.LayerNorm(sizes.dim_in), nn.LayerNorm(width)
        self.body = bodies[sizes.variant](sizes, width)
        self.std_emb, self.mean_emb = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, masks: Tensor) -> Tensor:
        """Float [..., D + geometry] -> float [..., h]."""
        what, where = masks.split([self.norm_in.normalized_shape[0], self.geometry], dim=-1)
        normed = self.norm_in(what)
        if self.training and self.noise:
            normed = normed + self.noise * torch.randn_like(normed)
        entering = torch.cat([normed, where], dim=-1)
        found: Tensor = self.norm_out(self.body(entering)) * self.std_emb + self.mean_emb
        return found

    @torch.no_grad()
    def start_like(self, embeddings: Tensor) -> None:
        """Give the rows the mean and spread of the language model's embeddings [V, h], so that they start among its words."""
        self.mean_emb.copy_(embeddings.float().mean(0))
        self.std_emb.copy_(embeddings.float().std(0))


def _mlp_body(sizes: AdapterSizes, width: int) -> nn.Module:
    """The final variant: one hidden layer."""
    hidden = width * sizes.expand
    return nn.Sequential(
        nn.Linear(sizes.dim_in + sizes.geometry, hidden), nn.GELU(), nn.Dropout(sizes.dropout), nn.Linear(hidden, width)
    )


class QueryBody(nn.Module):
    """The query variant: learned queries gather parallel views of an embedding block by block, with skips to the output."""

    def __init__(self, sizes: AdapterSizes, width: int) -> None:
        super().__init__()
        self.views = nn.ModuleList(nn.Linear(sizes.dim_in + sizes.geometry, width) for _ in range(sizes.linears))
        self.skip = nn.Linear(sizes.dim_in + sizes.geometry, width, bias=False)
        self.blocks = nn.ModuleList(
            QueryBlock(width, queries, heads, sizes) for queries, heads in zip(sizes.queries, sizes.heads, strict=True)
        )
        self.outs = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in sizes.queries)

    def forward(self, masks: Tensor) -> Tensor:
        """Float [..., D] -> float [..., h]."""
        flat = masks.flatten(0, -2)
        tokens = torch.stack([view(flat) for view in self.views], dim=1)
        total: Tensor = self.skip(flat)
        for block, out in zip(self.blocks, self.outs, strict=True):
            total = total + out(tokens.mean(1))
            tokens = block(tokens)
        found: Tensor = (total + tokens.mean(1)).reshape(*masks.shape[:-1], -1)
        return found


class QueryBlock(nn.Module):
    """Learned queries attend to tokens [N, T, h]; an MLP and a norm follow, without residuals: [N, Q, h]."""

    def __init__(self, width: int, queries: int, heads: int, sizes: AdapterSizes) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.attention = nn.MultiheadAttention(width, heads, dropout=sizes.dropout, batch_first=True)
        hidden = width * sizes.expand
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Dropout(sizes.dropout),
            nn.Linear(hidden, width),
            nn.LayerNorm(width),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Float [N, T, h] -> float [N, Q, h]."""
        found, _ = self.attention(self.queries.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        gathered: Tensor = self.mlp(found)
        return gathered
