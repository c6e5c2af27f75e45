"""Where the images of a borrower are: a split that holds no image files names images of another data set, its holder.

``column.json`` of a borrower's ``images`` names the holder. The record of each of its shards says, under :data:`HOLDER` of
``extra``, in which split of the holder each image is and which image_index it has there. Everything that is computed from pixels
alone is looked up there (:func:`store.format.names.is_of_pictures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DamagedStoreError
from .column import MAX_IMAGES, Commit
from .layout import is_name
from .schema import OK

I64 = npt.NDArray[np.int64]

HOLDER = "holder"
"""Key of ``Commit.extra``: ``splits`` (names), ``split`` (which of them, for each image) and ``index`` (image_index there)."""

Link = tuple[str, int]
"""Split of the holder, and image_index in it."""


def links_extra(links: Sequence[Link | None]) -> dict[str, Any]:
    """What the record of a shard of a borrower's ``images`` has in ``extra``. A link of None: the holder has no such image."""
    splits = list(dict.fromkeys(link[0] for link in links if link))
    return {
        HOLDER: {
            "splits": splits,
            "split": [splits.index(link[0]) if link else -1 for link in links],
            "index": [link[1] if link else -1 for link in links],
        }
    }


def links_of(commit: Commit) -> list[Link | None]:
    """The inverse of :func:`links_extra`: where each image of the shard is. Raises as :func:`link_arrays`."""
    splits, split, index = link_arrays(commit)
    pairs = zip(split.tolist(), index.tolist(), strict=True)
    return [None if which < 0 else (splits[which], number) for which, number in pairs]


def link_arrays(commit: Commit) -> tuple[tuple[str, ...], I64, I64]:
    """Splits of the holder; for each image of the shard which of them it is in (-1: none), and its image_index there.

    Raises:
        DamagedStoreError: the record holds no links, or none for an image that is ok.
    """
    found, count = commit.extra.get(HOLDER), len(commit.counts)
    if not _is_right(found, count):
        raise _damaged(commit, f"does not say where its {count} images are")
    split, index = (np.array(found[name], np.int64) for name in ("split", "index"))  # type: ignore[index]
    lost = [position for position in np.flatnonzero(split < 0).tolist() if commit.status[position] == OK]
    if lost:
        raise _damaged(commit, f"says of image {lost[0]} of the shard that it is ok, and not where it is")
    return tuple(found["splits"]), split, index  # type: ignore[index]


def _damaged(commit: Commit, what: str) -> DamagedStoreError:
    return DamagedStoreError(
        f"{commit.place}: the record of shard {commit.shard} {what}", place=commit.place, shard=commit.shard
    )


def _is_right(found: Any, images: int) -> bool:
    if not isinstance(found, Mapping) or set(found) != {"splits", "split", "index"}:
        return False
    splits, split, index = found["splits"], found["split"], found["index"]
    if not all(isinstance(each, list) for each in (splits, split, index)):
        return False
    if not set(map(type, [*split, *index])) <= {int} or not len(split) == len(index) == images:
        return False
    if not all(isinstance(name, str) and is_name(name) for name in splits):
        return False
    if not images:
        return True
    in_range = min(split) >= -1 and max(split) < len(splits) and min(index) >= -1 and max(index) < MAX_IMAGES
    return in_range and all((which < 0) == (number < 0) for which, number in zip(split, index, strict=True))
