"""What a protocol prints: figures of the fields ``protocol_*`` of samples, ratios of sums as in :mod:`stages.evaluate.metrics`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from stages.evaluate.metrics import F64, Samples, Sums, mean, ratio
from stages.evaluate.protocols import PROTOCOLS

Figure = Callable[[Samples], Sums]


def figures_of(protocol: str) -> dict[str, Figure]:
    """The figures of a protocol in its order, under names that start with the protocol's, such as ``gres_giou``."""
    return {f"{protocol}_{name}": FIGURES[name][1] for name in PROTOCOLS[protocol].figures}


def headings() -> dict[str, str]:
    """Name as in :func:`figures_of` -> heading of its column, of all protocols."""
    return {f"{name}_{one}": FIGURES[one][0] for name, protocol in PROTOCOLS.items() for one in protocol.figures}


def mean_iou(samples: Samples) -> Sums:
    """Mean of the samples' IoU."""
    return mean(samples.protocol_iou)


def overall_iou(samples: Samples) -> Sums:
    """All intersections over all unions."""
    return ratio(samples.protocol_intersection_px, samples.protocol_union_px)


def resized_iou(samples: Samples) -> Sums:
    """All intersections over all unions, of masks at 1024 x 1024."""
    return ratio(samples.protocol_nc_intersection_px, samples.protocol_nc_union_px)


def share_above(threshold: float, samples: Samples) -> Sums:
    """Share of the samples whose IoU is at least this."""
    return mean(_at_least(samples.protocol_iou, threshold))


def existing_above(threshold: float, samples: Samples) -> Sums:
    """Share of the existing targets whose IoU is at least this."""
    return mean(np.where(samples.protocol_exists == 1, _at_least(samples.protocol_iou, threshold), np.nan))


def n_acc(samples: Samples) -> Sums:
    """Share of the absent targets whose answer says that they are absent."""
    return mean(np.where(samples.protocol_exists == 0, samples.protocol_rejected, np.nan))


def t_acc(samples: Samples) -> Sums:
    """Share of the existing targets whose answer does not say that they are absent."""
    return mean(np.where(samples.protocol_exists == 1, 1 - samples.protocol_rejected, np.nan))


def see(samples: Samples) -> Sums:
    """Share of the targets whose existence is judged right."""
    right = np.where(samples.protocol_exists == 1, 1 - samples.protocol_rejected, samples.protocol_rejected)
    return mean(np.where(np.isnan(samples.protocol_exists), np.nan, right))


def overall_iou_of_existing(samples: Samples) -> Sums:
    """All intersections over all unions of the existing targets."""
    exists = samples.protocol_exists == 1
    return ratio(np.where(exists, samples.protocol_intersection_px, 0), np.where(exists, samples.protocol_union_px, 0))


def mean_iou_of_refs(samples: Samples) -> Sums:
    """Mean over refs of the mean IoU of their existing targets' sentences."""
    return _mean_of_means(samples, np.where(samples.protocol_exists == 1, samples.protocol_iou, np.nan))


def robustness(samples: Samples) -> Sums:
    """r: mean over refs of the share of their absent sentences without a false alarm; refs without such sentences are left out."""
    return _mean_of_means(samples, np.where(samples.protocol_exists == 0, samples.protocol_rejected, np.nan))


def robust_iou(samples: Samples) -> Sums:
    """rIoU: mean over refs of the intersections over the unions and false alarms; refs without a pixel of these are left out."""
    counts = ~np.isnan(samples.protocol_exists)
    _, first, member = np.unique(samples.ref, return_index=True, return_inverse=True)
    common, union = (
        np.bincount(member, np.where(counts, part, 0), len(first))
        for part in (samples.protocol_intersection_px, samples.protocol_union_px)
    )
    numerator, denominator = np.zeros(len(samples)), np.zeros(len(samples))
    numerator[first] = common / np.maximum(1, union)
    denominator[first] = union > 0
    return numerator, denominator


FIGURES: Mapping[str, tuple[str, Figure]] = MappingProxyType(
    {
        "giou": ("gIoU", mean_iou),
        "ciou": ("cIoU", overall_iou),
        "nciou": ("ncIoU", resized_iou),
        "miou": ("mIoU", mean_iou),
        **{f"p{number}": (f"P@0.{number}", partial(share_above, number / 10)) for number in (5, 6, 7, 8, 9)},
        **{f"pr{number}": (f"Pr@0.{number}", partial(existing_above, number / 10)) for number in (7, 8, 9)},
        "n_acc": ("N-acc", n_acc),
        "t_acc": ("T-acc", t_acc),
        "see": ("See", see),
        "ref_miou": ("mIoU", mean_iou_of_refs),
        "ref_oiou": ("oIoU", overall_iou_of_existing),
        "r": ("r", robustness),
        "riou": ("rIoU", robust_iou),
    }
)
"""Name -> heading of its column, and the figure."""


def _at_least(iou: F64, threshold: float) -> F64:
    return np.where(np.isnan(iou), np.nan, (iou >= threshold).astype(np.float64))


def _mean_of_means(samples: Samples, values: F64) -> Sums:
    """The mean over refs of the mean of their values that are not NaN."""
    counts = ~np.isnan(values)
    member: NDArray[np.intp] = np.unique(samples.ref, return_inverse=True)[1]
    size = np.bincount(member, counts)[member] if len(values) else np.zeros(0)
    weight = np.where(counts, 1 / np.maximum(1, size), 0.0)
    return np.where(counts, values, 0.0) * weight, weight
