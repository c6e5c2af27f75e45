"""Referring expressions about any number of objects: gRefCOCO (henghuiding/gRefCOCO) and Ref-ZOM (toggle1995/RIS-DMMI).

The root is the folder of ``instances.json`` and ``grefs(<split_by>).p`` or ``.json`` (the first is taken if both exist, as
gRefCOCO's own reader does), or Ref-ZOM's ``refs(<split_by>).p``. A ref is one target. Its ``ann_id`` are the objects whose
union is meant: a list or one number, ``[-1]`` (gRefCOCO) or ``[]`` (Ref-ZOM) where the picture has no such object, and only
that makes the target absent. Ref-ZOM also says ``source: zero``, which its own reader follows; so the target is absent even if
objects are named as well, with a note.

A crowd is not drawn, as in henghuiding/ReLA. An object may cover no pixel: its target is then empty, but not absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.datasets import refs
from stages.datasets.base import Annotation, Expected, Source, Target
from stages.datasets.drawn import Drawn, about
from stages.datasets.params import GReferOptions
from stages.datasets.published import Counts
from stages.datasets.refs import Ref
from stages.images import ImageFailure
from store import rle

DEFAULTS = GReferOptions()
NO_OBJECT, ZERO = -1, "zero"


def count(root: Path, splits: Sequence[str], options: GReferOptions = DEFAULTS) -> Counts:
    """How many images, refs and sentences some splits (or ``all``) have together, to compare with the published numbers."""
    found = refs.read(root, _files(root, options), options.ids)
    return found.count(lambda stored: "all" in splits or stored in splits)


def list_sources(root: Path, split: str, options: GReferOptions = DEFAULTS) -> list[Source]:
    """List a source for each picture that a ref of exactly this split is about, sorted by image_id.

    Raises DatasetError if a file is missing (it names the files of refs that exist), cannot be read, or has no such split.
    """
    files = _files(root, options)
    found = refs.read(root, files, options.ids)
    return refs.sources(found, files, split, lambda stored: stored == split)


def listed_from(root: Path, split: str, options: GReferOptions = DEFAULTS) -> tuple[str, ...]:
    """The files that alone decide what is listed. DatasetError where one is not there."""
    return _files(root, options)


def contents(root: Path, sources: Sequence[Source], options: GReferOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources of one split as the files say now."""
    found = refs.read(root, sources[0].annotations, options.ids)
    return refs.contents(found, sources, lambda stored: stored == sources[0].split)


def expected(split: str, options: GReferOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The files of refs and of objects, which all splits share."""
    return refs.expected(_names(options))


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: GReferOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image, one per ref, in file order.

    Raises ImageFailure, naming file and place, where a ref lacks a key or contradicts itself, where an object is not there, is of
    another picture or cannot be drawn, or where the stated size is not the image's.
    """
    if not source.annotations:
        raise ImageFailure(f"no annotation: expected grefs({options.split_by}).json")
    found = refs.read(root, source.annotations, options.ids)
    drawn = Drawn(found, source, (height_px, width_px), root, picture)
    nothing = rle.union([], height_px, width_px)
    targets: list[Target] = []
    try:
        for ref in about(found, source).refs:
            if ref.split != source.split:
                continue
            wanted = _objects(ref)
            if wanted and ref.source == ZERO:
                wanted = []
                drawn.notes.append("objects named by a ref with source zero, which is absent as in its own reader")
            whole = [ann_id for ann_id in wanted if not drawn.is_crowd(ann_id)]
            instances, segmentation = drawn.of(ref, whole)
            targets.append(
                Target(
                    target_id=f"{source.image_id}/{len(targets)}",
                    instances=instances,
                    texts=tuple(sentence.text for sentence in ref.sentences),
                    is_sentence=False,
                    kind="grefer",
                    answer=None,
                    segmentation=segmentation,
                    ignore=nothing,
                    absent=not wanted,
                )
            )
            drawn.notes += ["a crowd, left out as in ReLA"] * (len(wanted) - len(whole))
            drawn.notes += ["a sentence without a word"] * sum(not each.text.strip() for each in ref.sentences)
    except ImageFailure as error:
        raise ImageFailure(f"{source.annotations[0]}: {error}") from error
    return Annotation(tuple(drawn.instances), tuple(targets), tuple(drawn.notes))


def _files(root: Path, options: GReferOptions) -> tuple[str, str]:
    return refs.find(root, _names(options))


def _names(options: GReferOptions) -> list[str]:
    by = options.split_by
    return [f"grefs({by}).p", f"grefs({by}).json", f"refs({by}).p", f"Ref-ZOM({by}).p"]


def _objects(ref: Ref) -> list[int]:
    """The objects that are meant; empty: the picture has no such object."""
    if ref.problem:
        raise ImageFailure(f"{ref.name}: {ref.problem}")
    if ref.ann_id is None:
        raise ImageFailure(f"{ref.name}: 'ann_id' is missing, or no list of numbers")
    ids = list(ref.ann_id) if isinstance(ref.ann_id, tuple) else [ref.ann_id]
    if not all(sentence.exists for sentence in ref.sentences):
        raise ImageFailure(
            f"{ref.name}: a sentence says that its object does not exist; the format refer reads such files"
        )
    if NO_OBJECT in ids and ids != [NO_OBJECT]:
        raise ImageFailure(f"{ref.name}: 'ann_id' names objects and none (-1) at once")
    if not ids and ref.source not in ("", ZERO):
        raise ImageFailure(f"{ref.name}: 'source' is {ref.source!r:.40}, and 'ann_id' names no object")
    return [] if ids == [NO_OBJECT] else ids
