"""Answers that need no training: chance, the largest mask, and oracles, which bound what a selector can reach."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.cases import Case
from stages.evaluate.metrics import Selection
from stages.predictions import Prediction
from store import rle

Baseline = Callable[[Case, int], Prediction]
"""Case and seed -> what the baseline answers."""


def rand50(case: Case, seed: int) -> Prediction:
    """Each candidate with probability 0.5 (ELISA slides)."""
    return choose(case, _generator(case, seed).random(len(case.offered.index)) < 0.5)


def rand_class(case: Case, seed: int) -> Prediction:
    """One candidate, each equally likely. The ELISA slides give figures for it but no code; they fit a single draw of this rule."""
    count = len(case.offered.index)
    return choose(case, np.arange(count) == (_generator(case, seed).integers(count) if count else 0))


def largest_mask(case: Case, seed: int) -> Prediction:
    """The candidate with the largest area."""
    areas = [rle.area(counts) for counts in case.offered.segmentation]
    return choose(case, np.arange(len(areas)) == (int(np.argmax(areas)) if areas else 0))


def always_reject(case: Case, seed: int) -> Prediction:
    """Answers ``[REJ]`` to everything."""
    return Prediction(case.question.target_id, case.text_index, None, rejected=True, chosen=())


def oracle_selector(case: Case, seed: int) -> Prediction:
    """Exactly the positive candidates: no selector has a higher F1. Rejects what does not exist."""
    return choose(case, case.offered.positive) if case.question.exists else always_reject(case, seed)


def oracle_best_mask(case: Case, seed: int) -> Prediction:
    """The one candidate with the highest IoU, nothing where no candidate overlaps the target. Rejects what does not exist."""
    if not case.question.exists:
        return always_reject(case, seed)
    pixels, in_target, members = case.regions
    iou = _iou_of(pixels, in_target, members)
    return choose(case, np.arange(iou.size) == (int(np.argmax(iou)) if iou.any() else -1))


def oracle_union(case: Case, seed: int) -> Prediction:
    """A union with a high IoU, found by greedy search (:func:`greedy_union`). Rejects what does not exist."""
    if not case.question.exists:
        return always_reject(case, seed)
    return choose(case, greedy_union(*case.regions))


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {
        "Rand50 (one draw)": rand50,
        "RandClass (one draw)": rand_class,
        "largest mask": largest_mask,
        "always reject": always_reject,
        "oracle selector": oracle_selector,
        "oracle best mask": oracle_best_mask,
        "oracle union (greedy)": oracle_union,
    }
)


def expected_rand50(positives: int, negatives: int) -> Selection:
    """Exact mean of each figure when every candidate is chosen with probability 0.5."""
    count = positives + negatives
    if not count:
        return Selection(0.0, 0.0, 0.0, 0.0)
    tp, fp = np.arange(positives + 1), np.arange(negatives + 1)
    share = np.outer(_binomial_half(positives), _binomial_half(negatives))
    f1 = 2 * tp[:, None] / np.maximum(1, tp[:, None] + fp + positives)
    # All candidates are equally likely to be chosen: if any are, the share positives / count of them is right on average.
    precision = positives / count * (1 - 0.5**count)
    return Selection(precision, 0.5 if positives else 0.0, float((share * f1).sum()), 0.5)


def expected_rand_class(positives: int, negatives: int) -> Selection:
    """Exact mean of each figure when one candidate is chosen, each with equal probability."""
    count = positives + negatives
    if not positives:
        return Selection(0.0, 0.0, 0.0, 1 - 1 / count if count else 0.0)
    hit = positives / count
    return Selection(hit, 1 / count, hit * 2 / (positives + 1), 1 - (positives - 1 + 2 * (1 - hit)) / count)


def rand50_of_expected_counts(positives: int, negatives: int) -> Selection:
    """Rand50 as the ELISA slides compute it: the figures of the mean counts, not the mean of the figures."""
    if not positives:
        return Selection(0.0, 0.0, 0.0, 0.5 if negatives else 0.0)
    return Selection(positives / (positives + negatives), 0.5, positives / (1.5 * positives + 0.5 * negatives), 0.5)


ANALYTIC: Mapping[str, Callable[[int, int], Selection]] = MappingProxyType(
    {
        "Rand50 (analytic)": expected_rand50,
        "RandClass (analytic)": expected_rand_class,
        "Rand50 (of expected counts, as the slides)": rand50_of_expected_counts,
    }
)
"""Numbers of positive and negative candidates of a target -> mean figures of a baseline."""


def greedy_union(
    pixels: NDArray[np.int64], in_target: NDArray[np.bool_], members: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which masks to unite, bool [K], for a high IoU with the target: each step adds or drops the mask that gains most.

    A lower bound on the best union: finding that is a set-cover problem. At least as good as the best single mask. The
    arguments are those of ``Case.regions``.
    """
    result = np.zeros(members.shape[1], bool)
    # A mask without a pixel of the target only ever adds to the union.
    touching = np.flatnonzero(members[in_target].any(axis=0))
    covers = members[:, touching]
    kept = covers.any(axis=1)
    total, pixels, in_target, covers = pixels[in_target].sum(), pixels[kept], in_target[kept], covers[kept]
    chosen, best = np.zeros(touching.size, bool), 0.0
    while True:
        times = covers[:, chosen].sum(axis=1)
        # Adding mask k adds the pixels that no mask covers yet; dropping it removes those that it alone covers.
        adds, takes = (_parts(pixels * (times == number), in_target, covers) for number in (0, 1))
        inside, outside = _parts(pixels, in_target, times[:, None] > 0) + np.where(chosen, -takes, adds)
        iou = inside / np.maximum(1, total + outside)
        if not iou.size or iou.max() <= best:
            result[touching[chosen]] = True
            return result
        best = float(iou.max())
        chosen[np.argmax(iou)] ^= True


