"""The picture of one answer: the masks that a system chose, or the mask that it made, over the photograph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from stages.report import overlays
from store import rle
from store.outlines import colour_of


def answer_png(
    pixels: NDArray[np.uint8] | None, full: tuple[int, int], chosen: Mapping[int, str], segmentation: str | None
) -> bytes:
    """The answer as a PNG file, at most 640 px long.

    Args:
        pixels: uint8 [H, W, 3] RGB; None: masks are drawn on gray.
        full: height and width of the image, px.
        chosen: number of each chosen mask, which is drawn on it -> COCO RLE counts.
        segmentation: COCO RLE counts of the answer's mask, where it is not a choice of proposals.
    """
    size = overlays.shown_size(*full)
    below = (
        np.full((*size, 3), overlays.NO_PHOTOGRAPH, np.uint8)
        if pixels is None
        else overlays.resize_photograph(pixels, size)
    )
    layer = overlays.new_layer(size)
    numbers = sorted(chosen)  # the largest first
    counts = [chosen[number] for number in numbers] or ([] if segmentation is None else [segmentation])
    masks = [overlays.resize_mask(rle.decode(each, *full), size) for each in counts]
    colours = [colour_of(number) for number in numbers] or [overlays.ANSWER] * len(masks)
    overlays.draw_masks(layer, masks, colours, [str(number) for number in numbers] or [""] * len(masks))
    return overlays.flat_png(below, layer)
