"""The state of each image in a column and its number of entries there, as arrays that are read from the records of the shards."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from store.format.schema import ABSENT, FAILED, OK, REMOVED
from store.read.borrowed import AnyColumn, Borrowed

NOT_COMPUTED = "not computed"
NAMES = (OK, FAILED, REMOVED, ABSENT, NOT_COMPUTED)
"""States in the order of their codes."""
_NUMBER = {name: number for number, name in enumerate(NAMES)}


class States(NamedTuple):
    """The states of images. ``code``: index into :data:`NAMES`, uint8 [N]; ``entries``: number of masks, targets or vectors, int32
    [N]."""

    code: NDArray[np.uint8]
    entries: NDArray[np.int32]

    def are(self, name: str) -> NDArray[np.bool_]:
        """Which images are of this state, bool [N]."""
        return np.asarray(self.code == _NUMBER[name])


def states(column: AnyColumn, images: int) -> States:
    """The states of the images of a split that has the column, or borrows it. The column may have fewer or more images."""
    found = States(np.full(images, _NUMBER[NOT_COMPUTED], np.uint8), np.zeros(images, np.int32))
    if isinstance(column, Borrowed):
        own = states(column.borrowing.images, images)
        not_there = column.borrowing.split < 0
        found.code[not_there] = own.code[not_there]
        for which, part in enumerate(column.columns):
            mine = column.borrowing.split == which
            theirs, index = states(part, part.meta.images), column.borrowing.index[mine]
            inside = index < part.meta.images  # the holder may have grown since
            places = np.flatnonzero(mine)[inside]
            found.code[places], found.entries[places] = theirs.code[index[inside]], theirs.entries[index[inside]]
        return found
    for commit in column.commits:
        if commit is not None:
            first = commit.shard * column.meta.shard_images
            span = slice(first, min(first + len(commit.counts), images))
            there = max(0, span.stop - first)
            found.entries[span] = commit.counts[:there]
            all_ok = commit.status.count(OK) == len(commit.status)
            found.code[span] = 0 if all_ok else [_NUMBER[status] for status in commit.status[:there]]
    return found
