"""Finds repeated questions: word for word or nearly, within an image, in the whole set, or in a protected split.

The similarity of two texts is the cosine of their vectors: counts of character trigrams, or embeddings by a model. Counts are
whole numbers whose products are exact in float32, so that every machine makes the same decision.

Within an image every repeated question is rejected. Across images it is rejected if the answer is the same as well: such a
question is not about its image, although LLM-Seg's prompt demands that (section 4 of the paper), teaches the same twice, and
would leak from one split to another. The same question with another answer in another image is kept: its text alone does not
tell the answer, so the picture is needed.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from stages.questions.items import Pair, Reason, Rejected
from stages.questions.params import CheckParams
from stages.questions.rules import normalized, rejection

BUCKETS = 1024
"""Length of a vector of trigrams; those that share a bucket are counted together."""
BLOCK = 1024
"""Questions that are compared at once, with as many others: 12 MB of products and vectors."""
_MOST = 255
_PRIMES = np.array([2654435761, 2246822519, 3266489917], np.uint64)
_TOLERANCE = 1e-6
_ROUNDING = 1e-3

Vectors = NDArray[np.uint8] | NDArray[np.float32]


def distinct(
    pairs: Sequence[Pair],
    params: CheckParams,
    protected: Sequence[str] = (),
    vectors: NDArray[np.float32] | None = None,
    protected_vectors: NDArray[np.float32] | None = None,
) -> tuple[list[Pair], list[Rejected]]:
    """The pairs whose question occurs for the first time, and the others, both in their order.

    Args:
        pairs: of the whole set. Among similar questions the first in this order is kept.
        params: ``near``: the cosine from which on two questions are nearly the same. ``across``: compare images as well.
        protected: questions that must not be repeated, whatever their answer, such as those of ReasonSeg's val and test.
        vectors: embeddings of the questions, float32 [N, D]; None: trigrams are counted.
        protected_vectors: those of ``protected``, float32 [P, D]; with ``vectors`` only.

    Raises:
        ValueError: the embeddings are not of this shape, or not finite.
    """
    texts, forbidden = [normalized(pair.question) for pair in pairs], [normalized(text) for text in protected]
    ones: Vectors = trigrams(texts) if vectors is None else _checked(vectors, len(texts), "questions")
    others: Vectors = trigrams(forbidden)
    if vectors is not None and forbidden:
        others = _checked(protected_vectors, len(forbidden), "protected questions", ones.shape[1])
    why: dict[int, tuple[Reason, str]] = {}
    for one, other in _leaks(ones, others, texts, forbidden, params.near):
        why[one] = Reason.LEAKED, protected[other]
    together: list[Sequence[Hashable]] = [[pair.image_id for pair in pairs]]
    if params.across:
        together.append([frozenset(pair.labels) for pair in pairs])
    for keys in together:
        for group in _groups(keys, why):
            for one, other in _again(group, ones, texts, params.near):
                reason = Reason.DUPLICATE if texts[one] == texts[other] else Reason.NEAR_DUPLICATE
                why[one] = reason, f"{pairs[other].image_id}: {pairs[other].question}"
    rejected = [rejection(pair, *why[place]) for place, pair in enumerate(pairs) if place in why]
    return [pair for place, pair in enumerate(pairs) if place not in why], rejected


def leaked(texts: Sequence[str], protected: Sequence[str], near: float) -> dict[int, str]:
    """Index of each text that is nearly a protected one, by its trigrams -> the protected text."""
    ones, forbidden = [normalized(text) for text in texts], [normalized(text) for text in protected]
    found = _leaks(trigrams(ones), trigrams(forbidden), ones, forbidden, near)
    return {place: protected[other] for place, other in found}


def within_quota(pairs: Sequence[Pair], per_category: int | None) -> tuple[list[Pair], list[Rejected]]:
    """The first ``per_category`` pairs of each category as answer, and the others, both in their order. None: no limit.

    A pair with several categories as answer counts for each of them, and is kept only if none of them is full.
    """
    kept: list[Pair] = []
    rejected: list[Rejected] = []
    counts: dict[str, int] = {}
    for pair in pairs:
        full = [label for label in pair.labels if per_category is not None and counts.get(label, 0) >= per_category]
        if full:
            rejected.append(rejection(pair, Reason.QUOTA, f"{', '.join(full)}: {per_category} before"))
            continue
        counts |= {label: counts.get(label, 0) + 1 for label in pair.labels}
        kept.append(pair)
    return kept, rejected


def trigrams(texts: Sequence[str]) -> NDArray[np.uint8]:
    """How often each text has each run of three characters, uint8 [N, 1024]: by a hash of the run, and no more than 255 times."""
    counts = np.zeros((len(texts), BUCKETS), np.uint8)
    for start in range(0, len(texts), BLOCK):
        padded = [f" {text} " for text in texts[start : start + BLOCK]]
        data = "".join([*padded, "  "]).encode(
            "utf-32-le", "surrogatepass"
        )  # two more characters, so that a run begins at every place
        row = np.repeat(np.arange(len(padded) + 1), [*map(len, padded), 2])
        whole = row[:-2] == row[2:]  # a run must not span two texts
        runs = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint32).astype(np.uint64), 3)[whole]
        buckets = ((runs * _PRIMES).sum(axis=1, dtype=np.uint64) >> np.uint64(16)).astype(np.int64) % BUCKETS
        places = row[:-2][whole] * BUCKETS + buckets
        found = np.bincount(places, minlength=len(padded) * BUCKETS).reshape(-1, BUCKETS)
        counts[start : start + BLOCK] = np.minimum(found, _MOST)
    return counts


def _checked(
    vectors: NDArray[np.float32] | None, count: int, what: str, width: int | None = None
) -> NDArray[np.float32]:
    if vectors is None or vectors.ndim != 2 or len(vectors) != count or (width or vectors.shape[1]) != vectors.shape[1]:
        found = "none" if vectors is None else f"{list(vectors.shape)}"
        raise ValueError(f"embeddings of {what}: found {found}, expected [{count}, {width or 'D'}]")
    if not np.isfinite(vectors).all():
        raise ValueError(f"embeddings of {what}: found one that is not finite, expected numbers")
    return vectors


def _groups(keys: Sequence[Hashable], gone: dict[int, tuple[Reason, str]]) -> Iterator[list[int]]:
    """Indices with the same key, in their order, without those in ``gone``; groups of one are left out."""
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        if place not in gone:
            groups.setdefault(key, []).append(place)
    return (group for group in groups.values() if len(group) > 1)


def _leaks(
    ones: Vectors, others: Vectors, texts: Sequence[str], forbidden: Sequence[str], near: float
) -> Iterator[tuple[int, int]]:
    """Questions similar to a protected one: the index of each, and of the first such protected one."""
    exact = {text: place for place, text in reversed(list(enumerate(forbidden)))}
    for start in range(0, len(ones), BLOCK):
        found: dict[int, int] = {}
        for first in range(0, len(others), BLOCK):
            alike = _alike(ones[start : start + BLOCK], others[first : first + BLOCK], near)
            for row in np.flatnonzero(alike.any(axis=1)).tolist():
                found.setdefault(start + row, first + int(alike[row].argmax()))
        found |= {
            place: exact[texts[place]] for place in range(start, min(start + BLOCK, len(ones))) if texts[place] in exact
        }
        yield from sorted(found.items())


def _again(group: Sequence[int], vectors: Vectors, texts: Sequence[str], near: float) -> Iterator[tuple[int, int]]:
    """Questions of a group that are similar to an earlier one that is kept: the index of each, and of the earlier one."""
    firsts: dict[str, int] = {}
    new = []
    for place in group:
        first = firsts.setdefault(texts[place], place)
        if first == place:
            new.append(place)
    gone: dict[int, int] = {}
    kept: list[int] = []
    for start in range(0, len(new), BLOCK):
        block = new[start : start + BLOCK]
        for first in range(0, len(kept), BLOCK):
            earlier = kept[first : first + BLOCK]
            alike = _alike(vectors[block], vectors[earlier], near)
            for row in np.flatnonzero(alike.any(axis=1)).tolist():
                gone.setdefault(block[row], earlier[int(alike[row].argmax())])
        alike = _alike(vectors[block], vectors[block], near)
        for row, place in enumerate(block):
            before = [block[at] for at in np.flatnonzero(alike[row, :row]).tolist() if block[at] not in gone]
            if before and place not in gone:
                gone[place] = before[0]
        kept += [place for place in block if place not in gone]
    for place in group:
        first = firsts[texts[place]]
        if place != first:
            yield place, first
        elif place in gone:
            yield place, gone[place]


def _alike(ones: Vectors, others: Vectors, near: float) -> NDArray[np.bool_]:
    """Whether the cosine is at least ``near``, bool [N, M]; a zero vector is not similar to anything."""
    left, right = ones.astype(np.float32), others.astype(np.float32)
    lengths = [np.sqrt(np.einsum("nd,nd->n", each, each, dtype=np.float64)) for each in (left, right)]
    rows = np.arange(len(left))
    if (
        ones.dtype == np.uint8
    ):  # the products of folded counts are never smaller, so they rule out most rows in a quarter of the time
        folded = [
            _folded(each) / np.maximum(length, 1)[:, None] for each, length in zip((left, right), lengths, strict=True)
        ]
        rows = np.flatnonzero(
            (folded[0].astype(np.float32) @ folded[1].astype(np.float32).T >= near - _ROUNDING).any(axis=1)
        )
    products = left[rows] @ right.T
    found = np.zeros((len(left), len(right)), np.bool_)
    found[rows] = (products >= near * np.multiply.outer(lengths[0][rows], lengths[1]) * (1 - _TOLERANCE)) & (
        products > 0
    )
    return found


def _folded(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """The counts of four buckets together, float32 [N, 256]."""
    folded: NDArray[np.float32] = counts.reshape(len(counts), 4, -1).sum(axis=1)
    return folded
