"""What the loader of a data set returns: sources (files of an image) and annotations (its instances and targets)."""

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
    """The data set's folder does not have the form of its format, and that is not the fault of a single image."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one image; paths are POSIX, relative to the data set's root."""

    image_id: str
    """Stable and unique within the split."""
    path: str
    """The image file. For an annotation without an image, the path where the image was expected."""
    annotations: tuple[str, ...]
    """Existing files that decide the annotation; empty: the image has no annotation."""
    others: tuple[str, ...] = ()
    """Further files of the same picture: if one cannot be decoded, the next one is taken."""
    content: str = ""
    """sha256 of all that files of the whole data set say of this image in this split, and of nothing else.

    Empty: any change of a file in ``annotations`` may change the image's annotation.
    """
    own: tuple[str, ...] = ()
    """Where there is a ``content``: files of ``annotations`` that it does not cover, as they belong to this image alone."""
    split: str = ""
    """The split for which it was listed, if annotation files hold several splits and an image may be in several of them."""


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
    """Answer in words, if the data set has one."""
    segmentation: str
    """COCO RLE of the answer, empty where it is absent from the image."""
    ignore: str
    """COCO RLE of the pixels that no metric counts; disjoint from ``segmentation``."""
    absent: bool = False
    """The annotation says that the image shows nothing of the kind: the question has a false premise. An empty ``segmentation``
    alone does not say that, as a small region may be drawn on no pixel."""
    correction: str | None = None
    """What could be asked instead of a question with a false premise, if the data set says it."""
    incomplete: bool = False
    """The image may show further objects that are meant but not annotated, as in a federated data set."""
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
    """Notes on what was not read in the usual way, one entry per occurrence; ``index`` prints how many there are."""


@dataclass(frozen=True)
class Expected:
    """A file or folder that belongs to a split of a data set, whether or not it exists yet.

    what: a description. paths: relative to the root, or patterns with ``*``; any one of them is enough. needed: without it the
    split cannot be read. partly: counting reads only a small part of it, so its size does not tell how long counting takes.
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
    """The functions in the module of a format without annotations."""

    def list_sources(self, root: Folders, split: str, options: Any) -> list[Source]:
        """Like :meth:`Dataset.list_sources`, for one or several folders."""

    def expected(self, split: str, options: Any, holds: bool) -> tuple[Expected, ...]:
        """As :meth:`Dataset.expected`."""


class SharedFiles(Protocol):
    """The function that the module of a format has in addition if each of its annotation files covers many images."""

    def contents(self, root: Path, sources: Sequence[Source], options: Any) -> list[str]:
        """The ``content`` of sources of one split as the files are now, ``missing`` for an image that they no longer have.

        Raises DatasetError if a file is unusable.
        """


class Dataset(Protocol):
    """The functions in the module of a format. They are stateless: ``annotate`` is called in any order and in any process.

    A format whose listing takes long may have ``listed_from(root, split, options)`` as well: the files that alone decide the
    listing. A format whose questions can be counted quickly may have ``count(root, splits, options)``: the ``Counts`` of some
    splits together.

    options: of the format, as in an entry of section ``data`` (stages/datasets/params.py); without them, the defaults.
    """

    def list_sources(self, root: Path, split: str, options: Any = ...) -> list[Source]:
        """List the sources of a split in a stable order; DatasetError if its folder is unusable."""

    def expected(self, split: str, options: Any, holds: bool) -> tuple[Expected, ...]:
        """The files and folders of a split, with its pictures if the data set ``holds`` them itself. Nothing is read."""

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

        ``picture``: the image file, if another data set holds it; None: ``source.path`` below ``root``.

        For a source without annotations the failure says what was expected; the image's status becomes ``absent``.
        """
