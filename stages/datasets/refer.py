"""Referring expressions about one object: refCOCO, refCOCO+, refCOCOg, refCLEF, and FP- and R-refCOCO with false premises.

The root is the folder of ``refs(<split_by>).p`` and ``instances.json``. A ref is one target, whose texts are its sentences'
``sent`` as they stand (readers such as LISA's make them lower case). Where a sentence says that its object does not exist
(``is_false_premise`` of see-say-segment/sesame, or else ``exist`` of jianzongwu/robust-ref-seg), it is a target of its own,
absent from the picture, with ``gt_sent`` as its correction; the ref's object is only the one that the sentence was made from.

Splits are matched as in lichengunc/refer (``getRefIds``): testA, testB and testC are the refs whose split has the letter
(``testAB`` is in both), test those whose split contains ``test``, and any other split those with exactly its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.datasets import refs
from stages.datasets.base import Annotation, Expected, Source, Target
from stages.datasets.drawn import Drawn, about
from stages.datasets.params import ReferOptions
from stages.datasets.published import Counts
from stages.datasets.refs import Ref, Sentence
from stages.images import ImageFailure
from store import rle

DEFAULTS = ReferOptions()


def matches(split: str, stored: str) -> bool:
    """Whether a ref whose split is ``stored`` belongs to a split."""
    if split in ("testA", "testB", "testC"):
        return split[-1] in stored
    return "test" in stored if split == "test" else stored == split


def count(root: Path, splits: Sequence[str], options: ReferOptions = DEFAULTS) -> Counts:
    """How many images, refs and sentences some splits (or ``all``) have together, to compare with the published numbers."""
    found = refs.read(root, _files(root, options), options.ids)
    return found.count(lambda stored: "all" in splits or any(matches(split, stored) for split in splits))


def list_sources(root: Path, split: str, options: ReferOptions = DEFAULTS) -> list[Source]:
    """Give a source for each picture that a ref of the split is about, sorted by image_id.

    Raises DatasetError if a file is missing (it names the files of refs that exist), cannot be read, or has no such split.
    """
    files = _files(root, options)
    found = refs.read(root, files, options.ids)
    return refs.sources(found, files, split, lambda stored: matches(split, stored))


def listed_from(root: Path, split: str, options: ReferOptions = DEFAULTS) -> tuple[str, ...]:
    """The files that alone decide what is listed. DatasetError where one is not there."""
    return _files(root, options)


def contents(root: Path, sources: Sequence[Source], options: ReferOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources of one split as the files say now."""
    found = refs.read(root, sources[0].annotations, options.ids)
    return refs.contents(found, sources, lambda stored: matches(sources[0].split, stored))


def expected(split: str, options: ReferOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The files of refs and of objects, which all splits share."""
    return refs.expected(_names(options))


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: ReferOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image in file order: for each ref the target of its true sentences, then one for each false sentence.

    Raises ImageFailure, naming file and place, where a ref lacks a key, where the object of a true sentence is not there, is of
    another picture or cannot be drawn, or where the stated size is not the image's.
    """
    if not source.annotations:
        raise ImageFailure(f"no annotation: expected refs({options.split_by}).p")
    found = refs.read(root, source.annotations, options.ids)
    drawn = Drawn(found, source, (height_px, width_px), root, picture)
    nothing = rle.union([], height_px, width_px)
    targets: list[Target] = []
    try:
        for ref in about(found, source).refs:
            if not matches(source.split, ref.split):
                continue
            if ref.problem:
                raise ImageFailure(f"{ref.name}: {ref.problem}")
            true = tuple(sentence.text for sentence in ref.sentences if sentence.exists)
            if true:
                instances, segmentation = drawn.of(ref, [_object(ref)])
                targets.append(
                    Target(
                        target_id=f"{source.image_id}/{len(targets)}",
                        instances=instances,
                        texts=true,
                        is_sentence=False,
                        kind="refer",
                        answer=None,
                        segmentation=segmentation,
                        ignore=nothing,
                    )
                )
            for sentence in ref.sentences:
                if not sentence.exists:
                    targets.append(_false_premise(sentence, f"{source.image_id}/{len(targets)}", nothing))
            drawn.notes += ["a sentence without a word"] * sum(not each.text.strip() for each in ref.sentences)
    except ImageFailure as error:
        raise ImageFailure(f"{source.annotations[0]}: {error}") from error
    return Annotation(tuple(drawn.instances), tuple(targets), tuple(drawn.notes))


def _files(root: Path, options: ReferOptions) -> tuple[str, str]:
    return refs.find(root, _names(options))


def _names(options: ReferOptions) -> list[str]:
    return [f"refs({options.split_by}).p"]


def _object(ref: Ref) -> int:
    if isinstance(ref.ann_id, tuple):
        raise ImageFailure(f"{ref.name}: 'ann_id' is a list; the format grefer reads such files")
    if ref.ann_id is None:
        raise ImageFailure(f"{ref.name}: 'ann_id' is missing or no number")
    return ref.ann_id


def _false_premise(sentence: Sentence, target_id: str, nothing: str) -> Target:
    return Target(
        target_id=target_id,
        instances=(),
        texts=(sentence.text,),
        is_sentence=False,
        kind="false_premise",
        answer=None,
        segmentation=nothing,
        ignore=nothing,
        absent=True,
        correction=sentence.correction,
    )
