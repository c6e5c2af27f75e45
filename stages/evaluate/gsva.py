"""Protocol ``gsva``: answers scored as GSVA's released ``eval_gres`` does (LeapLabTHU/GSVA, ``solver.py``).

An answer is a mask and, separately, whether ``[REJ]`` was said: GSVA makes a mask for every question, also for rejected ones.

| target | ``[REJ]`` | IoU | into the sums of cIoU |
|---|---|---|---|
| empty | said | 1 | nothing |
| empty | not said | 0, whatever the mask | on gRefCOCO the mask's area into the unions; elsewhere nothing |
| exists | said or not | of the masks | intersection and union of the masks |

A target is empty when its mask has no pixel. Masks are at the image's size and binary. Ignored pixels, which GSVA's sets do not
have, are removed from both masks, as GSVA's counting function does. GSVA's epsilons (1e-8 and 1e-10 in divisors, 1e-5 in the
count) are left out.
"""

from __future__ import annotations

from stages.evaluate.cases import Question
from stages.predictions import Prediction, PredictionError
from store import rle

PROTOCOL = "gsva"
"""Its name."""


def counts_false_alarms(dataset: str) -> bool:
    """Whether the area of a false alarm is added to the unions.

    It is for gRefCOCO. Names are compared without case, ``-``, ``_`` and spaces.
    """
    return "".join(letter for letter in dataset.lower() if letter.isalnum()).startswith("grefcoco")


def gsva_figures(question: Question, prediction: Prediction, false_alarms: bool) -> dict[str, float]:
    """The fields ``protocol_*`` of ``metrics.Samples``. ``false_alarms``: what :func:`counts_false_alarms` says.

    Raises:
        PredictionError: it is not known whether ``[REJ]`` was said.
        store.errors.RleError: the mask is malformed or of another size.
    """
    if prediction.rejected is None:
        raise PredictionError(
            f"{prediction.target_id}: it is not known whether [REJ] was said, which --protocol gsva goes by; expected the key "
            "rejected, true or false, in every entry of a .json or .jsonl file"
        )
    size = question.height_px, question.width_px
    guess = rle.union([] if prediction.segmentation is None else [prediction.segmentation], *size)
    truth, guess = (rle.subtract(mask, question.target["ignore"]) for mask in (question.target["segmentation"], guess))
    exists = rle.area(question.target["segmentation"]) > 0
    if exists:
        union = rle.area(rle.union([truth, guess], *size))
        common = rle.area(truth) + rle.area(guess) - union
        iou = common / max(1, union)
    else:
        common, iou = 0, float(prediction.rejected)
        union = rle.area(guess) if false_alarms and not prediction.rejected else 0
    return {
        "protocol_exists": float(exists),
        "protocol_rejected": float(prediction.rejected),
        "protocol_intersection_px": float(common),
        "protocol_union_px": float(union),
        "protocol_iou": iou,
    }
