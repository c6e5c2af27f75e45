"""Average recall of proposals, AR@K: how many instances are found when an image may keep K of its proposals.

COCO's definition (``pycocotools`` ``COCOeval``, boxes replaced by masks): proposals of an image, the best first, each take the
free instance they overlap most, if their IoU is the threshold or more; recall is averaged over the thresholds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from store import Split
from store.format.schema import OK
from store.overlap import against_instances

THRESHOLDS = np.linspace(0.5, 0.95, 10).astype(np.float32)
"""0.50:0.05:0.95, as float32 like the stored IoUs, so that an IoU equal to a threshold reaches it."""

ORDERS = MappingProxyType({"predicted_iou": "by predicted_iou", "area": "largest first"})
"""Order of the proposals -> its name in plots. The largest proposals are the ones that are embedded."""

NEVER = np.iinfo(np.int64).max


def found_at(iou: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many proposals must be kept so that each instance is found.

    Args:
        iou: of each proposal with each instance, [K, G], the best proposal first.

    Returns:
        int64 [T, G], from 1 to K for each of ``THRESHOLDS``; ``NEVER`` where no proposal finds it.
    """
    found = np.full((len(THRESHOLDS), iou.shape[1]), NEVER)
    for row, threshold in zip(found, THRESHOLDS, strict=True):
        for position in np.flatnonzero((iou >= threshold).any(axis=1)):
            free = np.where(row == NEVER, iou[position], -1)
            best = iou.shape[1] - 1 - int(np.argmax(free[::-1]))  # among equal IoUs COCOeval takes the last
            if free[best] >= threshold:
                row[best] = position + 1
    return found


def proposal_recall(split: Split) -> Recall:
    """AR@K of a split's proposals.

    Instances of an image without proposals, or whose masks failed, are not found; images whose annotation failed have none.
    IoUs are those of ``match/instances`` where that column is open, else they are computed.

    Args:
        split: with the columns ``images``, ``instances`` and ``masks``; with several proposers, one must be chosen.
    """
    found: dict[str, list[NDArray[np.int64]]] = {order: [] for order in ORDERS}
    most = without = 0
    for image_index, masks, instances in _images(split):
        count = len(instances["segmentation"])
        if masks["status"] != OK:
            without += count
            iou = np.empty((0, count), np.float32)
        else:
            iou = _iou(split, image_index, masks["segmentation"], instances["segmentation"])
        most = max(most, len(iou))
        best_first = np.argsort(-np.array((masks["predicted_iou"] or [])[: len(iou)], np.float64), kind="stable")
        found["predicted_iou"].append(found_at(iou[best_first]))
        found["area"].append(found_at(iou))
    joined = {
        order: np.concatenate([np.empty((len(THRESHOLDS), 0), np.int64), *each], 1) for order, each in found.items()
    }
    return Recall(
        joined["area"].shape[1], without, most, {order: _average(each, most) for order, each in joined.items()}
    )


def _images(split: Split) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    for record in split:
        masks, instances = (record.rows(name)[0] for name in ("masks", "instances"))
        if instances["status"] == OK:
            yield record.image_index, masks, instances


def _iou(split: Split, image_index: int, masks: list[str], instances: list[str]) -> NDArray[np.float32]:
    if not split.has("match/instances"):
        return against_instances(masks, instances)[0]
    stored = split[image_index].rows("match/instances")[0]["iou"]
    return np.array(stored, np.float32).reshape(len(masks), len(instances))


def _average(found: NDArray[np.int64], most: int) -> NDArray[np.float64]:
    """AR@1 to AR@most, [most], from :func:`found_at` of all images, [T, instances]."""
    if not found.size:
        return np.full(most, np.nan)
    kept = np.bincount(np.minimum(found, most + 1).ravel(), minlength=most + 2)[1 : most + 1]
    average: NDArray[np.float64] = np.cumsum(kept) / found.size
    return average


@dataclass(frozen=True)
class Recall:
    """AR@K of a split.

    instances: how many there are. without: how many of them are in images whose masks failed; they count as not found. most:
    the largest number of proposals of an image. average: AR@1 to AR@most for each of ``ORDERS``, float64 [most]; NaN where
    there are no instances.
    """

    instances: int
    without: int
    most: int
    average: dict[str, NDArray[np.float64]]

    def at(self, order: str, kept: int) -> float:
        """AR@kept; an image that has fewer proposals keeps them all."""
        if not self.instances:
            return float("nan")
        return float(self.average[order][min(kept, self.most) - 1]) if self.most else 0.0
