"""The examples that `train_sam` learns from: scenes as SAM sees them, and points that ask for their objects."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from demo.data.scenes import scene
from demo.models.encoder_scenes import attributes_of

POINTS_PER_IMAGE = 12
ON_OBJECTS = 0.8  # this fraction of the points falls on objects, equally often on each; the rest anywhere
SIDE = 256
LOW = 128  # side of the decoder's masks
CELLS = 64  # side of the throw-away head's map


@dataclass(frozen=True)
class Example:
    """One scene as the network sees it, its N objects and P points."""

    picture: Tensor
    """float32 [3, 256, 256], 0..255, padded at the bottom and right with the mean."""
    points: Tensor
    """float32 [P, 2], x, y px."""
    on: Tensor
    """The object under each point, int64 [P]; -1 is background."""
    masks: Tensor
    """Fraction of each 2 px cell that an object covers, float32 [N, 128, 128]."""
    cells: Tensor
    """For every 4 px cell, whether it is on an object and the offset to the object's centre, float32 [3, 64, 64]."""
    attributes: Tensor
    """Class, colour and texture of each object, int64 [N, 3]."""


def example(seed: int) -> Example:
    """Draw the scene of a seed."""
    drawn = scene(seed)
    rng = np.random.default_rng((seed, 1))
    resized = ResizeLongestSide(SIDE).apply_image(drawn.image)
    height, width = resized.shape[:2]
    picture = np.empty((SIDE, SIDE, 3), np.float32)
    picture[:] = (123.675, 116.28, 103.53)
    picture[:height, :width] = resized
    masks = np.zeros((len(drawn.objects), SIDE, SIDE), np.float32)
    for mask, thing in zip(masks, drawn.objects, strict=True):
        mask[:height, :width] = cv2.resize(
            thing.visible.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA
        )
    owner = np.where(masks.max(0) >= 0.5, masks.argmax(0), -1)
    points, on = _points(owner[:height, :width], len(masks), rng)
    low = masks.reshape(-1, LOW, SIDE // LOW, LOW, SIDE // LOW).mean((2, 4))
    return Example(
        torch.from_numpy(picture).permute(2, 0, 1),
        torch.from_numpy(points),
        torch.from_numpy(on),
        torch.from_numpy(low),
        torch.from_numpy(_cells(owner, len(masks))),
        torch.tensor([attributes_of(thing) for thing in drawn.objects]),
    )


def _points(
    owner: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    height, width = owner.shape
    places = [np.flatnonzero(owner == index) for index in range(count)]
    flat = rng.integers(0, height * width, POINTS_PER_IMAGE)
    for position in np.flatnonzero(rng.random(POINTS_PER_IMAGE) < ON_OBJECTS):
        place = places[int(rng.integers(count))]
        if len(place):
            flat[position] = place[int(rng.integers(len(place)))]
    xy = np.stack([flat % width, flat // width], axis=1) + rng.uniform(-0.5, 0.5, (POINTS_PER_IMAGE, 2))
    return xy.astype(np.float32), owner.reshape(-1)[flat]


def _cells(owner: NDArray[np.int64], count: int) -> NDArray[np.float32]:
    step = SIDE // CELLS
    sampled = owner[step // 2 :: step, step // 2 :: step]
    cells = np.zeros((3, CELLS, CELLS), np.float32)
    for index in range(count):
        ys, xs = np.nonzero(sampled == index)
        if len(ys):
            cells[0, ys, xs] = 1
            cells[1, ys, xs] = (xs.mean() - xs) / 16
            cells[2, ys, xs] = (ys.mean() - ys) / 16
    return cells
