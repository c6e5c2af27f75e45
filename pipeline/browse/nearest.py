"""The masks of a split whose vectors have the largest cosine with that of one mask, or with that of a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.browse.jobs import Advance, Jobs
from pipeline.browse.query import WrongError
from pipeline.browse.shelf import Shown, UnknownError
from pipeline.browse.towers import Towers
from stages.encoders import why_no_text
from store.errors import FailedImageError, IncompleteColumnError
from store.format.names import proposer_of, without_proposer
from store.outlines import outline
from store.read.borrowed import AnyColumn

SHOWN = 24
"""How many neighbours are found."""
_BATCH = 512
"""How many images' vectors are compared at once."""

F32 = NDArray[np.float32]


class Neighbour(NamedTuple):
    """A mask. ``cosine``: of its vector with the one that was asked about."""

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
    """The masks of the split that are nearest to one of them, each with where it lies in its image.

    Args:
        column: of vectors, one per mask of a proposer. apart: take only the nearest mask of each image.

    Raises:
        UnknownError: there is no such column, or the mask has no vector in it.
        NotYetError: vectors are still being compared.
        StoreError: the column cannot be opened.
    """
    _require(shown, column)

    def work(advance: Advance) -> list[Neighbour]:
        source = shown.with_columns(column).columns[column]
        own = _vectors(source, image_index)
        if own is None or mask >= len(own):
            raise UnknownError(
                f"mask {mask} of image {image_index} has no vector in {column}: found {0 if own is None else len(own)} vectors; "
                "only the largest masks are embedded (embed.max_masks)"
            )
        query = _unit(own[mask : mask + 1])[0]
        return _search(source, query, len(shown), apart, advance, itself=Neighbour(image_index, mask, 1.0))

    found = jobs.result((shown.number, "nearest", column, image_index, mask, apart), f"nearest masks by {column}", work)
    return _answer(shown, column, found)


def described(shown: Shown, jobs: Jobs, towers: Towers, column: str, text: str, apart: bool) -> dict[str, Any]:
    """The masks of the split that are nearest to a text, by the text tower of a column's encoder; the rest as in :func:`nearest`.

    Raises:
        UnknownError: there is no such column, its vectors are minus a mean, or no text tower belongs to them.
        WeightsError: the file of the text tower is not here.
        WrongError: the text has no words, or too many.
    """
    _require(shown, column)

    def work(advance: Advance) -> list[Neighbour]:
        source = shown.with_columns(column).columns[column]
        tower = towers.get(column.rpartition("/")[2], source)
        try:
            query = tower.embed(text)
        except ValueError as error:
            raise WrongError(str(error)) from error
        return _search(source, query, len(shown), apart, advance, project=tower.project)

    if why := why_no_texts(column):
        raise UnknownError(why)
    found = jobs.result((shown.number, "described", column, text, apart), f"masks near the text by {column}", work)
    return _answer(shown, column, found)


def why_no_texts(column: str) -> str:
    """Why no text can be compared with the vectors of a column; empty where it can."""
    if column.startswith("centered/"):
        return f"{column}: texts are compared with vectors as embedded, not with those minus a mean"
    return why_no_text(column.rpartition("/")[2])


def _require(shown: Shown, column: str) -> None:
    known = [name for each in encoders(shown).values() for names in each.values() for name in names]
    if column not in known:
        raise UnknownError(f"no vectors {column!r}; there are {', '.join(known) or 'none'}")


def _answer(shown: Shown, column: str, found: list[Neighbour]) -> dict[str, Any]:
    proposer = str(proposer_of(column))
    return {"column": column, "proposer": proposer, "masks": [_shown(shown, proposer, each) for each in found]}


def _search(
    source: AnyColumn,
    query: F32,
    images: int,
    apart: bool,
    advance: Advance,
    itself: Neighbour | None = None,
    project: Callable[[NDArray[Any]], F32] | None = None,
) -> list[Neighbour]:
    """The masks nearest to ``query``, float32 [D] of length 1, without ``itself``.

    ``project``: stored vectors [k, dim] -> [k, D], where the query is of another space.
    """
    best: list[Neighbour] = []
    for first in range(0, images, _BATCH):
        advance(first, images)
        some = range(first, min(images, first + _BATCH))
        found = [(index, own) for index in some if (own := _vectors(source, index)) is not None and len(own)]
        if not found:
            continue
        vectors, lengths = np.concatenate([own for _, own in found]), [len(own) for _, own in found]
        cosines = _unit(vectors if project is None else project(vectors)) @ query
        image, number = np.repeat([index for index, _ in found], lengths), np.concatenate([*map(np.arange, lengths)])
        if itself is not None:
            cosines[(image == itself.image_index) & (number == itself.mask)] = -np.inf
        best += _top(cosines, image, number, apart)
        best = sorted(best, key=lambda each: (-each.cosine, each.image_index, each.mask))[:SHOWN]
    return best


def _vectors(source: AnyColumn, image_index: int) -> NDArray[Any] | None:
    """The vectors of an image, [k, D]; None where it has none because it failed or its shard is not there."""
    try:
        return source.array(image_index)
    except (FailedImageError, IncompleteColumnError):
        return None


def _unit(vectors: NDArray[Any]) -> F32:
    """The vectors with length 1; a zero vector stays zero."""
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
