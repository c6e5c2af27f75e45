"""How a protocol scores one answer: the pixels and judgements that its figures are made of.

Each rule gives the fields ``protocol_*`` of ``metrics.Samples``. The small numbers that the released codes add to divisors (1e-5 of
LISA, 1e-8 of LLM-Seg, 1e-10 in sums) are left out: they change no printed figure, and would make a full match less than 1.
"""

from __future__ import annotations

from stages.evaluate.cases import Question
from stages.evaluate.gsva import counts_false_alarms, gsva_figures
from stages.evaluate.shared_pixels import shared_pixels
from stages.predictions import Prediction
from store import rle

Row = dict[str, float]


def by_lisa(question: Question, prediction: Prediction, dataset: str) -> Row:
    """Ignored pixels are removed from both masks; 0/0 is 1. Also counted with both masks at 1024 x 1024, for LLM-Seg's ncIoU."""
    prediction.require_one_answer()
    target = question.target
    found = shared_pixels(
        target["segmentation"], mask_of(question, prediction), target["ignore"], question.height_px, question.width_px
    )
    resized = {
        "protocol_nc_intersection_px": float(found.nc_intersection_px),
        "protocol_nc_union_px": float(found.nc_union_px),
    }
    return {**_overlap(found.intersection_px, found.union_px, nothing=1.0), **resized}


def by_hub(question: Question, prediction: Prediction, dataset: str) -> Row:
    """Ignored pixels belong to the target, as in the hub's copies of ReasonSeg; 0/0 is 0."""
    prediction.require_one_answer()
    target, size = question.target, (question.height_px, question.width_px)
    truth = rle.union([target["segmentation"], target["ignore"]], *size)
    return _overlap(*_shared(truth, mask_of(question, prediction), size))


def by_refcoco(question: Question, prediction: Prediction, dataset: str) -> Row:
    """Ignored pixels, which these sets do not have, are removed from both masks; 0/0 is 0, as in LAVT's test."""
    prediction.require_one_answer()
    return _overlap(*_counted(question, mask_of(question, prediction)))


def by_gres(question: Question, prediction: Prediction, dataset: str) -> Row:
    """ReLA's ``ReferEvaluator``: an answer is a mask and, separately, whether it says that there is no such object.

    Where it is not known what the answer said, an empty mask counts as saying so.
    """
    guess = mask_of(question, prediction)
    rejected = prediction.is_empty if prediction.rejected is None else prediction.rejected
    common, union = _counted(question, guess)
    row = {"protocol_exists": float(not question.absent), "protocol_rejected": float(rejected)}
    if question.absent:
        return {
            **row,
            **_overlap(0, 0 if rejected else union),
            "protocol_iou": float(rejected),
        }
    return {**row, **_overlap(0 if rejected else common, union)}


def by_gsva(question: Question, prediction: Prediction, dataset: str) -> Row:
    """As :mod:`stages.evaluate.gsva`."""
    return gsva_figures(question, prediction, counts_false_alarms(dataset))


def by_sesame(question: Question, prediction: Prediction, dataset: str) -> Row:
    """SESAME's ``run_eval``: an absent target is an empty mask in the same sums; ignored pixels are background.

    An empty or missing mask says that there is no such object.
    """
    prediction.require_one_answer()
    size = question.height_px, question.width_px
    return {
        "protocol_exists": float(not question.absent),
        "protocol_rejected": float(prediction.is_empty),
        **_overlap(*_shared(question.target["segmentation"], mask_of(question, prediction), size)),
    }


def by_rris(question: Question, prediction: Prediction, dataset: str) -> Row:
    """RefSegformer's ``validate``: the overlap with an existing target, 0/0 is 0; for an absent one the area of a false alarm.

    A rejected answer has no mask, as with RefSegformer's ``use_exist``.
    """
    prediction.require_one_answer()
    common, union = _counted(question, mask_of(question, prediction))
    return {
        "protocol_exists": float(not question.absent),
        "protocol_rejected": float(prediction.is_empty),
        **_overlap(0 if question.absent else common, union),
    }


def mask_of(question: Question, prediction: Prediction) -> str:
    """COCO RLE counts of an answer's mask."""
    masks = [] if prediction.segmentation is None else [prediction.segmentation]
    return rle.union(masks, question.height_px, question.width_px)


def _counted(question: Question, guess: str) -> tuple[int, int]:
    """Intersection and union, px, without the ignored pixels."""
    target, size = question.target, (question.height_px, question.width_px)
    return _shared(rle.subtract(target["segmentation"], target["ignore"]), rle.subtract(guess, target["ignore"]), size)


def _shared(truth: str, guess: str, size: tuple[int, int]) -> tuple[int, int]:
    union = rle.area(rle.union([truth, guess], *size))
    return rle.area(truth) + rle.area(guess) - union, union


def _overlap(common: int, union: int, nothing: float = 0.0) -> Row:
    """The fields of an intersection and a union; ``nothing``: what 0/0 is."""
    return {
        "protocol_intersection_px": float(common),
        "protocol_union_px": float(union),
        "protocol_iou": common / union if union else nothing,
    }
