"""What a data set's loader gives: sources (files of an image) and annotations (its instances and targets)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class DatasetError(ValueError):
    """The data set's folder is not what its format says, and no single image is to blame."""


@dataclass(frozen=True)
class Source:
    """The files of one image; paths are POSIX, relative to the data set's root."""

    image_id: str
    """Stable and unique within the split."""
    path: str
    """The image file. An annotation without an image has the path where one was expected."""
    annotations: tuple[str, ...]
    """Files that decide the annotation, those that exist; empty: the image has none."""


@dataclass(frozen=True)
class Instance:
    """One annotated region; ``segmentation`` is a COCO RLE in the frame of the EXIF-oriented image."""

    segmentation: str
    label: str


@dataclass(frozen=True)
class Target:
    """One question about an image, in all its wordings, and its answer."""

    target_id: str
    instances: tuple[int, ...]
    """Indices into the annotation's instances; their union is ``segmentation``."""
    texts: tuple[str, ...]
    is_sentence: bool
    """Texts are sentences (a long query), not noun phrases (a short one)."""
    kind: str
    answer: str | None
    """Answer in words, where the data set has one."""
    segmentation: str
    """COCO RLE of the answer, empty where it is absent from the image."""
    ignore: str
    """COCO RLE of the pixels that no metric counts; disjoint from ``segmentation``."""


@dataclass(frozen=True)
class Annotation:
    """Instances and targets of one image."""

    instances: tuple[Instance, ...]
    targets: tuple[Target, ...]
    notes: tuple[str, ...] = ()
    """What was not read in the usual way, one entry for each time; they are counted, and ``index`` prints how many there are."""


class Dataset(Protocol):
    """What a loader module has. It is stateless: ``annotate`` is called in any order and in any process."""

    def list_sources(self, root: Path, split: str, encoding: str | None = None) -> list[Source]:
        """Give the sources of a split in a stable order; DatasetError where its folder is unusable.

        ``encoding``: of annotation files that are not UTF-8; it is given where the params name one (``data.NAME.encoding``).
        """

    def annotate(
        self,
        root: Path,
        source: Source,
        height_px: int,
        width_px: int,
        encoding: str | None = None,
        picture: Path | None = None,
    ) -> Annotation:
        """Read the annotation of an image of this EXIF-oriented size; ImageFailure where it is unusable.

        ``picture``: the image file, where another data set holds it; None: ``source.path`` below ``root``.

        Of a source without annotations the failure says what was expected; the image's status becomes ``absent``.
        """
