"""SAM's proposals of an image as the store keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from stages.params import MasksParams
from stages.proposers.sam.generator import AutomaticMaskGenerator, Proposals
from stages.proposers.sam.model import build_sam
from store import rle

Pixels = npt.NDArray[np.uint8]
_OURS = {"model", "max_side_px", "save_features", "precision"}


@dataclass(frozen=True)
class Prepared:
    """An image on its way: (height, width) px, RGB at the size SAM works at, and that as SAM's encoder takes it."""

    size: tuple[int, ...]
    small: Pixels
    pixels: torch.Tensor


@dataclass(frozen=True)
class Found:
    """What SAM makes of an image.

    Args:
        records: gives SAM's records with ``segmentation`` as COCO RLE counts (str), largest area first, ties in the generator's
            order, everything in px of the image. It runs no network: call it in another thread while the next image is at work.
        embedding: float32 [C, h, w] of the image at the size SAM worked at.
        trouble: why there are no records, where SAM's predictions are no numbers.
    """

    records: Callable[[], list[dict[str, Any]]]
    embedding: npt.NDArray[np.float32]
    trouble: str | None = None


class MaskGenerator:
    """SAM's proposals of an image, in the frame of the image, and SAM's image embedding.

    Args:
        params: section ``masks``; every other field goes to :class:`AutomaticMaskGenerator` under its own name.
        path: the checkpoint.
        points_per_batch: prompts decoded together.
    """

    def __init__(self, params: MasksParams, path: Path, device: str, points_per_batch: int) -> None:
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

    def prepare(self, image: Pixels) -> Prepared:
        """Bring uint8 [H, W, 3] RGB to the sizes that SAM works at; another thread may do it while a GPU is at work."""
        small = reduced(image, self.params.max_side_px)
        return Prepared(image.shape[:2], small, self.generator.prepare(small))

    def __call__(self, images: Sequence[Prepared], want_records: bool = True) -> Iterator[Found]:
        """Segment everything, in the order of the images, which SAM's encoder sees together.

        Args:
            want_records: False runs the image encoder alone.
        """
        for image, embedding in zip(images, self.generator.encode([each.pixels for each in images]), strict=True):
            proposals, trouble = None, None
            try:
                proposals = self.generator.propose(image.small, embedding) if want_records else None
            except FloatingPointError as error:
                trouble = str(error)
            yield Found(partial(self._records, image, proposals), embedding.cpu().numpy(), trouble)

    def _records(self, image: Prepared, proposals: Proposals | None) -> list[dict[str, Any]]:
        found = self.generator.records(proposals) if proposals is not None else []
        found = [{**record, "segmentation": record["segmentation"]["counts"]} for record in found]
        if image.small.shape[:2] != image.size:
            found = [_enlarge(record, image.small.shape[:2], image.size) for record in found]
        return sorted(found, key=lambda record: -record["area"])


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


def _enlarge(record: dict[str, Any], small: tuple[int, ...], full: tuple[int, ...]) -> dict[str, Any]:
    """A record in the frame of the full image."""
    height, width = full
    mask = rle.decode(record["segmentation"], *small[:2]).astype(np.uint8)
    counts = rle.encode(cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool))
    x_scale, y_scale = width / small[1], height / small[0]
    x, y, w, h = record["crop_box"]
    crop_left, crop_top = round(x * x_scale), round(y * y_scale)
    return {
        **record,
        "segmentation": counts,
        "bbox": rle.sam_bbox(rle.bbox(counts, height)).tolist(),
        "area": rle.area(counts),
        "point_coords": [[px * x_scale, py * y_scale] for px, py in record["point_coords"]],
        "crop_box": [
            crop_left,
            crop_top,
            round((x + w) * x_scale) - crop_left,
            round((y + h) * y_scale) - crop_top,
        ],
    }
