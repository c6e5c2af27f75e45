"""Everything mode: a drop-in for ``segment_anything.SamAutomaticMaskGenerator`` with the same results from less computation.

The order differs: candidates are filtered by their predicted IoU before any mask exists, scores and boxes come from the
low-resolution logits, and only masks that survive non-maximum suppression are enlarged to the image's size and encoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress
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
from torch import Tensor
from torchvision.ops.boxes import batched_nms, box_area

from stages.batch_size import over
from stages.proposers.sam import postprocess
from stages.proposers.sam.decoder import MASKS, PointDecoder
from stages.proposers.sam.encoder import ImageEncoder
from stages.proposers.sam.postprocess import Frame
from stages.proposers.sam.two_way import ImageTokens
from stages.transforms import longest_side
from store import rle

Pixels = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
IMAGES_PER_BATCH = {"cpu": 1, "cuda": 4}
"""Images or crops that go through SAM's encoder together: one fills a processor, a few fill a GPU."""
POINTS_PER_BATCH = 64
"""As ``SamAutomaticMaskGenerator``."""
OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")


@dataclass(frozen=True)
class Candidates:
    """Masks in the reference's order: point by point, the three masks of a point together.

    logits float32 [n, L, L], iou_preds and stability_score float32 [n], boxes int64 [n, 4] XYXY px, points float64 [n, 2]
    px, crops int64 [n]: the index of the crop in which each was found.
    """

    logits: Tensor
    iou_preds: Tensor
    stability_score: Tensor
    boxes: Tensor
    points: Tensor
    crops: Tensor

    def __getitem__(self, keep: Tensor) -> Candidates:
        """The candidates selected by bool [n] or int64 indices, on the CPU."""
        numbers = _places(keep) if keep.dtype == torch.bool else keep
        every = (getattr(self, field.name) for field in fields(self))
        return Candidates(*(values[_sent(numbers, values.device)] for values in every))

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class Proposals:
    """The candidates of an image after networks and suppression; :meth:`AutomaticMaskGenerator.records` turns them into masks."""

    candidates: Candidates
    frames: list[Frame]


