"""Candidate sets: which masks of an image are offered with a sample. Views made while reading; nothing is copied on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..read.options import flag, share, whole

I64 = npt.NDArray[np.int64]


def number_of_instance(instance: Any) -> Any:
    """The number by which an instance, or each of an array of instances, is known among candidates: -1 - j for instance j."""
    return -1 - instance


def instance_of(number: int) -> int | None:
    """Which instance a candidate is, by its number; None for a mask, whose number is its position among the masks."""
    return -1 - number if number < 0 else None


@dataclass(frozen=True)
class Candidates:
    """A candidate set, applied in the order of its fields (as ELISA's loader does it; DavidC001/ELISA).

    Args:
        top_k: only this many of the largest masks.
        drop_near_gt: leave out masks whose IoU with an instance is above this (ELISA: 0.95).
        with_gt: add the annotated instances after the masks.
    """

    top_k: int | None = None
    drop_near_gt: float | None = None
    with_gt: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None:
            object.__setattr__(self, "top_k", whole("top_k", self.top_k, 1))
        if self.drop_near_gt is not None:
            object.__setattr__(self, "drop_near_gt", share("drop_near_gt", self.drop_near_gt))
        object.__setattr__(self, "with_gt", flag("with_gt", self.with_gt))

    @classmethod
    def of(cls, given: Candidates | int | None) -> Candidates | None:
        """A candidate set from what users may give: a number stands for ``top_k``, the number of largest masks."""
        return given if given is None or isinstance(given, cls) else cls(whole("candidates", given, 1))

    def width(self, k_max: int, g_max: int) -> int:
        """Most candidates an image can have."""
        return min(k_max, self.top_k or k_max) + (g_max if self.with_gt else 0)

    def choose(self, masks: int, iou: Sequence[npt.NDArray[np.float32]] | None, instances: int) -> Chosen:
        """The candidates of an image.

        Args:
            masks, instances: how many it has (that were embedded, where embeddings are read).
            iou: that of each mask with every instance, a list of [G]; only looked at for ``drop_near_gt``.
        """
        first, added = min(masks, self.top_k or masks), instances if self.with_gt else 0
        if self.drop_near_gt is None or iou is None:
            return Chosen(first, None, added)
        far = [not len(row) or float(row.max()) <= self.drop_near_gt for row in iou[:first]]
        rows = np.flatnonzero(far)
        return Chosen(len(rows), None if all(far) else rows, added)


@dataclass(frozen=True)
class Chosen:
    """The candidates of one image: its first ``count`` masks, or those at ``rows``, then its first ``instances`` instances."""

    count: int
    rows: I64 | None = None
    instances: int = 0

    def __len__(self) -> int:
        return self.count + self.instances

    @property
    def index(self) -> I64:
        """Int64 [n]: position of a mask, or :func:`number_of_instance` of an instance."""
        rows = np.arange(self.count) if self.rows is None else self.rows
        return np.concatenate([rows, number_of_instance(np.arange(self.instances))])

    def take(self, of_masks: Any, of_instances: Any) -> Any:
        """The candidates' values out of those of all masks and all instances (arrays or lists alike)."""
        if self.rows is None:
            masks = of_masks[: self.count]
        else:
            masks = of_masks[self.rows] if isinstance(of_masks, np.ndarray) else [of_masks[k] for k in self.rows]
        if not self.instances:
            return masks
        added = of_instances[: self.instances]
        return np.concatenate([masks, added]) if isinstance(of_masks, np.ndarray) else [*masks, *added]
