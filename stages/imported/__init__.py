"""Masks and vectors that another program made: read, checked against the pictures, and kept in an archive.

A reader (one file per format) gives a :class:`Foreign` per picture. ``gather.py`` finds the picture in the store, checks the
masks and vectors and writes them to an archive, whose sha256 stands in the params. A proposer and an encoder of the kind
``imported`` read the archive. Nothing in a file from another program is evaluated, unpickled or opened as a path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class ImportFailure(ValueError):  # noqa: N818
    """A file cannot be read at all, and nothing is taken from it.

    An error in a single picture becomes that picture's ``trouble``.
    """


@dataclass(frozen=True)
class Foreign:
    """What a file says of one picture, unchanged; only types are checked.

    Args:
        name: what the file calls the picture: a name or a path, with or without its suffix.
        masks: a dict per mask with SAM's names, ``segmentation`` a COCO RLE of ``size`` and ``counts``; None: it has none.
        frame: (height, width) px that the masks are in, where that may be another size than the picture's.
        squashed: ``frame`` need not have the picture's proportions.
        vectors: float32 [K, D], one row per mask in the same order; None: it has none.
        regions: annotated regions that have vectors too, a COCO RLE each, in ``frame``; ``region_vectors``: float32 [R, D].
        trouble: why nothing can be taken.
    """

    name: str
    masks: Sequence[Any] | None = None
    frame: tuple[int, int] | None = None
    squashed: bool = False
    vectors: Vectors | None = None
    regions: Sequence[Any] = ()
    region_vectors: Vectors | None = None
    trouble: str | None = None


Each = Callable[[Foreign], None]
"""Called with what a file says of each picture, in the file's order."""
