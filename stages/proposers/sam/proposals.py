"""SAM's proposals of an image as the store keeps them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam

from stages.fields import Precision
from stages.proposers import Found, Memo
from stages.proposers.params import SamParams
from stages.proposers.sam import SAM_MODELS, generator
from stages.proposers.sam.encoder import ImageEncoder
from stages.proposers.sam.generator import POINTS_PER_BATCH, AutomaticMaskGenerator, Proposals
from stages.proposers.sam.model import build_sam
from store import rle

Pixels = npt.NDArray[np.uint8]
_OURS = {"kind", "model", "max_side_px", "precision"}


@dataclass(frozen=True)
class Prepared:
    """A prepared image: (height, width) px, RGB at the size SAM works at, and the input of SAM's encoder."""

    size: tuple[int, ...]
    small: Pixels
    pixels: torch.Tensor


Prepare = Callable[[Pixels], Prepared]


def build(
    params: SamParams, paths: Mapping[str, Path], device: str, points_per_batch: int | None, shared: Memo
) -> MaskGenerator:
    """A :class:`stages.proposers.Proposer`."""
    sam = _loaded(params.model, paths, device, shared)
    made = MaskGenerator(params, sam, points_per_batch or POINTS_PER_BATCH)
    made.prepare = shared.setdefault(("prepare", params.model, params.max_side_px), made.prepare)
    return made


def _loaded(model: str, paths: Mapping[str, Path], device: str, shared: Memo) -> Sam:
    if ("sam", model) not in shared:
        shared["sam", model] = build_sam(model, paths[SAM_MODELS[model].weights], device)
    sam: Sam = shared["sam", model]
    return sam


class MaskGenerator:
    """SAM's proposals of an image, in the frame of the image; a :class:`stages.proposers.Proposer`.

    Args:
        params: every option that this file does not use goes to :class:`AutomaticMaskGenerator` under its own name.
        sam: the model, which several may share.
        points_per_batch: prompts decoded together.
    """

    def __init__(self, params: SamParams, sam: Sam, points_per_batch: int) -> None:
        self.params = params
        self.generator = AutomaticMaskGenerator(
            sam,
            points_per_batch=points_per_batch,
            output_mode="coco_rle",
            dtype=getattr(torch, params.precision),
            **params.model_dump(exclude=_OURS),
        )
        self.prepare: Prepare = partial(_prepared, self.generator.images, params.max_side_px)

    def propose(self, images: Sequence[Prepared], memo: Memo) -> Iterator[Found]:
        """Segment everything; SAM's encoder sees the images together."""
        embeddings = _embeddings(self.generator.images, self.params.model, self.params.precision, images, memo)
        for image, embedding in zip(images, embeddings, strict=True):
            proposals, trouble = None, None
            try:
                proposals = self.generator.propose(image.small, embedding)
            except FloatingPointError as error:
                trouble = str(error)
            yield Found(partial(self._records, image, proposals), trouble)

    def _records(self, image: Prepared, proposals: Proposals | None) -> list[dict[str, Any]]:
        found = self.generator.records(proposals) if proposals is not None else []
        found = [{**record, "segmentation": record["segmentation"]["counts"]} for record in found]
        if image.small.shape[:2] != image.size:
            found = [_enlarge(record, image.small.shape[:2], image.size) for record in found]
        return found


class Features:
    """SAM's embeddings of whole images, shared by proposers of the same model and precision.

    Args:
        model, precision: name of the SAM, and of its encoder's matrices.
        paths, shared: as for :func:`build`.
    """

    def __init__(self, model: str, precision: Precision, paths: Mapping[str, Path], device: str, shared: Memo) -> None:
        self.model, self.precision = model, precision
        sam = _loaded(model, paths, device, shared)
        self.images = ImageEncoder(sam, getattr(torch, precision), generator.IMAGES_PER_BATCH[sam.device.type])
        self.prepare: Prepare = shared.setdefault(("prepare", model, 0), partial(_prepared, self.images, 0))

    def __call__(self, images: Sequence[Prepared], memo: Memo) -> list[npt.NDArray[np.float32]]:
        """Float32 [C, h, w] of each image; ``memo`` as for a proposer."""
        found = _embeddings(self.images, self.model, self.precision, images, memo)
        return [embedding.cpu().numpy() for embedding in found]


def _prepared(images: ImageEncoder, max_side_px: int, image: Pixels) -> Prepared:
    """Uint8 [H, W, 3] RGB at the sizes that SAM works at; another thread may do it while a GPU is at work."""
    small = reduced(image, max_side_px)
    return Prepared(image.shape[:2], small, images.prepare(small))


def _embeddings(
    images: ImageEncoder, model: str, precision: str, prepared: Sequence[Prepared], memo: Memo
) -> torch.Tensor:
    """SAM's embeddings of the images at the sizes it works at, computed once for all callers with this ``memo``."""
    key = (model, precision, *(id(each.small) for each in prepared))
    if prepared and key not in memo:
        memo[key] = images.encode([each.pixels for each in prepared])
    found: torch.Tensor = memo[key] if prepared else torch.empty(0)
    return found


def reduced(image: Pixels, max_side_px: int) -> Pixels:
    """The image at a longest side of at most ``max_side_px`` (0: no limit), by INTER_AREA as LLM-Seg does it.

    The size is int(side * scale) (wangjunchi/LLMSeg). Masks are enlarged again by nearest neighbour, points and boxes by the
    same factors.
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
