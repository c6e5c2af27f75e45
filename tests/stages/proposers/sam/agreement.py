"""How well the records of two generators agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from store import rle

Records = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Agreement:
    """Mean best IoU of ours among theirs and of theirs among ours (a mask without a partner counts 0), and both counts."""

    ours: float
    theirs: float
    count_ours: int
    count_theirs: int

    @property
    def worst(self) -> float:
        """The lower of the two means."""
        return min(self.ours, self.theirs)


def agreement(ours: Records, theirs: Records, keep: Sequence[bool] | None = None) -> Agreement:
    """Match greedily, best pair first, each mask once; both lists with ``coco_rle``.

    Args:
        keep: which of theirs count (ours then count where they are matched to one of these); default: all.
    """
    a, b = ([record["segmentation"]["counts"] for record in records] for records in (ours, theirs))
    if not a or not b:
        value = 1.0 if len(a) == len(b) else 0.0
        return Agreement(value, value, len(a), len(b))
    common = rle.intersections(a, b)
    areas = [np.array([record["area"] for record in records]) for records in (ours, theirs)]
    union = areas[0][:, None] + areas[1][None, :] - common
    iou = np.where(union > 0, common / np.maximum(union, 1), 1.0)  # two empty masks are the same
    partner = np.zeros(len(b))
    while iou.max() > 0:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        partner[j] = iou[i, j]
        iou[i, :] = iou[:, j] = 0
    if keep is not None:
        chosen = partner[np.array(keep, bool)]
        value = float(chosen.mean()) if len(chosen) else 1.0
        return Agreement(value, value, len(a), len(b))
    return Agreement(float(partner.sum() / len(a)), float(partner.sum() / len(b)), len(a), len(b))
