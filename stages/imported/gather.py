"""Collects the content of imported files, checks it, and writes archives of masks and of vectors; counts all that is left out."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.images import ImageFailure
from stages.imported import Foreign, Vectors
from stages.imported.archive import MASKS, VECTORS, Writer, new_archive
from stages.imported.pictures import Picture, Pictures
from stages.imported.records import checked, counts_of, require_frame, require_storable, resized
from store import rle
from store.errors import RleError

SAME_IOU = 0.7
"""A region of a file is the annotated instance that it overlaps best, if their IoU is at least this."""

MasksOf = Callable[[Picture], Sequence[str | None]]
"""COCO RLE counts of a picture's masks, in the order of the vectors (None: a mask without a pixel); may raise ImageFailure."""


@dataclass
class Tally:
    """What was found, and what was left out and why. Names are those in the files, except in ``missing``, which has the store's."""

    pictures: int = 0
    masks: int = 0
    vectors: int = 0
    instance_vectors: int = 0
    dim: int | None = None
    without_a_pixel: int = 0
    """Masks without a pixel, which are not proposals."""
    resized: int = 0
    """Pictures whose masks had another size."""
    repeated: int = 0
    """Further entries for a picture that say the same as the first."""
    regions_left_out: int = 0
    """Regions with a vector that are no annotated instance of the picture."""
    unknown: list[str] = field(default_factory=list)
    """Names in the files that match no picture of the splits."""
    ambiguous: list[str] = field(default_factory=list)
    """Names that several pictures of the splits have."""
    failed: dict[str, str] = field(default_factory=dict)
    """Pictures from which nothing is taken -> why."""
    missing: list[str] = field(default_factory=list)
    """Pictures of the splits that are missing in the files."""


@dataclass(frozen=True)
class _Lot:
    """Vectors, float32 [K, D], and the COCO RLE counts of the mask of each."""

    counts: list[str]
    vectors: Vectors


