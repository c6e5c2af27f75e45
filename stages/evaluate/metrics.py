"""Metrics of reasoning segmentation, under names that cannot be mistaken for one another.

Three different figures are called gIoU in the papers' tables and code: LISA's and LLM-Seg's is ``miou_per_sample``, ELISA's
is ``giou_hull``. Every metric is a ratio of sums over samples, so that one bootstrap serves them all.
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
    """Precision, recall, F1 and accuracy of choosing ``chosen`` among the candidates ``index`` [n].

    0/0 is 0, so a target that no candidate fits counts as missed; ELISA leaves samples without candidates out.
    """
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
    return _mean(samples.iou)


def ciou(samples: Samples) -> Sums:
    """All intersections over all unions."""
    return _ratio(samples.intersection_px, samples.union_px)


def nciou(samples: Samples) -> Sums:
    """cIoU once every mask is resized to 1024 x 1024, so that images count alike (LLM-Seg, ``training.py``)."""
    return _ratio(samples.nc_intersection_px, samples.nc_union_px)


def giou_hull(samples: Samples) -> Sums:
    """Mean of IoU - (hull - union) / hull: "gIoU" of ELISA (Rezatofighi et al., arXiv 1902.09630). 0/0 is 1."""
    return _mean(samples.giou_hull)


def ciou_both_nonempty(samples: Samples) -> Sums:
    """cIoU of ELISA's code, where misses and false alarms are absent from the sums. Flatters; for its table alone."""
    both = samples.both_nonempty
    return _ratio(samples.intersection_px * both, samples.union_px * both)


def n_acc(samples: Samples) -> Sums:
    """Share of the empty targets that were rejected (GSVA, arXiv 2312.10103)."""
    return _mean(np.where(samples.exists, np.nan, samples.rejected))


def t_acc(samples: Samples) -> Sums:
    """Share of the existing targets that were not rejected (GSVA)."""
    return _mean(np.where(samples.exists, 1 - samples.rejected, np.nan))


def see(samples: Samples) -> Sums:
    """Share of the targets whose existence was judged right ("see" of SESAME, arXiv 2312.08366)."""
    return _mean(np.where(samples.exists, 1 - samples.rejected, samples.rejected))


def precision(samples: Samples) -> Sums:
    """Macro mean over existing targets, as ELISA's."""
    return _mean(samples.precision)


def recall(samples: Samples) -> Sums:
    """Macro mean over existing targets, as ELISA's."""
    return _mean(samples.recall)


def f1(samples: Samples) -> Sums:
    """Macro mean over existing targets of 2 tp / (2 tp + fp + fn), as ELISA's."""
    return _mean(samples.f1)


def accuracy(samples: Samples) -> Sums:
    """Macro mean over existing targets of the share of candidates judged right, as ELISA's."""
    return _mean(samples.accuracy)


METRICS: Mapping[str, Callable[[Samples], Sums]] = MappingProxyType(
    {
        metric.__name__: metric
        for metric in (
            *(miou_per_sample, ciou, nciou, giou_hull, ciou_both_nonempty),
            *(n_acc, t_acc, see),
            *(precision, recall, f1, accuracy),
        )
    }
)


def value(sums: Sums) -> float:
    """The metric; NaN where no sample counts."""
    numerator, denominator = (float(part.sum()) for part in sums)
    return numerator / denominator if denominator else float("nan")


def _mean(values: F64) -> Sums:
    counts = ~np.isnan(values)
    return np.where(counts, values, 0.0), counts.astype(np.float64)


def _ratio(part: F64, whole: F64) -> Sums:
    return np.nan_to_num(part), np.nan_to_num(whole)


class Selection(NamedTuple):
    """How well candidates were chosen, each from 0 to 1."""

    precision: float
    recall: float
    f1: float
    accuracy: float


@dataclass(frozen=True)
class Samples:
    """One row a sample, each field [n]. float64 unless said otherwise; NaN where the system has no such figure.

    image_index: int64. exists, is_sentence: bool, of the target. rejected: 0 or 1. The rest as in ``overlap.Overlap`` and
    ``Selection``; of an empty target there is no selection.
    """

    image_index: NDArray[np.int64]
    exists: NDArray[np.bool_]
    is_sentence: NDArray[np.bool_]
    rejected: F64
    intersection_px: F64
    union_px: F64
    nc_intersection_px: F64
    nc_union_px: F64
    both_nonempty: F64
    iou: F64
    giou_hull: F64
    precision: F64
    recall: F64
    f1: F64
    accuracy: F64

    def __len__(self) -> int:
        return len(self.image_index)

    def where(self, rows: NDArray[np.bool_]) -> Samples:
        """The samples in which ``rows`` is true."""
        return Samples(*(getattr(self, field.name)[rows] for field in fields(self)))
