"""The words of a language model whose embeddings are nearest to a vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WORDS_SEEN = 4
"""Tokens looked at for each word that is wanted: several tokens may be the same word, or not be readable."""
_CHUNK = 16_384
"""Embeddings compared at once; a vocabulary may have a quarter of a million."""


def nearest_rows(vectors: Tensor, embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ids int64 [n, count] of the embeddings [V, h] with the largest cosine with each vector [n, h], and the cosines, float32.

    ``count`` is at most V; zero vectors have the cosine 0.
    """
    wanted = F.normalize(vectors.float(), dim=-1)
    count = min(count, len(embeddings))
    ids, cosines = torch.empty(len(wanted), 0, dtype=torch.int64), torch.empty(len(wanted), 0)
    for first, part in zip(range(0, len(embeddings), _CHUNK), embeddings.split(_CHUNK), strict=True):
        near = (wanted @ F.normalize(part.float(), dim=-1).T).cpu()
        cosines = torch.cat([cosines, near], dim=1)
        ids = torch.cat([ids, torch.arange(first, first + len(part)).expand(len(wanted), -1)], dim=1)
        cosines, best = cosines.topk(min(count, cosines.shape[1]), dim=1)
        ids = ids.gather(1, best)
    return ids, cosines


def nearest_spelled(
    tokenizer: Any, ids: Sequence[int], cosines: Sequence[float], count: int
) -> list[tuple[str, float]]:
    """The first ``count`` different words among some tokens, nearest first.

    Control tokens are left out, and so are tokens without a readable character, such as a byte of a longer one.
    """
    control, found = set(tokenizer.all_special_ids), dict[str, float]()
    for token, cosine in zip(ids, cosines, strict=True):
        if token in control or token >= len(tokenizer):
            continue
        word = tokenizer.decode([token]).strip()
        if word and word.isprintable() and "\ufffd" not in word:
            found.setdefault(word, cosine)
    return list(found.items())[:count]