class AutomaticMaskGenerator:
    """Arguments, records and their order are those of ``SamAutomaticMaskGenerator``, with three differences.

    A mask without a pixel is not a proposal; the reference keeps it if a threshold is 0, with a stability score of NaN. A
    prediction that is NaN or infinite raises FloatingPointError; the reference silently drops it, or keeps it. A crop without a
    pixel, as a very small image has, is left out; the reference fails.

    Args:
        points_per_batch: prompts decoded together, fewer if memory runs out.
        dtype: float32 is the official arithmetic except for rounding; float16 or bfloat16 compute the image tokens in 16 bit.
    """

    def __init__(
        self,
        model: Sam,
        points_per_side: int | None = 32,
        points_per_batch: int = POINTS_PER_BATCH,
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
        self.images = ImageEncoder(model, dtype, IMAGES_PER_BATCH[model.device.type])
        with torch.no_grad():
            self.decoder = PointDecoder(model, dtype)
        self.side_px = self.images.side_px
        self.points_per_batch = points_per_batch
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
            embedding: float [C, h, w], the result of :meth:`encode` for the whole image, if available.

        Returns:
            The reference's records: ``segmentation`` by ``output_mode``, ``area`` px, ``bbox`` and ``crop_box`` XYWH px,
            ``predicted_iou``, ``point_coords``, ``stability_score``.
        """
        return self.records(self.propose(image, embedding))

    def records(self, proposals: Proposals) -> list[dict[str, Any]]:
        """The records of an image's proposals: no network runs, so another thread may do it while the next image is processed."""
        found = proposals.candidates
        lengths: list[I64] = []
        for number, frame in enumerate(proposals.frames):
            lengths += postprocess.runs(found[found.crops == number].logits, frame, self.model.mask_threshold)
        order = found.crops.argsort(stable=True).argsort().tolist()
        lengths = [lengths[k] for k in order]
        if self.min_mask_region_area > 0:
            found, lengths = self._without_small_regions(found, lengths, proposals.frames[0].image)
        return [self._record(found, k, runs, proposals.frames) for k, runs in enumerate(lengths) if runs[1::2].any()]

    def prepare(self, image: Pixels) -> Tensor:
        """An image for :meth:`encode`, as :class:`ImageEncoder` prepares it."""
        return self.images.prepare(image)

    def encode(self, prepared: Sequence[Tensor]) -> Tensor:
        """SAM's embeddings of what :meth:`prepare` made, float32 [n, C, h, w]."""
        return self.images.encode(prepared)

    @torch.inference_mode()
    def propose(self, image: Pixels, embedding: Tensor | None = None) -> Proposals:
        """The proposals of an image; arguments as in :meth:`generate`."""
        size: tuple[int, int] = image.shape[0], image.shape[1]
        boxes, numbers = generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio)
        there = [
            left < right and top < bottom for left, top, right, bottom in boxes
        ]  # a very small image has empty crops
        crop_boxes, layers = list(compress(boxes, there)), list(compress(numbers, there))
        frames = [self._frame(crop, size) for crop in crop_boxes]
        later = crop_boxes if embedding is None else crop_boxes[1:]
        cuts = [np.ascontiguousarray(image[top:bottom, left:right]) for left, top, right, bottom in later]
        embeddings = [] if embedding is None else [embedding]
        embeddings += list(self.encode([self.prepare(cut) for cut in cuts])) if cuts else []
        found = _together(
            [
                self._crop(made, frame, self.point_grids[layer], number)
                for number, (made, frame, layer) in enumerate(zip(embeddings, frames, layers, strict=True))
            ]
        )
        if len(frames) > 1:
            scores = 1 / box_area(torch.tensor(crop_boxes))[found.crops]  # masks of smaller crops are preferred
            found = found[_suppress(found.boxes, scores, self.crop_nms_thresh)]
        return Proposals(found, frames)

    def _frame(self, crop: Sequence[int], size: tuple[int, int]) -> Frame:
        left, top, right, bottom = crop
        used = longest_side((bottom - top, right - left), self.side_px)
        return Frame(4 * self.decoder.two_way.grid[0], self.side_px, used, (left, top, right, bottom), size)

    def _crop(self, embedding: Tensor, frame: Frame, grid: npt.NDArray[np.float64], number: int) -> Candidates:
        """The candidates that remain in one crop, with boxes and points in the frame of the image."""
        points = grid * np.array(frame.size)[None, ::-1]
        scale = np.array(frame.used[::-1]) / np.array(frame.size[::-1])
        prompts = torch.as_tensor(points * scale, device=self.model.device)
        shared = self.decoder.image(embedding.to(self.model.device))
        origins = torch.as_tensor(points)
        parts = over(
            len(points),
            self.points_per_batch,
            lambda part: self._batch(shared, prompts[part], origins[part], frame),
        )
        found = _together(parts)
        found = found[_suppress(found.boxes, found.iou_preds, self.box_nms_thresh)]
        left, top, _, _ = frame.crop
        return replace(
            found,
            boxes=found.boxes + torch.tensor([left, top, left, top]),
            points=found.points + torch.tensor([left, top]),
            crops=torch.full((len(found),), number),
        )

    def _batch(self, shared: ImageTokens, prompts: Tensor, points: Tensor, frame: Frame) -> Candidates:
        """Candidates of some points that pass all filters, in the frame of the crop."""
        iou, logits, kept = self._decode(shared, prompts)
        points = points.repeat_interleave(MASKS, dim=0)[kept]
        score, boxes = postprocess.measure(logits, frame, self.model.mask_threshold, self.stability_score_offset)
        keep = ~score.isnan()  # without a pixel above even the lower threshold there is no mask
        if self.stability_score_thresh > 0.0:
            keep &= score >= self.stability_score_thresh
        height, width = frame.image
        keep &= ~is_box_near_crop_edge(boxes, list(frame.crop), [0, 0, width, height])
        return Candidates(logits, iou, score, boxes, points, torch.zeros(len(boxes), dtype=torch.int64))[keep]

    def _decode(self, shared: ImageTokens, prompts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Predicted IoU [n], logits [n, L, L] and candidate numbers [n] of those that pass ``pred_iou_thresh``."""
        decoded = self.decoder.decode(shared, prompts)
        iou = decoded.iou.cpu()  # all at once, as every read of a value from the GPU waits for it
        if not iou.isfinite().all():
            raise FloatingPointError("SAM's predicted_iou is NaN or infinite")
        passed = iou > self.pred_iou_thresh if self.pred_iou_thresh > 0.0 else torch.ones_like(iou).bool()
        rows = _places(passed.any(dim=1))
        logits = self.decoder.masks(decoded, None if len(rows) == len(prompts) else _sent(rows, prompts.device))
        logits = logits.flatten(0, 1)[_sent(_places(passed[rows].flatten()), prompts.device)]
        if not logits.sum().isfinite():
            raise FloatingPointError("SAM's mask logits are NaN or infinite")
        return iou[passed], logits, _places(passed.flatten())

    def _without_small_regions(
        self, found: Candidates, lengths: list[I64], size: tuple[int, int]
    ) -> tuple[Candidates, list[I64]]:
        """Like ``SamAutomaticMaskGenerator.postprocess_small_regions``, one mask at a time."""
        if not lengths:
            return found, lengths
        filled, boxes, unchanged = [], [], []
        for runs in lengths:
            mask, holes = remove_small_regions(postprocess.to_mask(runs, *size), self.min_mask_region_area, "holes")
            mask, islands = remove_small_regions(mask, self.min_mask_region_area, "islands")
            filled.append(rle.to_runs(rle.encode(mask)) if holes or islands else runs)
            unchanged.append(not (holes or islands))
            boxes.append(_box(mask))
        threshold = max(self.box_nms_thresh, self.crop_nms_thresh)
        keep = _suppress(torch.tensor(boxes), torch.tensor(unchanged).float(), threshold)
        new = torch.where(torch.tensor(unchanged)[:, None], found.boxes, torch.tensor(boxes))
        return replace(found, boxes=new)[keep], [filled[k] for k in keep.tolist()]

    def _record(self, found: Candidates, k: int, runs: I64, frames: Sequence[Frame]) -> dict[str, Any]:
        height, width = frames[0].image
        if self.output_mode == "coco_rle":
            segmentation: Any = {"size": [height, width], "counts": rle.from_runs(runs)}
        elif self.output_mode == "uncompressed_rle":
            segmentation = {"size": [height, width], "counts": runs.tolist()}
        else:
            segmentation = postprocess.to_mask(runs, height, width)
        return {
            "segmentation": segmentation,
            "area": int(runs[1::2].sum()),
            "bbox": _xywh(found.boxes[k].tolist()),
            "predicted_iou": found.iou_preds[k].item(),
            "point_coords": [found.points[k].tolist()],
            "stability_score": found.stability_score[k].item(),
            "crop_box": _xywh(frames[int(found.crops[k])].crop),
        }


def _places(true: Tensor) -> Tensor:
    """Int64 indices of the true values in bool [n]."""
    return true.nonzero()[:, 0]


def _sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Send the numbers to a device without waiting for their arrival."""
    return numbers.to(device, non_blocking=True)


def _suppress(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Non-maximum suppression by the same function that the reference calls, so that ties are broken alike."""
    kept: Tensor = batched_nms(boxes.float(), scores, torch.zeros(len(boxes)), iou_threshold=threshold)
    return kept


def _together(parts: Sequence[Candidates]) -> Candidates:
    return Candidates(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Candidates)))


def _box(mask: npt.NDArray[np.bool_]) -> list[int]:
    """XYXY of the first and last pixel; zeros for an empty mask."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])] if len(columns) else [0, 0, 0, 0]


def _xywh(box: Sequence[int]) -> list[int]:
    left, top, right, bottom = box
    return [left, top, right - left, bottom - top]
