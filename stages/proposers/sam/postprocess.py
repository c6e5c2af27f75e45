"""Turns low-resolution logits into scores, boxes and runs, in memory that does not grow with candidates times pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.proposers.sam import cells, first_use
from stages.proposers.sam.upsampling import Axis, axis

I64 = npt.NDArray[np.int64]
_CHUNK = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Frame:
    """Where the logits of a crop lie.

    Args:
        low: side of the low-resolution logits.
        square: side, px, of the square that SAM's encoder sees; the crop fills ``used`` (height, width) of it.
        crop: XYXY of the crop in the image, px.
        image: height and width of the image, px.
    """

    low: int
    square: int
    used: tuple[int, int]
    crop: tuple[int, int, int, int]
    image: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the crop, px."""
        left, top, right, bottom = self.crop
        return bottom - top, right - left

    @cached_property
    def rows(self) -> Axis:
        """The vertical axis, from logits to the crop."""
        return axis(self.low, self.square, self.used[0], self.size[0])

    @cached_property
    def columns(self) -> Axis:
        """The horizontal axis, from logits to the crop."""
        return axis(self.low, self.square, self.used[1], self.size[1])


def measure(logits: Tensor, frame: Frame, threshold: float, offset: float) -> tuple[Tensor, Tensor]:
    """Stability scores float32 [n] and boxes int64 [n, 4], XYXY px of the crop, of logits float32 [n, L, L].

    The results of ``calculate_stability_score`` and ``batched_mask_to_box`` (segment_anything.utils.amg) for the logits after
    ``Sam.postprocess_masks`` to the crop's size. A mask that is empty at the lower threshold has the score NaN.
    """
    thresholds = (threshold - offset, threshold, threshold + offset)
    if logits.is_cuda and first_use.kernel_is_right(logits.device):
        from stages.proposers.sam import kernels

        counts, boxes = kernels.measure(logits, frame.rows, frame.columns, thresholds)
    else:
        parts = [part.numpy() for part in logits.cpu().split(_CHUNK)]
        found = list(_in_threads(lambda part: cells.measure(part, frame.rows, frame.columns, thresholds), parts))
        counts = torch.from_numpy(np.concatenate([part[0] for part in found] or [np.empty((0, 2), np.int64)]))
        boxes = torch.from_numpy(np.concatenate([part[1] for part in found] or [np.empty((0, 4), np.int64)]))
    return counts[:, 1] / counts[:, 0], boxes


def runs(logits: Tensor, frame: Frame, threshold: float) -> list[I64]:
    """Run lengths int64 [R], zeros first, column by column, of every mask, in the frame of the image."""
    height, width = frame.image
    left, top, right, bottom = frame.crop

    def one(mask: npt.NDArray[np.float32]) -> I64:
        pixels = np.zeros(-(-height * width // 8) * 8, np.uint8)
        picture = pixels[: height * width].reshape(width, height)
        cells.paint(mask, frame.rows, frame.columns, threshold, picture[left:right, top:bottom])
        return to_runs(cells.edges(pixels, height * width), height * width)

    return list(_in_threads(one, list(logits.float().cpu().numpy())))


def to_runs(edges: I64, size: int) -> I64:
    """Places where the value changes -> lengths of the runs between them, zeros first."""
    return np.diff(edges, prepend=0, append=size)


def to_mask(lengths: I64, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Run lengths -> bool [H, W], column-major in memory as the official ``rle_to_mask`` has it."""
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Run the kernels in threads, as they release the interpreter lock: as many at a time as torch would use."""
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1:
        return map(work, items)
    with ThreadPoolExecutor(threads) as pool:
        return pool.map(work, items)
