"""Scenes as the demo encoders see them, drawn once and kept in memory for their training."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from demo.data.scenes import CLASSES, COLOURS, Scene, SceneObject, scene
from demo.data.textures import TEXTURES
from stages.encoders import ENCODERS
from stages.encoders.alpha_transforms import aligned_image, alpha_map
from stages.encoders.common import Mask
from stages.encoders.dinov2_vit import PATCH_PX
from stages.encoders.pooling import UPSAMPLING, mask_weights
from stages.transforms import CLIP_STATS, IMAGENET_STATS, ImageArray, normalise, padded_input

ATTRIBUTES = (len(CLASSES), len(COLOURS), len(TEXTURES))
CLIP_PX: int = ENCODERS["demo_clip"].options["input_px"]
CLIP_GRID = CLIP_PX // int(ENCODERS["demo_clip"].options["patch_px"])
DINOV2_PX: int = ENCODERS["demo_dinov2"].options["input_px"]
DINOV2_GRID = DINOV2_PX // PATCH_PX
_COLOUR_NAMES = tuple(COLOURS)
_SCENES_A_PART = 100


@dataclass(frozen=True)
class Cutout:
    """What AlphaCLIP sees of a mask: RGB of only the masked pixels, and alpha, float16 [4, h, w], at ``top, left``.

    Everything outside the box is black and background.
    """

    values: Tensor
    top: int
    left: int


@dataclass(frozen=True)
class Pictures:
    """N scenes with M visible objects in all as CLIP sees them. Floats are float16."""

    squashed: Tensor
    """CLIP's and AlphaCLIP's pixels [N, 3, 128, 128]."""
    owner: Tensor
    """Scene of each object, int64 [M], ascending."""
    attributes: Tensor
    """Class, colour and texture of each object, int64 [M, 3]."""
    squashed_cells: Tensor
    """Fraction of each patch of ``squashed`` that an object covers, [M, 64]."""

    def objects_of(self, scenes: Tensor) -> tuple[Tensor, Tensor]:
        """The objects int64 [m] of these scenes, and the position of each object's scene in ``scenes``, int64 [m]."""
        firsts = torch.searchsorted(self.owner, scenes)
        lasts = torch.searchsorted(self.owner, scenes, right=True)
        ranges = [torch.arange(first, last) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]
        return torch.cat(ranges), torch.repeat_interleave(torch.arange(len(scenes)), lasts - firsts)


@dataclass(frozen=True)
class Pool:
    """Pictures and what the other encoders see of them, each input made by the encoder's own transform."""

    pictures: Pictures
    padded: Tensor
    """DINOv2's pixels float16 [N, 3, 224, 224]."""
    cutouts: list[Cutout]
    """M of them."""
    padded_cells: Tensor
    """Fraction of each patch of ``padded`` that an object covers, float16 [M, 256]; proportional to the weights that pool its
    features."""


Drawn = dict[str, Any]


def draw_pictures(seeds: Sequence[int], processes: int = 1) -> Pictures:
    """Draw the scenes of these seeds; about 0.1 MB and 25 ms each."""
    return _pictures(_in_parts(_pictures_of, seeds, processes))


def draw_pool(seeds: Sequence[int], processes: int = 1) -> Pool:
    """Draw the scenes of these seeds; about 0.5 MB and 40 ms each."""
    parts = _in_parts(_pool_of, seeds, processes)
    return Pool(
        _pictures(parts),
        torch.cat([part["padded"] for part in parts]),
        [Cutout(*cut) for part in parts for cut in part["cutouts"]],
        torch.cat([part["padded_cells"] for part in parts]),
    )


def _in_parts(draw: Callable[[list[Scene]], Drawn], seeds: Sequence[int], processes: int) -> list[Drawn]:
    parts = [seeds[start : start + _SCENES_A_PART] for start in range(0, len(seeds), _SCENES_A_PART)]
    bar = tqdm(total=len(seeds), desc="scenes", unit="scene", file=sys.stderr, disable=None)
    with bar, ProcessPoolExecutor(processes) as workers:
        drawn = list[Drawn]()
        for part, packed in zip(parts, workers.map(partial(_packed, draw), parts), strict=True):
            drawn.append(torch.load(io.BytesIO(packed), weights_only=True))
            bar.update(len(part))
    return drawn


def _packed(draw: Callable[[list[Scene]], Drawn], seeds: Sequence[int]) -> bytes:
    """A part of the scenes as bytes, since torch would pass a file descriptor between processes for each tensor."""
    torch.set_num_threads(1)
    file = io.BytesIO()
    torch.save(draw([scene(seed) for seed in seeds]), file)
    return file.getvalue()


def _pictures(parts: Sequence[Drawn]) -> Pictures:
    firsts = np.cumsum([0, *(len(part["squashed"]) for part in parts[:-1])])
    owner = torch.cat([part["owner"] + int(first) for part, first in zip(parts, firsts, strict=True)])
    squashed, attributes, cells = (
        torch.cat([part[name] for part in parts]) for name in ("squashed", "attributes", "squashed_cells")
    )
    return Pictures(squashed, owner, attributes, cells)


