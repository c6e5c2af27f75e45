"""AlphaCLIP's inputs: image and alpha map in one frame; and the stock transforms, which give each a frame of its own."""

from __future__ import annotations

import torch
from PIL import Image
from torch.nn import functional as F

from stages.encoders.common import Mask
from stages.transforms import CLIP_STATS, ImageArray, normalise, resize, resize_and_crop


def aligned_image(image: ImageArray, side_px: int) -> ImageArray:
    """The whole image squashed to the square (bicubic), as ELISA and AlphaCLIP's own training do."""
    return resize(image, side_px, side_px, Image.Resampling.BICUBIC)


def stock_image(image: ImageArray, side_px: int) -> ImageArray:
    """``alpha_clip.load``'s image transform, CLIP's own: shortest side to ``side_px`` (bicubic), central square.

    SunzeY/AlphaCLIP's README squashes the whole mask to the square instead (:func:`alpha_map`). On an image that is
    not square the two disagree along the longer side: what the alpha map has at x, the image shows at
    ``(x - side_px / 2) * long / short + side_px / 2``, or not at all, where that falls outside the crop. Kept for
    comparison with features made that way.
    """
    return resize_and_crop(image, side_px, lambda surplus: round(surplus / 2))


def image_pixels(image: ImageArray, side_px: int, stock: bool, device: str) -> torch.Tensor:
    """uint8 [H, W, 3] -> CLIP's normalised float32 [1, 3, side_px, side_px], by the aligned or the stock transform."""
    square = stock_image(image, side_px) if stock else aligned_image(image, side_px)
    return normalise(square, CLIP_STATS, device)


def alpha_map(mask: Mask, side_px: int, device: str) -> torch.Tensor:
    """Bool [H, W] -> float32 [1, side_px, side_px]: antialiased bilinear squash, (alpha - 0.5) / 0.26."""
    alpha = torch.tensor(mask, device=device).float()[None, None]
    alpha = F.interpolate(alpha, size=(side_px, side_px), mode="bilinear", antialias=True)
    return (alpha[0] - 0.5) / 0.26
