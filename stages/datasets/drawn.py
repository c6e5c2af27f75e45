"""The objects that refs are about, drawn as masks of one image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stages.datasets.base import Instance, Source
from stages.datasets.frame import turned_by
from stages.datasets.refs import INSTANCES, Picture, Ref, RefSet
from stages.datasets.segments import read_segmentation
from stages.datasets.sizes import UPRIGHT
from stages.images import ImageFailure, inside
from store import rle
from store.read.pixels import oriented

OVERLAP = "a mask whose parts overlap: here 1, in LISA's code the number of parts"


class Drawn:
    """Instances of an image, each once, in the order in which they are asked for, and notes about them.

    Args:
        picture: the image file, if another data set holds it; it is read only if a stated size differs from the upright
            image's.

    Raises:
        ImageFailure: the stated size is not that of the upright image, nor explained by its EXIF orientation.
    """

    def __init__(
        self, found: RefSet, source: Source, size_px: tuple[int, int], root: Path, picture: Path | None
    ) -> None:
        self._found, self._size_px = found, size_px
        self._about = about(found, source)
        self._turn = _turn(self._about, size_px, picture or inside(root, source.path))
        self._numbers: dict[int, int | None] = {}
        self._unions: dict[tuple[int, ...], str] = {}
        self._overlaps: set[int] = set()
        self.instances: list[Instance] = []
        self.notes = [f"objects drawn before EXIF orientation {self._turn}, turned with the image"] * (
            self._turn != UPRIGHT
        )

    def of(self, ref: Ref, ann_ids: Sequence[int]) -> tuple[tuple[int, ...], str]:
        """Numbers of the instances, and COCO RLE of their union. An object that covers no pixel is not an instance.

        Raises:
            ImageFailure: an object is missing, belongs to another picture, or cannot be drawn.
        """
        numbers = []
        for ann_id in dict.fromkeys(ann_ids):
            if ann_id not in self._numbers:
                try:
                    self._numbers[ann_id] = self._draw(ann_id)
                except ImageFailure as error:
                    raise ImageFailure(f"{ref.name}: {INSTANCES}: annotation {ann_id}: {error}") from error
            number = self._numbers[ann_id]
            numbers += [] if number is None else [number]
        self.notes += [OVERLAP] * (not self._overlaps.isdisjoint(ann_ids))
        asked = tuple(numbers)
        if asked not in self._unions:  # many refs are about the same objects
            counts = [self.instances[each].segmentation for each in asked]
            self._unions[asked] = counts[0] if len(counts) == 1 else rle.union(counts, *self._size_px)
        return asked, self._unions[asked]

    def is_crowd(self, ann_id: int) -> bool:
        """Whether an object is annotated as a crowd; False if the object is missing."""
        return ann_id in self._found.things and self._found.things[ann_id].crowd

    def _draw(self, ann_id: int) -> int | None:
        thing = self._found.things.get(ann_id)
        if thing is None:
            raise ImageFailure("not there; the file may belong to another data set")
        if thing.image != self._about.number:
            raise ImageFailure(f"is of image {thing.image!r:.40}, expected {self._about.number}")
        height_px, width_px = self._size_px if self._turn == UPRIGHT else self._size_px[::-1]
        region = read_segmentation(json.loads(thing.segmentation), height_px, width_px)
        self.notes += ["a polygon of fewer than three points, or half a point, left out"] * region.dropped
        self._overlaps |= {ann_id} if region.overlaps else set()
        mask = oriented(region.mask, self._turn)
        if not mask.any():
            self.notes.append("an object that is drawn on no pixel")
            return None
        self.instances.append(Instance(rle.encode(mask), thing.label))
        return len(self.instances) - 1


def about(found: RefSet, source: Source) -> Picture:
    """The picture of a source. ImageFailure if the files of refs no longer have it, or do not list it."""
    picture = found.pictures.get(source.image_id)
    if picture is None:
        raise ImageFailure(f"{source.annotations[0]} has no refs about it")
    if not picture.listed:
        raise ImageFailure(f"{INSTANCES} lists no image {picture.number}")
    return picture


def _turn(about: Picture, size_px: tuple[int, int], picture: Path) -> int:
    """EXIF orientation that must still be applied to the objects, or UPRIGHT. The stated size is that of their frame."""
    height, width = (size_px[axis] if each is None else each for axis, each in enumerate(about.size_px))
    return turned_by(f"image {about.number} in {INSTANCES}", (height, width), size_px, picture)
