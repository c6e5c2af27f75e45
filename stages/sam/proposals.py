"""SAM's proposals of an image as the store keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from stages.params import MasksParams
from stages.sam.generator import AutomaticMaskGenerator
from stages.sam.model import build_sam
from store import rle

Pixels = npt.NDArray[np.uint8]
_OURS = {"model", "max_masks", "max_side_px", "save_features", "precision"}


class MaskGenerator:
    """SAM's proposals of an image, in the frame of the image, and SAM's image embedding.

    Args:
        params: section ``masks``; every other field goes to :class:`AutomaticMaskGenerator` under its own name.
        path: the checkpoint.
        points_per_batch: prompts decoded together; None: as many as suit the device.
    """

    def __init__(self, params: MasksParams, path: Path, device: str, points_per_batch: int | None) -> None:
        self.params = params
        self.sam = build_sam(params.model, path, device)
        options = params.model_dump(exclude=_OURS)
        self.generator = AutomaticMaskGenerator(
            self.sam,
            points_per_batch=points_per_batch,
            output_mode="coco_rle",
            dtype=getattr(torch, params.precision),
            **options,
        )

    def __call__(
        self, image: Pixels, want_records: bool = True
    ) -> tuple[Callable[[], list[dict[str, Any]]], npt.NDArray[np.float32]]:
        """Segment everything.

        Args:
            image: uint8 [H, W, 3] RGB.
            want_records: False runs the image encoder alone.

        Returns:
            A function that gives SAM's records with ``segmentation`` as COCO RLE counts (str), largest area first, ties in
            the generator's order, everything in px of ``image`` (it runs no network: call it in another thread while the
            next image is at work); and the embedding float32 [C, h, w] of the image at the size SAM worked at.
        """
        small = reduced(image, self.params.max_side_px)
        embedding = self.generator.encode([small])[0]
        if not want_records:
            return list, embedding.cpu().numpy()
        proposals = self.generator.propose(small, embedding)

        def records() -> list[dict[str, Any]]:
            found = self.generator.records(proposals)
            found = [{**record, "segmentation": record["segmentation"]["counts"]} for record in found]
            if small is not image:
                found = [_enlarge(record, small.shape[:2], image.shape[:2]) for record in found]
            return sorted(found, key=lambda record: -record["area"])

        return records, embedding.cpu().numpy()


def reduced(image: Pixels, max_side_px: int) -> Pixels:
    """The image at a longest side of at most ``max_side_px`` (0: no limit), by INTER_AREA as LLM-Seg does it.

    The size is int(side * scale) (wangjunchi/LLMSeg). The masks come back by nearest neighbour, points and boxes by the same
    factors.
    """
    height, width = image.shape[:2]
    scale = max_side_px / max(height, width) if max_side_px else 1.0
    if scale >= 1.0:
        return image
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _enlarge(record: dict[str, Any], small: tuple[int, ...], full: tuple[int, int]) -> dict[str, Any]:
    """A record in the frame of the full image."""
    height, width = full
    mask = rle.decode(record["segmentation"], *small[:2]).astype(np.uint8)
    counts = rle.encode(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool))
    left, top, wide, tall = rle.bbox(counts, height)
    x_scale, y_scale = width / small[1], height / small[0]
    x, y, w, h = record["crop_box"]
    crop_left, crop_top = round(x * x_scale), round(y * y_scale)
    return {
        **record,
        "segmentation": counts,
        "bbox": [left, top, max(wide - 1, 0), max(tall - 1, 0)],  # SAM's: from the first to the last pixel
        "area": rle.area(counts),
        "point_coords": [[px * x_scale, py * y_scale] for px, py in record["point_coords"]],
        "crop_box": [
            crop_left,
            crop_top,
            round((x + w) * x_scale) - crop_left,
            round((y + h) * y_scale) - crop_top,
        ],
    }
