"""IoU and IoP of masks, from their run lengths.

IoP = |P and G| / |P|, the share of the proposal P that lies in the ground truth G (LLM-Seg, arXiv 2404.08767,
section 3). 0/0 is 0 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import rle

Values = NDArray[np.float32]


def against_targets(masks: Sequence[str], segmentation: str, ignore: str) -> tuple[Values, Values, Values, Values]:
    """Compare K masks with a target: ``(iou, iop, iou_valid, iop_valid)``, each float32 [K].

    All three are COCO RLE counts of one image. In ``iou`` and ``iop`` ignored pixels count as background, as
    in LLM-Seg's training targets; in ``iou_valid`` and ``iop_valid`` they are removed from mask and target
    first, as in LISA's metric (``dvlab-research/LISA``, ``utils/utils.py``). Raises ``store.errors.RleError``
    on malformed counts.
    """
    valid = rle.subtract(segmentation, ignore)
    common, ignored, common_valid = rle.intersections(masks, [segmentation, ignore, valid]).T
    area = _areas(masks)
    iou, iop = _ratios(common, area, rle.area(segmentation))
    iou_valid, iop_valid = _ratios(common_valid, area - ignored, rle.area(valid))
    return iou, iop, iou_valid, iop_valid


def against_instances(masks: Sequence[str], instances: Sequence[str]) -> tuple[Values, Values]:
    """Compare K masks with G instances of the same image: ``(iou, iop)``, each float32 [K, G].

    Both are COCO RLE counts. Raises ``store.errors.RleError`` on malformed counts.
    """
    return _ratios(rle.intersections(masks, instances), _areas(masks)[:, None], _areas(instances))


def among_instances(instances: Sequence[str]) -> tuple[Values, Values]:
    """:func:`against_instances` of G instances with themselves, ``(iou, iop)`` float32 [G, G]; each is read once."""
    common = rle.intersections(instances, instances)
    return _ratios(common, common.diagonal()[:, None], common.diagonal())


def _areas(masks: Sequence[str]) -> NDArray[np.int64]:
    return np.array([rle.area(counts) for counts in masks], np.int64)


def _ratios(
    common: NDArray[np.int64], area: NDArray[np.int64], truth: NDArray[np.int64] | int
) -> tuple[Values, Values]:
    return _divide(common, area + truth - common), _divide(common, np.broadcast_to(area, common.shape))


def _divide(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Values:
    # The parts of an empty whole are empty: 0 / 1.
    return (part / np.maximum(whole, 1)).astype(np.float32)