class Gather:
    """Takes one :class:`Foreign` at a time; :meth:`finish` puts the archives under their names.

    Args:
        pictures: the pictures of the splits.
        folder: where archives are written.
        stack: an archive that is not finished when the stack is closed is removed.
        masks_of: the masks that vectors without masks belong to; None: such vectors are a failure.
        instances: sha256 -> COCO RLE counts of the annotated instances.
    """

    def __init__(
        self,
        pictures: Pictures,
        folder: Path,
        stack: contextlib.ExitStack,
        masks_of: MasksOf | None = None,
        instances: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.tally = Tally()
        self._pictures, self._folder, self._stack = pictures, folder, stack
        self._masks_of, self._instances = masks_of, instances or {}
        self._writers: dict[str, Writer] = {}
        self._seen: dict[str, bytes] = {}
        self._troubles: dict[str, str] = {}

    def take(self, foreign: Foreign) -> None:
        """Check what a file says of a picture, and add it to the archives, or note why not."""
        found = self._pictures.find(foreign.name)
        if len(found) == 1:
            try:
                self._take(foreign, found[0])
            except (ImageFailure, RleError) as error:
                self._troubles[found[0].sha256] = self.tally.failed[foreign.name] = str(error)
        elif foreign.trouble and not foreign.name:
            self.tally.failed[foreign.trouble.partition(":")[0]] = foreign.trouble
        else:
            (self.tally.ambiguous if found else self.tally.unknown).append(foreign.name)

    @property
    def taken(self) -> int:
        """Number of pictures from which something was taken."""
        return len(self._seen.keys() - self._troubles.keys())

    def finish(self, made_from: Sequence[str]) -> dict[str, str]:
        """Give the archives their final names; returns kind -> sha256 for those that are not empty.

        Args:
            made_from: sha256 of the files that were read.
        """
        there = self._seen.keys() | self._troubles.keys()
        self.tally.pictures = self.taken
        self.tally.missing = [each.name for sha256, each in self._pictures.by_sha256.items() if sha256 not in there]
        about: dict[str, dict[str, Any]] = {MASKS: {}, VECTORS: {"dim": self.tally.dim}}
        return {
            kind: writer.finish({"kind": kind, "made_from": list(made_from), **about[kind]}, self._troubles)
            for kind, writer in self._writers.items()
        }

    def _take(self, foreign: Foreign, picture: Picture) -> None:
        if foreign.trouble:
            raise ImageFailure(foreign.trouble)
        if foreign.masks is None and foreign.vectors is None:
            raise ImageFailure("found neither masks nor vectors")
        records = None
        if foreign.masks is not None:
            records = checked(foreign.masks, picture.size, foreign.frame, foreign.squashed)
        lot = self._lot(foreign, picture, records)
        regions = self._regions(foreign, picture)
        for each in (lot, regions):
            self._require_vectors(each)
        state = hashlib.sha256(repr((records, lot and lot.counts)).encode())
        state.update(b"" if lot is None else lot.vectors.tobytes())
        before = self._seen.setdefault(picture.sha256, b"")
        if before not in (b"", state.digest()):
            raise ImageFailure("it stands twice in the files, with other masks or vectors")
        self._seen[picture.sha256] = state.digest()
        if before:
            self.tally.repeated += 1
        else:
            self._add(picture, foreign, records, lot)
        if regions is not None and regions.counts:
            self._writer(VECTORS).add_vectors(picture.sha256, regions.counts, regions.vectors)
            self.tally.instance_vectors += len(regions.counts)

    def _lot(self, foreign: Foreign, picture: Picture, records: list[dict[str, Any] | None] | None) -> _Lot | None:
        """The vectors of masks that have a pixel."""
        if foreign.vectors is None:
            return None
        if records is not None:
            every: Sequence[str | None] = [None if each is None else each["segmentation"] for each in records]
        elif self._masks_of is not None:
            every = self._masks_of(picture)
        else:
            raise ImageFailure("found vectors without masks; say which proposer's masks they are of: --of PROPOSER")
        if len(every) != len(foreign.vectors):
            raise ImageFailure(f"{len(foreign.vectors)} vectors, expected one for each of {len(every)} masks")
        kept = [number for number, counts in enumerate(every) if counts is not None]
        return _Lot([counts for counts in every if counts is not None], foreign.vectors[kept])

    def _regions(self, foreign: Foreign, picture: Picture) -> _Lot | None:
        """The annotated instances that the file's regions match, best pairs first, and their vectors."""
        if foreign.region_vectors is None:
            return None
        frame = foreign.frame or picture.size
        require_frame(frame, picture.size, foreign.squashed)
        found = [resized(counts_of(each, frame), frame, picture.size) for each in foreign.regions]
        own = list(self._instances.get(picture.sha256, ()))
        common = rle.intersections(found, own) if found and own else np.zeros((len(found), len(own)), np.int64)
        areas = [np.array([rle.area(each) for each in masks], np.int64) for masks in (found, own)]
        iou = common / np.maximum(areas[0][:, None] + areas[1][None, :] - common, 1)
        pairs: list[tuple[int, int]] = []
        while iou.size and iou.max() >= SAME_IOU:
            region, instance = divmod(int(iou.argmax()), len(own))
            pairs.append((region, instance))
            iou[region], iou[:, instance] = 0, 0
        self.tally.regions_left_out += len(found) - len(pairs)
        return _Lot([own[instance] for _, instance in pairs], foreign.region_vectors[[region for region, _ in pairs]])

    def _require_vectors(self, lot: _Lot | None) -> None:
        if lot is None or not lot.counts:
            return
        dim = lot.vectors.shape[1]
        if self.tally.dim not in (None, dim):
            raise ImageFailure(f"vectors of {dim} numbers, expected {self.tally.dim} as in the pictures before")
        if not dim:
            raise ImageFailure("vectors of no numbers")
        require_storable(lot.vectors)
        self.tally.dim = dim

    def _add(
        self, picture: Picture, foreign: Foreign, records: list[dict[str, Any] | None] | None, lot: _Lot | None
    ) -> None:
        if records is not None:
            self._writer(MASKS).add_masks(picture.sha256, records)
            empty = records.count(None)
            self.tally.masks += len(records) - empty
            self.tally.without_a_pixel += empty
            self.tally.resized += foreign.frame not in (None, picture.size)
        if lot is not None and lot.counts:
            self._writer(VECTORS).add_vectors(picture.sha256, lot.counts, lot.vectors)
            self.tally.vectors += len(lot.counts)

    def _writer(self, kind: str) -> Writer:
        if kind not in self._writers:
            self._writers[kind] = self._stack.enter_context(new_archive(self._folder))
        return self._writers[kind]
