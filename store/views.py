"""Candidate sets: which masks of an image a sample offers. Views made while reading; nothing on disk is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """A candidate set, applied in the order of its fields (as ELISA's loader does it; DavidC001/ELISA).

    Args:
        top_k: the largest so many masks alone.
        drop_near_gt: leave out masks whose IoU with an instance is above this (ELISA: 0.95).
        with_gt: add the annotated instances behind the masks.
    """

    top_k: int | None = None
    drop_near_gt: float | None = None
    with_gt: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"found top_k={self.top_k}, expected 1 or more, or None for all")
        if self.drop_near_gt is not None and not 0 <= self.drop_near_gt <= 1:
            raise ValueError(f"found drop_near_gt={self.drop_near_gt}, expected an IoU from 0 to 1")

    def width(self, k_max: int, g_max: int) -> int:
        """Most candidates an image can have."""
        return min(k_max, self.top_k or k_max) + (g_max if self.with_gt else 0)

    def choose(self, masks: int, iou: Sequence[npt.NDArray[np.float32]] | None) -> I64:
        """Positions int64 [n] of the chosen ones among an image's masks, rising.

        ``iou``: that of each mask with every instance, a list of [G]; only looked at for ``drop_near_gt``.
        """
        chosen = np.arange(min(masks, self.top_k or masks))
        if self.drop_near_gt is None or iou is None:
            return chosen
        near = [len(row) > 0 and float(row.max()) > self.drop_near_gt for row in iou[: len(chosen)]]
        far: I64 = chosen[~np.array(near, bool)]
        return far


@dataclass(frozen=True)
class Chosen:
    """The candidates of one image: masks at these positions, rising, then the first ``instances`` instances."""

    masks: I64
    instances: int = 0

    def __len__(self) -> int:
        return len(self.masks) + self.instances

    @property
    def is_prefix(self) -> bool:
        """Whether the masks are the first ones, so that they lie next to each other."""
        return not len(self.masks) or int(self.masks[-1]) == len(self.masks) - 1

    @property
    def index(self) -> I64:
        """Int64 [n]: position of a mask; of instance j it is -1 - j."""
        return np.concatenate([self.masks, -1 - np.arange(self.instances)])

    def take(self, of_masks: Any, of_instances: Any) -> Any:
        """The candidates' values out of those of all masks and all instances (arrays or lists alike)."""
        if isinstance(of_masks, np.ndarray):
            masks = of_masks[self.masks]
            return np.concatenate([masks, of_instances[: self.instances]]) if self.instances else masks
        return [of_masks[k] for k in self.masks] + list(of_instances[: self.instances] if self.instances else [])
