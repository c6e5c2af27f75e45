"""Parts every encoder shares: checkpoint files, resizing and normalising images."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from stages.checkpoints import reading
from stages.weights import WeightsError

ImageArray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]
State = dict[str, torch.Tensor]
Network = TypeVar("Network", bound=nn.Module)

_TYPE_THIS = "python cli.py weights lists every file, where it comes from and whether it is here"

Stats = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation a channel, of pixels in 0..1."""
CLIP_STATS: Stats = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_STATS: Stats = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load_state(path: Path) -> State:
    """Tensors of a .safetensors or a .pth/.pt/.bin file (``weights_only=True``), float32 on the CPU.

    Raises WeightsError if the file cannot be read that way.
    """
    with reading(path):
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        return {key: tensor.float() for key, tensor in state.items()}


def check_keys(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise WeightsError unless ``found`` has exactly the keys and shapes of ``expected``."""
    missing = sorted(expected.keys() - found.keys())
    surplus = sorted(found.keys() - expected.keys())
    differ = [
        f"{key} {tuple(found[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in sorted(expected.keys() & found.keys())
        if found[key].shape != expected[key].shape
    ]
    if missing or surplus or differ:
        problems = {"missing": missing, "not expected": surplus, "of another shape": differ}
        text = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems.items() if keys)
        raise WeightsError(f"{source}: these are not this encoder's tensors ({text}). {_TYPE_THIS}")


def load_into(make: Callable[[], Network], state: State, source: str, device: str) -> Network:
    """Make a frozen model in eval mode with exactly these tensors (no random initialisation is computed)."""
    with torch.device("meta"):
        model = make()
    check_keys(state, model.state_dict(), source)
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval().to(device)


def once_an_image(compute: Callable[[ImageArray], torch.Tensor]) -> Callable[[ImageArray], torch.Tensor]:
    """``compute`` of one image, whose result is kept for as long as the array itself.

    An encoder is called for an image's proposals and for its instances, and yet its network runs once. It sees one image
    at a time: its output cannot depend on which other images, or which other columns, are computed in the same run.
    """
    kept: dict[int, torch.Tensor] = {}

    def call(image: ImageArray) -> torch.Tensor:
        key = id(image)
        if key not in kept:
            kept[key] = compute(image)
            weakref.finalize(image, kept.pop, key, None).atexit = False
        return kept[key]

    return call


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