def union_iou_upper_bound(pixels: NDArray[np.int64], in_target: NDArray[np.bool_], members: NDArray[np.bool_]) -> float:
    """An IoU that no union of the masks exceeds (it may be above the best union's). Arguments as :func:`greedy_union`.

    Let b be the largest number of pixels outside the target of any mask in the union. Then the union has at least b pixels
    outside, and inside at most what all masks with at most b outside cover together. The bound is the maximum over b.
    """
    outside = _parts(pixels, in_target, members)[1]
    order = np.argsort(outside, kind="stable")
    own, area = members[in_target][:, order], pixels[in_target]
    covered = own.any(axis=1)  # a region is added by the first mask that covers it
    if not covered.any():
        return 0.0
    inside = np.cumsum(np.bincount(own[covered].argmax(axis=1), area[covered], order.size))
    return float(np.max(inside / (area.sum() + outside[order])))


def choose(case: Case, picked: NDArray[np.bool_]) -> Prediction:
    """The union of the picked candidates, bool [n], as an answer."""
    question, numbers = case.question, np.flatnonzero(picked)
    masks = [case.offered.segmentation[number] for number in numbers]
    chosen = tuple(int(number) for number in case.offered.index[numbers])
    union = rle.union(masks, question.height_px, question.width_px)
    return Prediction(question.target_id, case.text_index, union, rejected=False, chosen=chosen)


def _iou_of(pixels: NDArray[np.int64], in_target: NDArray[np.bool_], members: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of each mask with the target, [K]; 0/0 is 0."""
    inside, outside = _parts(pixels, in_target, members)
    iou: NDArray[np.float64] = inside / np.maximum(1, pixels[in_target].sum() + outside)
    return iou


def _parts(pixels: NDArray[np.int64], in_target: NDArray[np.bool_], members: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels of each mask inside and outside the target, [2, K]; whole numbers, exact in float64."""
    weights = np.stack([pixels * in_target, pixels * ~in_target]).astype(np.float64)
    parts: NDArray[np.float64] = weights @ members
    return parts


def _binomial_half(count: int) -> NDArray[np.float64]:
    return np.array([math.comb(count, k) / 2**count for k in range(count + 1)])


def _generator(case: Case, seed: int) -> np.random.Generator:
    """A generator per text, so that a draw does not depend on what else is scored."""
    return np.random.default_rng([seed, case.question.image_index, case.question.number, case.text_index])
