"""A mask from a PNG: two values, one of them black, or grey values and a threshold. Anything richer is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.evaluate.cases import Question
from stages.predictions import PredictionError

_GREY = ("1", "L", "I", "I;16")
_MODES = (*_GREY, "P", "RGB")
_ORIENTATION = 0x0112
_SHOWN = 8
"""A histogram in a message has at most this many entries."""
_THRESHOLD = "--threshold N takes pixels of at least N as the mask"


@dataclass(frozen=True)
class Painted:
    """What a PNG shows.

    mask: bool [H, W]. grey: whether ``colour`` is a grey value, else it is 0xRRGGBB. colour: of the mask; None: the mask is
    empty. alone: the whole picture has that colour, which does not tell whether it is mask or background.
    """

    mask: NDArray[np.bool_]
    grey: bool
    colour: int | None
    alone: bool = False


def read_png(path: Path, question: Question, threshold: int | None = None) -> Painted:
    """Read a mask of a question's image.

    Args:
        threshold: grey values of at least this are the mask; None: there are two values, and what is not black is the mask.

    Raises:
        PredictionError: it is no PNG of one picture of the image's size without alpha, or has more than two values.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            # Before anything is decoded, so that no file of another size costs memory.
            _require_size(path, image, question)
            _require_plain(path, image)
            values, grey, largest = _values(path, image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, PredictionError):
            raise
        raise PredictionError(f"{path}: cannot be read as PNG: {error}") from error
    if threshold is not None:
        if not grey:
            raise PredictionError(f"{path}: --threshold {threshold}: found a picture in colours, expected a grey one")
        if threshold > largest:
            raise PredictionError(
                f"{path}: --threshold {threshold}: expected at most {largest}, the file's largest value"
            )
        mask: NDArray[np.bool_] = values >= threshold
        return Painted(mask, grey, largest if mask.any() else None)
    found, counts = np.unique(values, return_counts=True)
    if len(found) > 2:
        raise PredictionError(
            f"{path}: {len(found)} {'grey values' if grey else 'colours'}, expected two, one of them black. Pixels by "
            f"{'value' if grey else 'colour'}: {_histogram(found, counts, grey)}. "
            + (f"If they are scores: {_THRESHOLD}" if grey else "Save the mask itself, not drawn over the image")
        )
    if len(found) == 2 and found[0]:
        raise PredictionError(
            f"{path}: two values, and neither is black: {_histogram(found, counts, grey)}; which is the mask? Save it "
            "as 0 and 255" + (f", or {_THRESHOLD}" if grey else "")
        )
    colour = int(found[-1]) or None
    return Painted(
        values != 0, grey, colour, alone=colour is not None and len(found) == 1 and colour not in (1, largest)
    )


def require_known_colours(painted: Iterable[tuple[str, Painted]]) -> None:
    """Raise PredictionError for a picture of a single colour that is not black, white, 1 or the mask's colour in another file."""
    pictures = list(painted)
    known = {(picture.grey, picture.colour) for _, picture in pictures if not picture.alone}
    for where, picture in pictures:
        if picture.alone and (picture.grey, picture.colour) not in known:
            raise PredictionError(
                f"{where}: every pixel is {_name(picture.colour or 0, picture.grey)}, and no other file of the folder says that "
                "this is the mask's value: is all of it the mask, or none? Save it as 0 or 255"
                + (f", or {_THRESHOLD}" if picture.grey else "")
            )


def _require_size(path: Path, image: Image.Image, question: Question) -> None:
    size, expected = image.size, (question.width_px, question.height_px)
    if size == expected:
        return
    hint = ""
    if size == expected[::-1]:
        hint = "; it is turned, as if made before the image's EXIF orientation was applied"
    elif abs(size[0] * expected[1] - size[1] * expected[0]) <= max(expected):
        hint = f"; it has the image's shape at {size[0] / expected[0]:g} times its size: resize it by nearest neighbour"
    raise PredictionError(
        f"{path}: {size[0]} x {size[1]} px (width x height), expected {expected[0]} x {expected[1]} px of "
        f"{question.image_id!r}{hint}"
    )


def _require_plain(path: Path, image: Image.Image) -> None:
    if image.mode not in _MODES:
        raise PredictionError(f"{path}: mode {image.mode}, expected one without alpha: {', '.join(_MODES)}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise PredictionError(f"{path}: an animation of {frames} pictures, expected one")
    with path.open("rb") as file:
        depth, kind = file.read(26)[24:26]
    if depth == 16 and kind == 2:
        raise PredictionError(
            f"{path}: colours of 16 bits, expected 8 bits, or grey: reading them would lose the lower half"
        )
    image.load()  # EXIF may stand after the pixels
    turned = image.getexif().get(_ORIENTATION, 1)
    if turned != 1:
        raise PredictionError(f"{path}: EXIF orientation {turned}, expected an upright picture without it")
    if "transparency" in image.info and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise PredictionError(f"{path}: transparent pixels, expected a picture without alpha")


def _values(path: Path, image: Image.Image) -> tuple[NDArray[np.int64], bool, int]:
    """Grey values or 0xRRGGBB, int64 [H, W]; which of the two; and the largest value there may be."""
    if image.mode in _GREY:
        largest = 255 if image.mode in ("1", "L") else 65535
        values = np.asarray(image).astype(np.int64)
        return values * (255 if image.mode == "1" else 1), True, largest
    channels = np.asarray(image.convert("RGB")).astype(np.int64)
    values = channels @ np.array([1 << 16, 1 << 8, 1])
    if image.mode == "P":
        numbers = np.asarray(image).astype(np.int64)
        pairs = np.unique(numbers * (1 << 24) + values)
        if len(np.unique(pairs % (1 << 24))) < len(pairs):
            raise PredictionError(
                f"{path}: its palette gives several of the values {', '.join(str(pair >> 24) for pair in pairs[:_SHOWN])} one "
                "colour, so that value and colour say different things; save the mask as grey 0 and 255"
            )
    if (channels == channels[..., :1]).all():
        return channels[..., 0], True, 255
    return values, False, 0xFFFFFF


def _histogram(found: NDArray[np.int64], counts: NDArray[np.int64], grey: bool) -> str:
    """Each value with its number of pixels; many grey values as ranges, of many colours the most frequent ones."""
    if len(found) <= _SHOWN:
        return ", ".join(f"{_name(value, grey)}: {count}" for value, count in zip(found.tolist(), counts, strict=True))
    if not grey:
        most = np.argsort(-counts, kind="stable")[:_SHOWN]
        return f"{_histogram(found[most], counts[most], grey)}, and {len(found) - _SHOWN} more"
    edges = np.linspace(found[0], found[-1] + 1, _SHOWN + 1).astype(np.int64)
    pixels, _ = np.histogram(found, edges, weights=counts)
    spans = zip(edges[:-1].tolist(), edges[1:].tolist(), pixels.tolist(), strict=True)
    return ", ".join(f"{low}-{high - 1}: {int(count)}" for low, high, count in spans)


def _name(value: int, grey: bool) -> str:
    return str(value) if grey else f"#{value:06x}"
