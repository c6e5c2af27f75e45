"""Turns boxes into masks by SAM's box prompt, as wangjunchi/LLMSeg made the masks of EgoObjects, which has only boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import SamPredictor

from stages.proposers.sam.model import build_sam

AT_ONCE = 64
"""Boxes that are decoded together."""


class BoxPrompts:
    """A SAM that segments what is in boxes (``SamPredictor`` with one mask per box).

    Args:
        model: name of a SAM model. path: its checkpoint, checked.
    """

    def __init__(self, model: str, path: Path, device: str) -> None:
        self._predictor = SamPredictor(build_sam(model, path, device))

    @torch.no_grad()
    def masks(
        self, image: npt.NDArray[np.uint8], boxes: Sequence[Sequence[float]]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """The mask in each box, bool [N, H, W], and SAM's own estimate of its IoU, float32 [N].

        Args:
            image: RGB, uint8 [H, W, 3]. boxes: XYWH px.
        """
        predictor = self._predictor
        predictor.set_image(image)
        corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], np.float32).reshape(-1, 4)
        masks = np.zeros((len(corners), *image.shape[:2]), bool)
        scores = np.zeros(len(corners), np.float32)
        for first in range(0, len(corners), AT_ONCE):
            some = torch.as_tensor(corners[first : first + AT_ONCE], device=predictor.device)
            asked = predictor.transform.apply_boxes_torch(some, image.shape[:2])
            found, quality, _ = predictor.predict_torch(None, None, boxes=asked, multimask_output=False)
            masks[first : first + AT_ONCE] = found[:, 0].cpu().numpy()
            scores[first : first + AT_ONCE] = quality[:, 0].float().cpu().numpy()
        return masks, scores
