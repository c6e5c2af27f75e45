"""A SAM of any size with random weights that gives as much work as a trained one.

Plain random weights make noise (tens of thousands of runs per mask) or nothing that passes a filter, and a benchmark on either
is meaningless. Here the masks are smooth, and the thresholds are chosen so that as many candidates pass as with the real model
on real images: 60 to 70 % by predicted IoU, about 60 % of those by stability, 40 to 120 after suppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid, calculate_stability_score
from torchvision.ops.boxes import batched_nms

from stages.proposers.sam.generator import AutomaticMaskGenerator

PASS_IOU, PASS_STABILITY, LEFT = 0.65, 0.6, 60
BANDS = {"pass IoU, %": (60, 70), "of those stable, %": (50, 70), "masks": (40, 120), "runs per mask": (100, 2500)}
"""Outside of these ranges a run says little about the real model."""
_CONSTANT, _ABOVE = 3.0, 0.65
"""A value that GELU leaves alone, and how many standard deviations above the mean a mask begins."""
SMALL = {"embed_dim": 192, "depth": 6, "num_heads": 3, "global_attn_indexes": (2, 5)}


@dataclass(frozen=True)
class Calibrated:
    """A model and the generator's options that suit it."""

    sam: Sam
    options: dict[str, Any]


def new_model(name: str, side_px: int, device: str) -> Sam:
    """``small`` (a small encoder at ``side_px``, the official decoder) or one of vit_b, vit_l, vit_h; random weights."""
    torch.manual_seed(0)
    if name != "small":
        with torch.device(device):  # a CPU takes ten seconds for the random numbers of ViT-H
            return sam_model_registry[name](checkpoint=None).eval().to(device)
    grid = side_px // 16
    encoder = ImageEncoderViT(
        img_size=side_px, patch_size=16, out_chans=256, use_rel_pos=True, window_size=14,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **SMALL,
    )  # fmt: skip
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=256)
    sam = Sam(encoder, PromptEncoder(256, (grid, grid), (side_px, side_px), 16), decoder)
    return sam.eval().to(device)


def picture(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Patches of colour, uint8 [H, W, 3]."""
    import cv2

    coarse = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def generator_of(
    device: str, model: str, side_px: int, points_per_side: int, precision: str
) -> tuple[npt.NDArray[np.uint8], AutomaticMaskGenerator]:
    """A picture, and our generator with a model that is calibrated on it."""
    image = picture(side_px, side_px)
    made = calibrate(new_model(model, side_px, device), image, points_per_side)
    dtype = getattr(torch, precision)
    return image, AutomaticMaskGenerator(made.sam, output_mode="coco_rle", dtype=dtype, **made.options)


@torch.inference_mode()
def calibrate(sam: Sam, image: npt.NDArray[np.uint8], points_per_side: int) -> Calibrated:
    """Change the weights of ``sam`` in place, and find thresholds for it on one image."""
    decoder = sam.mask_decoder
    for layer in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
        layer.weight.copy_(layer.weight[:, :, :1, :1].expand_as(layer.weight))  # avoid checkerboard patterns
    # Image tokens near the point attend to its token, as both have similar positional encodings; the image has little effect.
    sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.mul_(0.3)
    sam.image_encoder.neck[3].weight.mul_(0.1)
    for layer in decoder.transformer.layers:
        attention = layer.cross_attn_image_to_token
        attention.q_proj.weight.copy_(3 * attention.k_proj.weight)
        attention.v_proj.weight.mul_(4)
    # One channel after the upscaling is constant, so that a mask can have an offset: blobs stand out from the background.
    decoder.output_upscaling[3].weight[:, 0] = 0
    decoder.output_upscaling[3].bias[0] = _CONSTANT
    for head in list(decoder.output_hypernetworks_mlps):
        head.layers[-1].weight[0] = 0
        head.layers[-1].bias[0] = 0
    logits, iou = _decode(sam, image, points_per_side)
    for number, head in enumerate(list(decoder.output_hypernetworks_mlps)[1:]):
        values = logits[:, number]
        mean, spread = float(values.mean()), float(values.std())
        sign = 1.0 if float(((values - mean) ** 3).mean()) > 0 else -1.0
        head.layers[-1].weight.mul_(sign * 7.0 / spread)
        head.layers[-1].bias.mul_(sign * 7.0 / spread)
        head.layers[-1].bias[0] = -(sign * 7.0 * mean / spread + 7.0 * _ABOVE) / _CONSTANT
    last = decoder.iou_prediction_head.layers[-1]
    scale = 0.05 / float(iou.std())
    last.weight.mul_(scale)
    last.bias.copy_((last.bias - float(iou.mean())) * scale + 0.85)
    logits, iou = _decode(sam, image, points_per_side)
    iou_thresh = _gap(iou.flatten(), 1 - PASS_IOU)
    passed = iou.flatten() > iou_thresh
    side = sam.image_encoder.img_size
    masks = logits.flatten(0, 1)[passed]
    stability, boxes = [], []
    for part in masks.split(16):
        large = sam.postprocess_masks(part[:, None], (side, side), (side, side))[:, 0]
        stability.append(calculate_stability_score(large, 0.0, 1.0))
        boxes.append(batched_mask_to_box(large > 0))
    score, box = torch.cat(stability), torch.cat(boxes)
    stable_thresh = _gap(score.nan_to_num(), 1 - PASS_STABILITY)
    stable = score >= stable_thresh
    left = {
        thresh: len(
            batched_nms(box[stable].float(), iou.flatten()[passed][stable], torch.zeros(int(stable.sum())), thresh)
        )
        for thresh in np.linspace(0.3, 0.99, 24)
    }
    nms = min(left, key=lambda thresh: abs(left[thresh] - LEFT))
    options = {
        "points_per_side": points_per_side,
        "pred_iou_thresh": iou_thresh,
        "stability_score_thresh": stable_thresh,
        "box_nms_thresh": float(nms),
    }
    return Calibrated(sam, options)


def _decode(sam: Sam, image: npt.NDArray[np.uint8], points_per_side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Low-resolution logits [points, 3, L, L] and IoU predictions [points, 3], by the official modules."""
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    predictor.set_image(image)
    points = torch.as_tensor(build_point_grid(points_per_side) * np.array(image.shape[1::-1])[None])
    points = torch.as_tensor(predictor.transform.apply_coords(points.numpy(), image.shape[:2]), device=sam.device)
    found = []
    for part in points.split(16):
        labels = torch.ones(len(part), 1, dtype=torch.int, device=sam.device)
        sparse, dense = sam.prompt_encoder(points=(part[:, None], labels), boxes=None, masks=None)
        embeddings = {"sparse_prompt_embeddings": sparse, "dense_prompt_embeddings": dense}
        found.append(
            sam.mask_decoder(
                image_embeddings=predictor.features, image_pe=sam.prompt_encoder.get_dense_pe(), multimask_output=True,
                **embeddings,
            )
        )  # fmt: skip
    logits, iou = zip(*found, strict=True)
    return torch.cat(logits), torch.cat(iou)


def _gap(values: torch.Tensor, share: float) -> float:
    """A threshold above about ``share`` of the values, in the widest gap near there, so that rounding moves no value across it."""
    ordered = values.double().sort().values
    at = int(share * len(ordered))
    near = range(max(1, at - 5), min(len(ordered) - 1, at + 5))
    best = max(near, key=lambda k: float(ordered[k] - ordered[k - 1]), default=at)
    return float((ordered[best] + ordered[best - 1]) / 2)
