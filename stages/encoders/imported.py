"""Vectors that another program made, from the archive that ``python cli.py import`` wrote. The pixels are not used.

A vector is found by its mask, so it does not matter in which order masks are stored, nor which of them are.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.encoders import Encoder, Vectors
from stages.images import ImageFailure
from stages.imported.archive import VECTORS, Archive, mask_key


class Imported:
    """Looks vectors up.

    Args:
        encoder: the line of the archive (:func:`stages.encoders.imported_line`).
        paths: its name -> the archive, whose digest was checked.

    Raises:
        ValueError: the file is not an archive of vectors, or its vectors have another length.
    """

    def __init__(self, encoder: Encoder, paths: Mapping[str, Path]) -> None:
        (name,) = encoder.weights
        self.archive = Archive(paths[name], VECTORS)
        if (dim := self.archive.about["dim"]) != encoder.dim:
            raise ValueError(f"{paths[name]}: its vectors have {dim} numbers, the params say dim: {encoder.dim}")

    def vectors(self, sha256: str, masks: Sequence[str]) -> Vectors:
        """The vectors, float32 [K, dim], of masks (COCO RLE counts) of the picture whose file has this digest.

        Raises:
            ImageFailure: there are no vectors of the picture, or not for all of these masks.
        """
        if trouble := self.archive.trouble(sha256):
            raise ImageFailure(trouble)
        keys, vectors = self.archive.vectors(sha256)
        places: dict[str, deque[int]] = defaultdict(deque)
        for place, key in enumerate(keys):
            places[key].append(place)
        wanted = [places.get(mask_key(counts)) for counts in masks]
        if lacking := wanted.count(None):
            raise ImageFailure(f"the imported vectors have none of {lacking} of its {len(masks)} masks")
        # among equal masks the first gets the first vector: they are stored in their original order
        return vectors[[at.popleft() if len(at) > 1 else at[0] for at in wanted if at is not None]]
