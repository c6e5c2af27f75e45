"""Numbered masks drawn as transparent layers, to be laid over a photograph: by the page, or flat into a PNG.

A layer is uint8 [h, w, 4], RGBA with its colours multiplied by their alpha: OpenCV's anti-aliasing then blends right.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LONG_SIDE_PX = 640
"""Longest side of a picture on the page; a large image is reduced to it."""
MOST_ENLARGED = 4
"""A small image is enlarged by at most this factor, so that numbers can be read."""
FILL = 0.38
"""Opacity of a mask's inside."""
TRUTH = (0, 220, 90)
"""RGB of the ground truth."""
ANSWER = (255, 60, 200)
"""RGB of a predicted mask that is not a proposal."""
NO_PHOTOGRAPH = 119
"""Gray value under the masks of an image whose photograph is gone; as in the page's style."""

_BLACK, _WHITE, _GRAY = (0, 0, 0), (255, 255, 255), (150, 150, 150)
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.6

Layer = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]


def shown_size(height_px: int, width_px: int) -> tuple[int, int]:
    """Height and width, px, that an image is drawn at."""
    scale = min(LONG_SIDE_PX / max(height_px, width_px), MOST_ENLARGED)
    return max(1, round(height_px * scale)), max(1, round(width_px * scale))


def resize_photograph(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """RGB [H, W, 3] at the size of the layers, (h, w)."""
    smaller = size[0] < pixels.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=how), np.uint8)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask [H, W] at the size of the layers, (h, w); what is thinner than a pixel stays visible."""
    share = cv2.resize(np.ascontiguousarray(mask, np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    half: Mask = share >= 0.5
    return half if half.any() else share > 0


def new_layer(size: tuple[int, int]) -> Layer:
    """An empty layer."""
    return np.zeros((*size, 4), np.uint8)


def draw_masks(layer: Layer, masks: list[Mask], colours: list[Colour], names: list[str]) -> None:
    """Fill, outline and name masks, each bool [h, w]. Later ones lie on top, so give the largest first."""
    for mask, colour in zip(masks, colours, strict=True):
        _fill(layer, mask, colour)
    for mask, colour in zip(masks, colours, strict=True):
        outline(layer, mask, colour)
    above = np.zeros(layer.shape[:2], bool)
    places = []
    for mask in reversed(masks):
        visible = mask & ~above
        places.append(_innermost(visible if visible.any() else mask))
        above |= mask
    for name, colour, place in zip(names, colours, reversed(places), strict=True):
        if name and place is not None:
            _write(layer, name, colour, place)


def outline(layer: Layer, mask: Mask, colour: Colour = _WHITE) -> None:
    """A coloured line on top of a wider black one, visible on any background."""
    for line, radius_px in ((_BLACK, 3), (colour, 2)):
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
        area = mask.astype(np.uint8)
        layer[cv2.dilate(area, disc) != cv2.erode(area, disc)] = (*line, 255)


def hatch(layer: Layer, mask: Mask) -> None:
    """Grey and black stripes: pixels that do not count."""
    rows, columns = np.indices(mask.shape)
    stripe = (rows + columns) // 4 % 3
    for number, colour in ((0, _GRAY), (1, _BLACK)):
        layer[mask & (stripe == number)] = (*(round(0.75 * part) for part in colour), round(0.75 * 255))


def layer_png(layer: Layer) -> bytes:
    """The layer as a PNG file with transparency."""
    alpha = layer[:, :, 3:].astype(np.float32)
    colours = np.divide(
        layer[:, :, :3] * 255.0, alpha, out=np.zeros(layer[:, :, :3].shape, np.float32), where=alpha > 0
    )
    straight = np.concatenate([np.clip(colours, 0, 255), alpha], axis=2).round().astype(np.uint8)
    return _encoded(".png", cv2.cvtColor(straight, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_PNG_COMPRESSION, 9])


def flat_png(photograph: NDArray[np.uint8], layer: Layer) -> bytes:
    """Photograph [h, w, 3] and layer in one PNG file."""
    alpha = layer[:, :, 3:].astype(np.float32) / 255
    flat = np.clip(photograph * (1 - alpha) + layer[:, :, :3], 0, 255).round().astype(np.uint8)
    return _encoded(".png", cv2.cvtColor(flat, cv2.COLOR_RGB2BGR), [])


def photograph_jpeg(pixels: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """The photograph as the page has it: a large one reduced to the layers' size, a small one as it is."""
    photograph = resize_photograph(pixels, size) if size[0] < pixels.shape[0] else pixels
    return _encoded(".jpg", cv2.cvtColor(photograph, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])


def _encoded(suffix: str, pixels: Any, how: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, pixels, how)
    if not done:
        raise ValueError(f"OpenCV cannot encode {pixels.shape} as {suffix}")
    return bytes(data)


def _fill(layer: Layer, mask: Mask, colour: Colour) -> None:
    inside = layer[mask].astype(np.float32)
    layer[mask] = (inside * (1 - FILL) + np.array([*colour, 255]) * FILL).round().astype(np.uint8)


def _innermost(mask: Mask) -> tuple[int, int] | None:
    """X and y of the pixel that is farthest from the mask's border; None for the empty mask."""
    if not mask.any():
        return None
    framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(distance)), mask.shape)
    return int(x), int(y)


def _write(layer: Layer, name: str, colour: Colour, place: tuple[int, int]) -> None:
    (width, height), _ = cv2.getTextSize(name, _FONT, _FONT_SCALE, 2)
    left = int(np.clip(place[0] - width // 2, 3, max(3, layer.shape[1] - width - 4)))
    bottom = int(np.clip(place[1] + height // 2, height + 3, max(height + 3, layer.shape[0] - 4)))
    corners = (left - 3, bottom - height - 3), (left + width + 2, bottom + 3)
    cv2.rectangle(layer, *corners, (*_BLACK, 255), -1)
    cv2.rectangle(layer, *corners, (*colour, 255), 1)
    cv2.putText(layer, name, (left, bottom), _FONT, _FONT_SCALE, (*_WHITE, 255), 1, cv2.LINE_AA)
