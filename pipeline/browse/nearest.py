"""The masks of a split whose vectors are most like that of one mask, by the cosine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.browse.jobs import Advance, Jobs
from pipeline.browse.outlines import outline
from pipeline.browse.shelf import Shown, UnknownError
from store.errors import FailedImageError, IncompleteColumnError
from store.format.names import proposer_of, without_proposer
from store.read.borrowed import AnyColumn

SHOWN = 24
"""This many neighbours."""
_BATCH = 512
"""Images whose vectors are compared at once."""

F32 = NDArray[np.float32]


class Neighbour(NamedTuple):
    """A mask. ``cosine``: of its vector with that of the mask that was asked about."""

    image_index: int
    mask: int
    cosine: float


def encoders(shown: Shown) -> dict[str, dict[str, list[str]]]:
    """Proposer -> encoder -> columns of its masks' vectors, as embedded first, then minus each train mean."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(shown.columns(), key=lambda name: (name.startswith("centered/"), name)):
        parts, proposer = without_proposer(name).split("/"), proposer_of(name)
        if proposer is not None and "mask_embeddings" in parts[:-1]:
            found.setdefault(proposer, {}).setdefault(parts[-1], []).append(name)
    return found


def nearest(shown: Shown, jobs: Jobs, column: str, image_index: int, mask: int, apart: bool) -> dict[str, Any]:
    """The nearest masks of the split, most alike first, each with where it lies in its image.

    Args:
        column: of vectors, one a mask of a proposer. apart: of each image only the nearest mask.

    Raises:
        UnknownError: there is no such column, or the mask has no vector in it.
        NotYetError: vectors are still being compared.
        StoreError: the column cannot be opened.
    """
    known = [name for each in encoders(shown).values() for names in each.values() for name in names]
    if column not in known:
        raise UnknownError(f"no vectors {column!r}; there are {', '.join(known) or 'none'}")
    key = (shown.number, "nearest", column, image_index, mask, apart)
    found = jobs.result(
        key, f"nearest masks by {column}", lambda advance: _search(shown, column, image_index, mask, apart, advance)
    )
    proposer = str(proposer_of(column))
    return {"column": column, "masks": [_shown(shown, proposer, each) for each in found]}


def _search(shown: Shown, column: str, image_index: int, mask: int, apart: bool, advance: Advance) -> list[Neighbour]:
    source = shown.with_columns(column).columns[column]
    own = _vectors(source, image_index)
    if own is None or mask >= len(own):
        raise UnknownError(
            f"mask {mask} of image {image_index} has no vector in {column}: found {0 if own is None else len(own)} vectors; "
            "the largest masks are embedded (embed.max_masks)"
        )
    query = _unit(own[mask : mask + 1])[0]
    best: list[Neighbour] = []
    for cosines, image, number in _compared(source, query, len(shown), advance):
        itself = (image == image_index) & (number == mask)
        cosines = np.where(itself, -np.inf, cosines)
        best += _top(cosines, image, number, apart)
        best = sorted(best, key=lambda each: (-each.cosine, each.image_index, each.mask))[:SHOWN]
    return best


def _compared(
    source: AnyColumn, query: F32, images: int, advance: Advance
) -> Iterator[tuple[F32, NDArray[np.int64], NDArray[np.int64]]]:
    """Cosines with the query, and image and mask of each, for some images after the others."""
    for first in range(0, images, _BATCH):
        advance(first, images)
        some = range(first, min(images, first + _BATCH))
        found = [
            (index, vectors) for index in some if (vectors := _vectors(source, index)) is not None and len(vectors)
        ]
        if found:
            lengths = [len(vectors) for _, vectors in found]
            cosines = _unit(np.concatenate([vectors for _, vectors in found])) @ query
            number = np.concatenate([np.arange(length) for length in lengths])
            yield cosines, np.repeat([index for index, _ in found], lengths), number


def _vectors(source: AnyColumn, image_index: int) -> NDArray[Any] | None:
    """[k, D]; None where the image has none, as it failed or its shard is not there."""
    try:
        return source.array(image_index)
    except (FailedImageError, IncompleteColumnError):
        return None


def _unit(vectors: NDArray[Any]) -> F32:
    """Of length 1; a zero vector stays one."""
    values = vectors.astype(np.float32)
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    unit: F32 = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return unit


def _top(cosines: F32, image: NDArray[np.int64], number: NDArray[np.int64], apart: bool) -> list[Neighbour]:
    order = np.lexsort((number, image, -cosines))
    if apart:
        _, firsts = np.unique(image[order], return_index=True)
        order = order[np.sort(firsts)]
    order = order[np.isfinite(cosines[order])][:SHOWN]
    return [Neighbour(int(image[at]), int(number[at]), float(cosines[at])) for at in order]


def _shown(shown: Shown, proposer: str, found: Neighbour) -> dict[str, Any]:
    (row,) = shown.opened.columns["images"].table_rows(found.image_index)
    (masks,) = shown.opened.columns[f"masks/{proposer}"].table_rows(found.image_index)
    return {
        "index": found.image_index,
        "id": row["image_id"],
        "sha256": row["sha256"],
        "mask": found.mask,
        "cosine": round(found.cosine, 4),
        "crop": _crop(masks["bbox"][found.mask], row["width_px"], row["height_px"]),
        "d": outline(masks["segmentation"][found.mask], row["height_px"]),
    }


def _crop(box: list[int], width_px: int, height_px: int) -> list[int]:
    """A square around a mask's box with some room, XYWH px, cut at the image's borders."""
    x, y, width, height = box
    side = max(32, round(1.5 * max(width, height)))
    left = max(0, min(x + width // 2 - side // 2, width_px - side))
    top = max(0, min(y + height // 2 - side // 2, height_px - side))
    return [left, top, min(side, width_px - left), min(side, height_px - top)]