def _pictures_of(scenes: list[Scene]) -> Drawn:
    things = [(number, thing) for number, drawn in enumerate(scenes) for thing in drawn.objects]
    return {
        "squashed": torch.cat([_clip_pixels(aligned_image(drawn.image, CLIP_PX)) for drawn in scenes]),
        "owner": torch.tensor([number for number, _ in things]),
        "attributes": torch.tensor([attributes_of(thing) for _, thing in things]),
        "squashed_cells": torch.stack([squashed_cells_of(thing.visible) for _, thing in things]),
    }


def _pool_of(scenes: list[Scene]) -> Drawn:
    padded, cells, cutouts = list[Tensor](), list[Tensor](), list[tuple[Tensor, int, int]]()
    for drawn in scenes:
        masks = [thing.visible for thing in drawn.objects]
        padded.append(padded_input(drawn.image, DINOV2_PX, DINOV2_PX, IMAGENET_STATS, "cpu").half())
        weights = mask_weights(masks, drawn.image.shape[:2], DINOV2_GRID, "cpu")
        cells.append((weights.flatten(1) / UPSAMPLING**2).half())
        cutouts += [_cutout(drawn, mask) for mask in masks]
    return {
        **_pictures_of(scenes),
        "padded": torch.cat(padded),
        "cutouts": cutouts,
        "padded_cells": torch.cat(cells),
    }


def masked_inputs(pool: Pool, objects: Tensor, mask_only: Tensor) -> tuple[Tensor, Tensor]:
    """AlphaCLIP's input for objects int64 [B]: pixels float32 [B, 3, 128, 128] and alpha float32 [B, 1, 128, 128].

    ``mask_only`` bool [B] says which of them are shown without the rest of their scene.
    """
    black = _clip_pixels(np.zeros((1, 1, 3), np.uint8)).float()
    pixels = torch.where(
        mask_only[:, None, None, None], black, pool.pictures.squashed[pool.pictures.owner[objects]].float()
    )
    alpha = alpha_map(np.zeros((1, 1), np.bool_), CLIP_PX, "cpu").repeat(len(objects), 1, 1, 1)
    for position, index in enumerate(objects.tolist()):
        cutout = pool.cutouts[index]
        height, width = cutout.values.shape[1:]
        window = (slice(cutout.top, cutout.top + height), slice(cutout.left, cutout.left + width))
        alpha[position, 0][window] = cutout.values[3].float()
        if mask_only[position]:
            pixels[position, :, *window] = cutout.values[:3].float()
    return pixels, alpha


def mirrored(seen: Pictures, scenes: Tensor, objects: Tensor, scene_of: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
    """CLIP's pixels float32 [B, 3, 128, 128] of ``scenes`` int64 [B] and the covered parts of patches float32 [m, 64] of their
    ``objects``, left and right exchanged where ``which`` bool [B] says so; ``scene_of`` as :meth:`Pictures.objects_of` has it."""
    pixels, cells = seen.squashed[scenes].float(), seen.squashed_cells[objects].float()
    turned = cells.unflatten(1, (CLIP_GRID, CLIP_GRID)).flip(2).flatten(1)
    return (
        torch.where(which[:, None, None, None], pixels.flip(3), pixels),
        torch.where(which[scene_of, None], turned, cells),
    )


def cell_targets(cells: Tensor, scene_of: Tensor, labels: Tensor, scenes: int, kinds: int) -> Tensor:
    """Fraction of every patch that objects of each kind cover, float32 [scenes, patches, kinds + 1]; the last kind is background.

    ``cells`` [m, patches] are the covered parts, ``labels`` int64 [m] the kinds, ``scene_of`` int64 [m] the scenes.
    """
    shares = torch.zeros(scenes * kinds, cells.shape[1])
    shares.index_add_(0, scene_of * kinds + labels, cells.float())
    shares = shares.view(scenes, kinds, -1).transpose(1, 2)
    background = (1 - shares.sum(2, keepdim=True)).clamp(min=0)
    targets = torch.cat([shares, background], dim=2)
    return targets / targets.sum(2, keepdim=True)


def squashed_cells_of(mask: Mask) -> Tensor:
    """Fraction of each patch of CLIP's square that a mask bool [H, W] covers, float16 [64]."""
    square = F.interpolate(
        torch.from_numpy(mask).float()[None, None], size=(CLIP_PX, CLIP_PX), mode="bilinear", antialias=True
    )
    return F.avg_pool2d(square, CLIP_PX // CLIP_GRID).flatten().half()


def attributes_of(thing: SceneObject) -> tuple[int, int, int]:
    """Positions of an object's class, colour and texture in CLASSES, COLOURS and TEXTURES."""
    return CLASSES.index(thing.label), _COLOUR_NAMES.index(thing.colour), TEXTURES.index(thing.texture)


def _clip_pixels(image: ImageArray) -> Tensor:
    return normalise(image, CLIP_STATS, "cpu").half()


def _cutout(drawn: Scene, mask: Mask) -> tuple[Tensor, int, int]:
    """The arguments of a Cutout."""
    masked = aligned_image(drawn.image * mask[:, :, None], CLIP_PX)
    alpha = alpha_map(mask, CLIP_PX, "cpu")
    seen = (alpha[0] > alpha_map(np.zeros((1, 1), np.bool_), 1, "cpu").item()).numpy() | masked.any(axis=2)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    values = torch.cat([_clip_pixels(masked[box])[0], alpha.half()[:, *box]])
    return values, int(rows[0]), int(columns[0])
