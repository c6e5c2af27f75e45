"""Pictures for models and for people: the whole image, the answer outlined in it, and a crop around the answer.

Nothing is read before a picture is sent. Its digest is worked out from the file's digest and from what is done to its pixels.
"""

from __future__ import annotations

import hashlib
import io
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.images import ImageFailure, read_image
from stages.questions.items import Scene
from stages.questions.requests import Picture
from stages.report.overlays import resize_mask
from store import rle
from store.storage.files import digest

VERSION = 1
"""Part of every digest: raise it with any change of the pixels that are sent."""
LIGHT, DARK = (255, 235, 60), (0, 0, 0)
"""RGB of the outline and of its rim: at least one of them is visible on any background."""
CONTEXT = 0.5
"""A crop shows this share of the longer side of the answer's box around it, on each side, and at least ``LEAST_CONTEXT_PX``."""
LEAST_CONTEXT_PX = 16
MOST_ENLARGED = 4
"""A crop is enlarged by at most this factor."""

_LINE = 1 / 384  # width of the outline relative to the longer side: 2 px of 768
_JPEG = {"quality": 90, "subsampling": 0}  # colours at full resolution, else a thin line fades

Box = tuple[int, int, int, int]
"""X, y, width and height, px."""


def whole(scene: Scene, side_px: int) -> Picture:
    """The image, reduced so that its longer side has at most ``side_px``.

    The picture's ``load`` raises ImageFailure if the file is not the one that was indexed, and OSError if it is missing.
    """
    box = (0, 0, scene.width_px, scene.height_px)
    return _picture(scene, "whole", None, box, _size(box, side_px, enlarged=1))


def outlined(scene: Scene, counts: str, side_px: int) -> Picture:
    """The image as from :func:`whole`, with a light line and a dark rim around the answer.

    The answer is not covered, unless it is the whole image: then the line runs along the image's edges.

    Args:
        counts: COCO RLE counts of the answer's mask, of the size of the image.

    Raises:
        RleError: the counts are not of the image's size.
        ValueError: the mask has no pixel.
    """
    box = (0, 0, scene.width_px, scene.height_px)
    _answer_box(scene, counts)
    return _picture(scene, "outlined", counts, box, _size(box, side_px, enlarged=1))


def crop(scene: Scene, counts: str, crop_px: int) -> Picture:
    """The answer with its surroundings, without an outline, its longer side at most ``crop_px``.

    ``counts`` and errors as for :func:`outlined`.
    """
    box = surroundings(_answer_box(scene, counts), scene.height_px, scene.width_px)
    return _picture(scene, "crop", None, box, _size(box, crop_px, enlarged=MOST_ENLARGED))


def surroundings(box: Box, height_px: int, width_px: int) -> Box:
    """The part of an image that shows a box in its context."""
    x, y, width, height = box
    margin = max(round(CONTEXT * max(width, height)), LEAST_CONTEXT_PX)
    left, top = max(0, x - margin), max(0, y - margin)
    right, bottom = min(width_px, x + width + margin), min(height_px, y + height + margin)
    return left, top, right - left, bottom - top


def _answer_box(scene: Scene, counts: str) -> Box:
    (box, area) = rle.bbox_and_area(rle.union([counts], scene.height_px, scene.width_px), scene.height_px)
    if not area:
        raise ValueError(f"{scene.image_id}: the answer's mask has no pixel; expected a mask that can be outlined")
    return box


def _size(box: Box, side_px: int, enlarged: int) -> tuple[int, int]:
    """Width and height, px, that a part of an image is sent at."""
    _, _, width_px, height_px = box
    scale = min(side_px / max(width_px, height_px), enlarged)
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def _picture(scene: Scene, what: str, counts: str | None, box: Box, size: tuple[int, int]) -> Picture:
    marked = None if counts is None else hashlib.sha256(counts.encode()).hexdigest()
    decides = [VERSION, what, scene.sha256, [scene.height_px, scene.width_px], marked, box, size]
    return Picture(digest(decides), *size, partial(_jpeg, scene, counts, box, size))


def _jpeg(scene: Scene, counts: str | None, box: Box, size: tuple[int, int]) -> bytes:
    left, top, width, height = box
    part = _pixels(scene)[top : top + height, left : left + width]
    pixels = np.array(Image.fromarray(part).resize(size, Image.Resampling.LANCZOS))
    if counts is not None:
        mask = rle.decode(counts, scene.height_px, scene.width_px)[top : top + height, left : left + width]
        _draw_outline(pixels, resize_mask(mask, size[::-1]))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **_JPEG)
    return file.getvalue()


def _pixels(scene: Scene) -> NDArray[np.uint8]:
    """RGB [H, W, 3] of the file that was indexed, and of no other."""
    path = Path(scene.path)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != scene.sha256:
            raise ImageFailure(f"sha256 is {found}, expected {scene.sha256}: the file has changed; run index again")
        pixels = read_image(path, scene.height_px * scene.width_px)  # no larger picture is decoded
    except ImageFailure as failure:
        raise ImageFailure(f"image {scene.image_id}: {failure}") from failure
    if pixels.shape[:2] != (scene.height_px, scene.width_px):
        expected = f"expected {scene.height_px} x {scene.width_px}"
        raise ImageFailure(
            f"image {scene.image_id}: {pixels.shape[0]} x {pixels.shape[1]} px, {expected}; run index again"
        )
    return pixels


def _draw_outline(pixels: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
    """A light line just outside the mask and a dark one around it, on RGB [h, w, 3], in place."""
    line_px = max(1, round(_LINE * max(mask.shape)))
    if mask.all():  # the mask is the whole picture
        rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) for side in mask.shape)
        from_edge = np.minimum.outer(rows, columns)
        light, both = from_edge < line_px, from_edge < 2 * line_px
    else:
        light, both = (_grown(mask, radius_px) & ~mask for radius_px in (line_px, 2 * line_px))
    pixels[both] = DARK
    pixels[light] = LIGHT


def _grown(mask: NDArray[np.bool_], radius_px: int) -> NDArray[np.bool_]:
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    grown: NDArray[np.bool_] = cv2.dilate(mask.astype(np.uint8), disc) > 0
    return grown
