"""Where the images of a borrower are: a split that holds no image files names images of another data set, its holder.

``column.json`` of a borrower's ``images`` names the holder. The record of each of its shards says, under :data:`HOLDER` of
``extra``, in which split of the holder each image is and which image_index it has there. Everything that is computed from pixels
alone is looked up there (:func:`store.format.names.is_of_pictures`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DamagedStoreError
from .column import Commit
from .layout import is_name

HOLDER = "holder"
"""Key of ``Commit.extra``: ``splits`` (names), ``split`` (which of them, for each image) and ``index`` (image_index there)."""

Link = tuple[str, int]
"""Split of the holder, and image_index in it."""


def links_extra(links: Sequence[Link | None]) -> dict[str, Any]:
    """What the record of a shard of a borrower's ``images`` has in ``extra``. None: the holder has no such image."""
    splits = list(dict.fromkeys(link[0] for link in links if link))
    return {
        HOLDER: {
            "splits": splits,
            "split": [splits.index(link[0]) if link else -1 for link in links],
            "index": [link[1] if link else -1 for link in links],
        }
    }


def links_of(commit: Commit) -> list[Link | None]:
    """The inverse of :func:`links_extra`: for each image of the shard where it is.

    Raises:
        DamagedStoreError: the record says nothing of the kind.
    """
    found = commit.extra.get(HOLDER)
    if not _is_right(found, len(commit.counts)):
        raise DamagedStoreError(
            f"{commit.place}: the record of shard {commit.shard} does not say where its {len(commit.counts)} images are",
            place=commit.place,
            shard=commit.shard,
        )
    splits = found["splits"]  # type: ignore[index]
    return [
        None if split < 0 else (splits[split], index)
        for split, index in zip(found["split"], found["index"], strict=True)  # type: ignore[index]
    ]


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
    return all(
        -1 <= which < len(splits) and -1 <= number < 2**33 and (which < 0) == (number < 0)
        for which, number in zip(split, index, strict=True)
    )
