"""Metrics of reasoning segmentation, under names that cannot be mistaken for one another.

Different figures are called gIoU in the papers' tables and code: that of LISA and LLM-Seg is ``miou_per_sample``, that of ELISA
is computed with a convex hull. What stands next to a published row is the published metric, computed as released:
``miou_per_sample``, ``ciou`` and ``nciou`` are LISA's and LLM-Seg's, ``elisa_*`` are ELISA's; the others are ours. Protocols
have figures of their own (:mod:`stages.evaluate.protocol_figures`). Every metric is a ratio of sums over samples, so that one
bootstrap serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Sums = tuple[F64, F64]
"""Numerator and denominator of each sample, float64 [n] each; a sample that does not count has 0 and 0."""


def selection(chosen: Sequence[int], index: NDArray[np.int64], positive: NDArray[np.bool_]) -> Selection:
    """Precision, recall, F1 and accuracy of a choice ``chosen`` among the candidates ``index`` [n]. 0/0 is 0."""
    picked = np.isin(index, np.asarray(chosen, np.int64))
    tp, fp = int((picked & positive).sum()), int((picked & ~positive).sum())
    fn = int(positive.sum()) - tp
    return Selection(
        tp / max(1, tp + fp),
        tp / max(1, tp + fn),
        2 * tp / max(1, 2 * tp + fp + fn),
        (index.size - fp - fn) / max(1, index.size),
    )


def miou_per_sample(samples: Samples) -> Sums:
    """Mean of the samples' IoU: "gIoU" of LISA, GSVA and LLM-Seg. 0/0 is 1; an empty target with any prediction has 0."""
    return mean(samples.iou)


def ciou(samples: Samples) -> Sums:
    """All intersections over all unions."""
    return ratio(samples.intersection_px, samples.union_px)


def nciou(samples: Samples) -> Sums:
    """cIoU of masks resized to 1024 x 1024, so that all images have equal weight (LLM-Seg, ``training.py``)."""
    return ratio(samples.nc_intersection_px, samples.nc_union_px)


def giou_hull(samples: Samples) -> Sums:
    """Mean of IoU - (hull - union) / hull in pixels of the image (Rezatofighi et al., arXiv 1902.09630). 0/0 is 1."""
    return mean(samples.giou_hull)


def n_acc(samples: Samples) -> Sums:
    """Share of the empty targets whose predicted mask is empty (GRES, arXiv 2306.00968)."""
    return mean(np.where(samples.exists, np.nan, samples.empty))


def t_acc(samples: Samples) -> Sums:
    """Share of the existing targets whose predicted mask is not empty (GRES)."""
    return mean(np.where(samples.exists, 1 - samples.empty, np.nan))


def see(samples: Samples) -> Sums:
    """Share of the targets whose existence the mask gets right ("see" of SESAME, arXiv 2312.08366)."""
    return mean(np.where(samples.exists, 1 - samples.empty, samples.empty))


def said_rej(samples: Samples) -> Sums:
    """Share of the answers that said ``[REJ]``, whatever their mask is; left out if no answer is known to say it."""
    return mean(samples.rejected)


def precision(samples: Samples) -> Sums:
    """Macro mean over existing targets of tp / (tp + fp); a candidate is right by its IoU with an instance."""
    return mean(samples.precision)


def recall(samples: Samples) -> Sums:
    """Macro mean over existing targets of tp / (tp + fn)."""
    return mean(samples.recall)


def f1(samples: Samples) -> Sums:
    """Macro mean over existing targets of 2 tp / (2 tp + fp + fn)."""
    return mean(samples.f1)


def accuracy(samples: Samples) -> Sums:
    """Macro mean over existing targets of the share of candidates judged right."""
    return mean(samples.accuracy)


def elisa_precision(samples: Samples) -> Sums:
    """As released (``val_step``): among annotated instances and proposals, only the instances are right.

    Only existing targets that have both count; where no instances are candidates the figure does not exist.
    """
    return mean(samples.elisa_precision)


def elisa_recall(samples: Samples) -> Sums:
    """As :func:`elisa_precision`."""
    return mean(samples.elisa_recall)


