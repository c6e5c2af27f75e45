"""What a data set's loader gives: sources (files of an image) and annotations (its instances and targets)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stages.images import ImageFailure, check_inside
from store.addresses import is_remote
from store.read.folders import Folders
from store.storage.listing import is_there


class DatasetError(ValueError):
    """The data set's folder is not what its format says, and no single image is to blame."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one image; paths are POSIX, relative to the data set's root."""

    image_id: str
    """Stable and unique within the split."""
    path: str
    """The image file. An annotation without an image has the path where one was expected."""
    annotations: tuple[str, ...]
    """Files that decide the annotation, those that exist; empty: the image has none."""
    others: tuple[str, ...] = ()
    """Further files of the same picture: the next one is taken where one cannot be decoded."""
    content: str = ""
    """sha256 of all that files of the whole data set say of this image in this split, and of nothing else; empty: any change of
    a file of ``annotations`` may be one of the image's annotation."""
    own: tuple[str, ...] = ()
    """Where there is a ``content``: files of ``annotations`` that it does not cover, as they are of this image alone."""
    split: str = ""
    """The split it was listed for, where the files of annotations hold several splits and an image may lie in several of them."""


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
    absent: bool = False
    """The annotation says that the image shows nothing of the kind: the question has a false premise. An empty ``segmentation``
    alone does not say that, as a small region may be drawn on no pixel."""
    correction: str | None = None
    """What could be asked instead of a false premise, where the data set has it."""
    incomplete: bool = False
    """The image may show more of what is meant than is annotated, as in a federated data set."""
    turns: tuple[str, ...] = ()
    """Turns of a conversation: question, answer, question, ...; else empty."""
    made: Mapping[str, Any] | None = None
    """How a generated question was made, as :data:`store.format.schema.MADE` says."""


@dataclass(frozen=True)
class Annotation:
    """Instances and targets of one image."""

    instances: tuple[Instance, ...]
    targets: tuple[Target, ...]
    notes: tuple[str, ...] = ()
    """What was not read in the usual way, one entry for each time; they are counted, and ``index`` prints how many there are."""


@dataclass(frozen=True)
class Expected:
    """A file or folder that a split of a data set is made of, whether it is there yet or not.

    what: in words. paths: relative to the root, or patterns with ``*``; any one of them is enough. needed: without it the split
    cannot be read. partly: a small part of it is read to count, so that its size does not say how long that takes.
    """

    what: str
    paths: tuple[str, ...]
    needed: bool = True
    partly: bool = False

    def found(self, root: Path) -> Path | None:
        """Where it is; None: no such path exists, or a path leads out of the root."""
        for path in self.paths:
            try:
                check_inside(path)
            except ImageFailure:
                continue
            there = next(iter(sorted(root.glob(path))), None) if "*" in path else root / path
            if there is not None and (is_there(there) if is_remote(there) else there.exists()):
                return there
        return None


class Collection(Protocol):
    """What the module of a format without annotations has."""

    def list_sources(self, root: Folders, split: str, options: Any) -> list[Source]:
        """As :meth:`Dataset.list_sources`, of one or several folders."""

    def expected(self, split: str, options: Any, holds: bool) -> tuple[Expected, ...]:
        """As :meth:`Dataset.expected`."""


class SharedFiles(Protocol):
    """What the module of a format has in addition if each of its annotation files covers many images."""

    def contents(self, root: Path, sources: Sequence[Source], options: Any) -> list[str]:
        """The ``content`` of sources of one split as the files say now, ``missing`` where they have the image no longer.

        DatasetError where a file is unusable.
        """


class Dataset(Protocol):
    """What the module of a format has. It is stateless: ``annotate`` is called in any order and in any process.

    A format whose listing takes long may have ``listed_from(root, split, options)`` as well: the files that alone decide it. One
    whose questions can be counted at once may have ``count(root, splits, options)``: the ``Counts`` of some splits together.

    options: of the format, as in an entry of section ``data`` (stages/datasets/params.py); without them, the defaults.
    """

    def list_sources(self, root: Path, split: str, options: Any = ...) -> list[Source]:
        """Give the sources of a split in a stable order; DatasetError where its folder is unusable."""

    def expected(self, split: str, options: Any, holds: bool) -> tuple[Expected, ...]:
        """The files and folders of a split, those of its pictures where the data set ``holds`` them itself. Nothing is read."""

    def annotate(
        self,
        root: Path,
        source: Source,
        height_px: int,
        width_px: int,
        options: Any = ...,
        picture: Path | None = None,
    ) -> Annotation:
        """Read the annotation of an image of this EXIF-oriented size; ImageFailure where it is unusable.

        ``picture``: the image file, where another data set holds it; None: ``source.path`` below ``root``.

        Of a source without annotations the failure says what was expected; the image's status becomes ``absent``.
        """
