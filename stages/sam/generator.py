"""Everything mode: a drop-in for ``segment_anything.SamAutomaticMaskGenerator`` that does the same work with less of it.

What is different is the order: candidates are filtered by their predicted IoU before any mask exists, scores and boxes come
from the low-resolution logits, and only what non-maximum suppression leaves is brought to the image's size and encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import (
    build_all_layer_point_grids,
    generate_crop_boxes,
    is_box_near_crop_edge,
    remove_small_regions,
)
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torchvision.ops.boxes import batched_nms, box_area

from stages.sam import postprocess
from stages.sam.batches import BatchSize, suited_points
from stages.sam.decoder import MASKS, ImageTokens, PointDecoder
from stages.sam.encoder import FastEncoder
from stages.sam.postprocess import Frame
from store import rle

Pixels = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")


@dataclass
class Candidates:
    """Masks of one crop or of all, in the reference's order: point by point, the three masks of a point together.

    logits float32 [n, L, L] (empty once ``runs`` is there), iou_preds and stability_score float32 [n], boxes int64 [n, 4]
    XYXY px, points float64 [n, 2] px, crop_boxes int64 [n, 4] XYXY px, runs: lengths in the frame of the image.
    """

    runs: list[I64]
    logits: Tensor
    iou_preds: Tensor
    stability_score: Tensor
    boxes: Tensor
    points: Tensor
    crop_boxes: Tensor

    def __getitem__(self, keep: Tensor) -> Candidates:
        numbers = torch.arange(len(self.boxes))[keep].tolist() if self.runs else []
        return Candidates([self.runs[k] for k in numbers], **{name: getattr(self, name)[keep] for name in _TENSORS})


_TENSORS = ("logits", "iou_preds", "stability_score", "boxes", "points", "crop_boxes")


class AutomaticMaskGenerator:
    """Arguments, records and their order are those of ``SamAutomaticMaskGenerator``.

    Args:
        points_per_batch: prompts decoded together; None: as many as suit the device. It changes memory and speed.
        dtype: float32 is the official arithmetic but for rounding; float16 or bfloat16 compute the image tokens in 16 bit.
    """

    def __init__(
        self,
        model: Sam,
        points_per_side: int | None = 32,
        points_per_batch: int | None = None,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[npt.NDArray[np.float64]] | None = None,
        min_mask_region_area: int = 0,
        output_mode: str = "binary_mask",
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if (points_per_side is None) == (point_grids is None):
            raise ValueError("found both or neither of points_per_side and point_grids, expected exactly one")
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f"found output_mode={output_mode!r}, expected one of {', '.join(OUTPUT_MODES)}")
        if points_per_side is not None:
            point_grids = build_all_layer_point_grids(points_per_side, crop_n_layers, crop_n_points_downscale_factor)
        self.point_grids = list(point_grids or [])
        self.model = model
        self.encoder = FastEncoder(model.image_encoder, dtype)
        with torch.no_grad():
            self.decoder = PointDecoder(model, dtype)
        self.transform = ResizeLongestSide(model.image_encoder.img_size)
        self.points_per_batch = BatchSize(points_per_batch or suited_points(model.device, self.decoder.prompt_bytes))
        self.images_per_batch = BatchSize(4 if model.device.type == "cuda" else 1)
        self.pred_iou_thresh, self.stability_score_thresh = pred_iou_thresh, stability_score_thresh
        self.stability_score_offset, self.box_nms_thresh = stability_score_offset, box_nms_thresh
        self.crop_n_layers, self.crop_nms_thresh = crop_n_layers, crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area, self.output_mode = min_mask_region_area, output_mode

    @torch.inference_mode()
    def generate(self, image: Pixels, embedding: Tensor | None = None) -> list[dict[str, Any]]:
        """Masks of an image.

        Args:
            image: uint8 [H, W, 3] RGB.
            embedding: float [C, h, w], what :meth:`encode` makes of the whole image, if it is at hand.

        Returns:
            The reference's records: ``segmentation`` by ``output_mode``, ``area`` px, ``bbox`` and ``crop_box`` XYWH px,
            ``predicted_iou``, ``point_coords``, ``stability_score``.
        """
        found = self._all_crops(image, embedding)
        if self.min_mask_region_area > 0:
            found = self._without_small_regions(found, image.shape[:2])
        return [self._record(found, k, image.shape[:2]) for k in range(len(found.boxes))]

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels]) -> Tensor:
        """SAM's embeddings of images of any sizes, float32 [n, C, h, w]."""
        inputs = [torch.as_tensor(self.transform.apply_image(image), device=self.model.device) for image in images]
        batch = torch.stack([self.model.preprocess(pixels.permute(2, 0, 1)) for pixels in inputs])
        return torch.cat(self.images_per_batch.over(len(batch), lambda part: self.encoder(batch[part])))

    def _all_crops(self, image: Pixels, embedding: Tensor | None) -> Candidates:
        size: tuple[int, int] = image.shape[0], image.shape[1]
        crop_boxes, layers = generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        later = crop_boxes if embedding is None else crop_boxes[1:]
        cuts = [np.ascontiguousarray(image[top:bottom, left:right]) for left, top, right, bottom in later]
        embeddings = [] if embedding is None else [embedding]
        embeddings += list(self.encode(cuts)) if cuts else []
        found = [
            self._crop(made, self._frame(crop, size), self.point_grids[layer])
            for made, crop, layer in zip(embeddings, crop_boxes, layers, strict=True)
        ]
        together = _together(found)
        if len(crop_boxes) == 1:
            return together
        scores = 1 / box_area(together.crop_boxes)  # masks of smaller crops are preferred
        return together[_suppress(together.boxes, scores, self.crop_nms_thresh)]

    def _frame(self, crop: Sequence[int], size: tuple[int, int]) -> Frame:
        left, top, right, bottom = crop
        square = self.model.image_encoder.img_size
        used = self.transform.get_preprocess_shape(bottom - top, right - left, square)
        return Frame(4 * self.decoder.grid[0], square, used, (left, top, right, bottom), size)

    def _crop(self, embedding: Tensor, frame: Frame, grid: npt.NDArray[np.float64]) -> Candidates:
        """The masks that one crop is left with, with boxes, points and runs in the frame of the image."""
        points = grid * np.array(frame.size)[None, ::-1]
        prompts = torch.as_tensor(self.transform.apply_coords(points, frame.size), device=self.model.device)
        shared = self.decoder.image(embedding.to(self.model.device))
        origins = torch.as_tensor(points)
        parts = self.points_per_batch.over(
            len(points), lambda part: self._batch(shared, prompts[part], origins[part], frame)
        )
        found = _together(parts)
        found = found[_suppress(found.boxes, found.iou_preds, self.box_nms_thresh)]
        found.runs = postprocess.runs(found.logits, frame, self.model.mask_threshold)
        left, top, _, _ = frame.crop
        found.boxes = found.boxes + torch.tensor([left, top, left, top])
        found.points = found.points + torch.tensor([left, top])
        found.crop_boxes = torch.tensor([frame.crop]).expand(len(found.boxes), 4)
        found.logits = found.logits[:, :0]
        return found

    def _batch(self, shared: ImageTokens, prompts: Tensor, points: Tensor, frame: Frame) -> Candidates:
        """Candidates of some points that pass all filters, in the frame of the crop."""
        iou, logits, kept = self._decode(shared, prompts)
        points = points.repeat_interleave(MASKS, dim=0)[kept]
        score, boxes = postprocess.measure(logits, frame, self.model.mask_threshold, self.stability_score_offset)
        keep = torch.ones(len(boxes), dtype=torch.bool)
        if self.stability_score_thresh > 0.0:
            keep &= score >= self.stability_score_thresh
        height, width = frame.image
        keep &= ~is_box_near_crop_edge(boxes, list(frame.crop), [0, 0, width, height])
        return Candidates([], logits[keep], iou[keep], score[keep], boxes[keep], points[keep], boxes[keep])

    def _decode(self, shared: ImageTokens, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted IoU [n], logits [n, L, L] and candidate numbers [n] of those that pass ``pred_iou_thresh``."""
        decoded = self.decoder.decode(shared, prompts)
        passed = (
            decoded.iou > self.pred_iou_thresh if self.pred_iou_thresh > 0.0 else torch.ones_like(decoded.iou).bool()
        )
        rows = passed.any(dim=1).nonzero()[:, 0]
        logits = self.decoder.masks(decoded, None if len(rows) == len(prompts) else rows)
        return decoded.iou[passed].cpu(), logits[passed[rows]], passed.flatten().nonzero()[:, 0].cpu()

    def _without_small_regions(self, found: Candidates, size: Sequence[int]) -> Candidates:
        """As ``SamAutomaticMaskGenerator.postprocess_small_regions``, one mask at a time."""
        height, width = size
        changed_runs, boxes, unchanged = [], [], []
        for lengths in found.runs:
            mask, holes = remove_small_regions(
                postprocess.to_mask(lengths, height, width), self.min_mask_region_area, "holes"
            )
            mask, islands = remove_small_regions(mask, self.min_mask_region_area, "islands")
            changed_runs.append(postprocess.runs_of(mask) if holes or islands else lengths)
            unchanged.append(float(not (holes or islands)))
            boxes.append(_box(mask))
        if not boxes:
            return found
        found.runs = changed_runs
        tensor = torch.tensor(boxes)
        threshold = max(self.box_nms_thresh, self.crop_nms_thresh)
        keep = _suppress(tensor, torch.tensor(unchanged), threshold)
        changed = torch.tensor(unchanged) == 0
        found.boxes = torch.where(changed[:, None], tensor, found.boxes)
        return found[keep]

    def _record(self, found: Candidates, k: int, size: Sequence[int]) -> dict[str, Any]:
        height, width = size
        lengths = found.runs[k]
        if self.output_mode == "coco_rle":
            segmentation: Any = {"size": [height, width], "counts": rle.from_runs(lengths)}
        elif self.output_mode == "uncompressed_rle":
            segmentation = {"size": [height, width], "counts": lengths.tolist()}
        else:
            segmentation = postprocess.to_mask(lengths, height, width)
        return {
            "segmentation": segmentation,
            "area": int(lengths[1::2].sum()),
            "bbox": _xywh(found.boxes[k].tolist()),
            "predicted_iou": found.iou_preds[k].item(),
            "point_coords": [found.points[k].tolist()],
            "stability_score": found.stability_score[k].item(),
            "crop_box": _xywh(found.crop_boxes[k].tolist()),
        }


def _suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression through the very function that the reference calls, so ties fall alike."""
    kept: Tensor = batched_nms(boxes.float(), scores, torch.zeros(len(boxes)), iou_threshold=threshold)
    return kept


def _together(parts: Sequence[Candidates]) -> Candidates:
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
    return Candidates([lengths for part in parts for lengths in part.runs], **tensors)


def _box(mask: npt.NDArray[np.bool_]) -> list[int]:
    """XYXY of the first and last pixel; zeros for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])] if len(columns) else [0, 0, 0, 0]


def _xywh(box: Sequence[int]) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