def elisa_f1(samples: Samples) -> Sums:
    """As :func:`elisa_precision`."""
    return mean(samples.elisa_f1)


def elisa_accuracy(samples: Samples) -> Sums:
    """As :func:`elisa_precision`."""
    return mean(samples.elisa_accuracy)


def elisa_ciou(samples: Samples) -> Sums:
    """As released (``compute_IoU``): sums of areas at 1024 x 1024; misses and false alarms add nothing to either sum."""
    return ratio(samples.elisa_intersection, samples.elisa_union)


def elisa_giou(samples: Samples) -> Sums:
    """As released: mean of IoU - (hull - union) / hull at 1024 x 1024; 0 where one side is empty, or both are."""
    return mean(samples.elisa_giou)


def elisa_iou(samples: Samples) -> Sums:
    """As released: mean IoU at 1024 x 1024; 0 where one side is empty, or both are."""
    return mean(samples.elisa_iou)


METRICS: Mapping[str, Callable[[Samples], Sums]] = MappingProxyType(
    {
        metric.__name__: metric
        for metric in (
            *(miou_per_sample, ciou, nciou, giou_hull),
            *(n_acc, t_acc, see, said_rej),
            *(precision, recall, f1, accuracy),
            *(elisa_ciou, elisa_giou, elisa_iou, elisa_precision, elisa_recall, elisa_f1, elisa_accuracy),
        )
    }
)


def value(sums: Sums) -> float:
    """The metric; NaN where no sample counts."""
    numerator, denominator = (float(part.sum()) for part in sums)
    return numerator / denominator if denominator else float("nan")


def mean(values: F64) -> Sums:
    """Sums whose ratio is the mean of the values that are not NaN."""
    counts = ~np.isnan(values)
    return np.where(counts, values, 0.0), counts.astype(np.float64)


def ratio(part: F64, whole: F64) -> Sums:
    """Sums whose ratio is the sum of ``part`` over the sum of ``whole``, with NaN as 0."""
    return np.nan_to_num(part), np.nan_to_num(whole)


class Selection(NamedTuple):
    """How well candidates were chosen, each from 0 to 1."""

    precision: float
    recall: float
    f1: float
    accuracy: float


@dataclass(frozen=True)
class Samples:
    """One row per sample, each field [n]. float64 unless said otherwise; NaN where the system has no such figure.

    image_index: int64. exists, is_sentence: bool, of the target. empty: the predicted mask is empty; rejected: ``[REJ]`` was
    said; 0 or 1 each. area_px, instances, kind: the target's pixels, the number of its instances, and the place of its kind in
    ``Scores.kinds``. ref: number of an existing target; the absent targets after it in the image have the same number. The
    rest as in ``overlap.Overlap`` and ``Selection``; ``elisa_`` as in :mod:`stages.evaluate.released_elisa`, ``protocol_`` by
    the rule of a protocol (:mod:`stages.evaluate.protocol_rules`). An empty target has no selection.
    """

    image_index: NDArray[np.int64]
    exists: NDArray[np.bool_]
    is_sentence: NDArray[np.bool_]
    empty: F64
    rejected: F64
    intersection_px: F64
    union_px: F64
    nc_intersection_px: F64
    nc_union_px: F64
    iou: F64
    giou_hull: F64
    precision: F64
    recall: F64
    f1: F64
    accuracy: F64
    elisa_intersection: F64
    elisa_union: F64
    elisa_iou: F64
    elisa_giou: F64
    elisa_precision: F64
    elisa_recall: F64
    elisa_f1: F64
    elisa_accuracy: F64
    area_px: F64
    instances: F64
    kind: F64
    ref: F64
    protocol_exists: F64
    protocol_rejected: F64
    protocol_intersection_px: F64
    protocol_union_px: F64
    protocol_iou: F64
    protocol_nc_intersection_px: F64
    protocol_nc_union_px: F64

    def __len__(self) -> int:
        return len(self.image_index)

    def where(self, rows: NDArray[np.bool_]) -> Samples:
        """The samples for which ``rows`` is true."""
        return Samples(*(getattr(self, field.name)[rows] for field in fields(self)))
