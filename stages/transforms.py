"""Prepares pixels for models: resize, crop, normalise, pad."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F

ImageArray = npt.NDArray[np.uint8]
Stats = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation per channel, of pixels in 0..1."""
CLIP_STATS: Stats = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_STATS: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def resize(image: ImageArray, height_px: int, width_px: int, filter_: Image.Resampling) -> ImageArray:
    """Resize uint8 [H, W, 3] with PIL, as the reference code of every encoder here does."""
    return np.array(Image.fromarray(image).resize((width_px, height_px), filter_))


def longest_side(size_px: tuple[int, ...], side_px: int) -> tuple[int, int]:
    """Height and width of SAM's ResizeLongestSide: int(x * s + 0.5), at least 1 px."""
    scale = side_px / max(size_px)
    height, width = (max(1, int(side * scale + 0.5)) for side in size_px)
    return height, width


def resize_longest_side(image: ImageArray, side_px: int) -> ImageArray:
    """SAM's ResizeLongestSide: PIL bilinear to :func:`longest_side`."""
    return resize(image, *longest_side(image.shape[:2], side_px), Image.Resampling.BILINEAR)


def resize_and_crop(image: ImageArray, side_px: int, offset: Callable[[int], int]) -> ImageArray:
    """Bicubic resize of the shortest side to ``side_px``, then the central square [side_px, side_px, 3].

    ``offset`` turns the surplus pixels into the crop's start: Hugging Face floors the half, torchvision
    rounds it.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    tall, wide = (int(side_px * side / short) for side in (height, width))
    top, left = offset(tall - side_px), offset(wide - side_px)
    if max(tall, wide) <= 100 * side_px:
        return resize(image, tall, wide, Image.Resampling.BICUBIC)[top : top + side_px, left : left + side_px]
    # A 1 x 10000 image would take a gigabyte: only the crop is computed, off by one level in a few pixels.
    across, down = width / wide, height / tall
    box = (left * across, top * down, (left + side_px) * across, (top + side_px) * down)
    picture = Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC, box=box)
    return np.array(picture)


def normalise(image: ImageArray, stats: Stats, device: str) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W], (x / 255 - mean) / std."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in stats)
    pixels = torch.tensor(image, device=device).permute(2, 0, 1)[None].float() / 255
    return (pixels - mean) / std


def padded_input(image: ImageArray, side_px: int, multiple_px: int, stats: Stats, device: str) -> torch.Tensor:
    """ResizeLongestSide, normalise, then pad with zeros at the bottom and right to multiples of ``multiple_px``.

    uint8 [H, W, 3] -> float32 [1, 3, h, w] with h, w <= side_px rounded up to ``multiple_px``. With
    ``multiple_px = side_px`` it is the square input of SAM and of LLM-Seg's DINOv2.
    """
    pixels = normalise(resize_longest_side(image, side_px), stats, device)
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (0, -width % multiple_px, 0, -height % multiple_px))
