"""Which pictures two splits share, and which pictures a training leaves out as other data sets are evaluated on them.

A picture is known by the sha256 of its file and, where its file is named as COCO's are, by its COCO number: so copies of 2014 and
2017, and COCO's pictures in a folder of one's own, are found. Copies that were encoded again under another name are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline.config import InputError, Settings
from pipeline.entries import not_indexed
from pipeline.upstream import place_of
from stages.datasets import FORMATS
from stages.datasets.ids import coco_id_of
from stages.names import SplitRef
from store.format.column import read_column
from store.format.layout import column_dir
from store.format.schema import OK
from store.format.shard import read_commit
from store.format.tables import read_table

Key = tuple[str, str]
"""``file`` and its sha256, or ``coco`` and the number."""
REFERRING = ("refer", "grefer")
"""Formats of the sets whose validation pictures LISA's paper leaves out of COCO's other sets."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a split that are ok: what each is known by -> its image_index."""

    keys: Mapping[Key, int]
    images: int


@dataclass(frozen=True)
class Shared:
    """Two splits that share pictures. images: image_index in ``one`` -> in ``other``."""

    one: SplitRef
    other: SplitRef
    images: Mapping[int, int]


@dataclass(frozen=True)
class LeftOut:
    """What a training leaves out: split -> image_index of its pictures, and the splits that are protected so."""

    images: Mapping[str, tuple[int, ...]]
    protected: tuple[SplitRef, ...]


def pictures_of(settings: Settings, split: SplitRef) -> Pictures:
    """The pictures of a split, as its index says.

    Raises:
        InputError: it is not indexed.
    """
    place = place_of(settings, split, "images")
    folder = column_dir(settings.store_path, place)
    meta = read_column(folder)
    if meta is None:
        raise not_indexed(settings, split)
    keys: dict[Key, int] = {}
    images = 0
    for shard in range(meta.shards):
        commit = read_commit(folder, shard, meta)
        if commit is None:
            raise not_indexed(settings, split)
        table = read_table(folder, commit, ["image_index", "path", "sha256", "status"])
        for row in table.to_pylist():
            if row["status"] != OK:
                continue
            images += 1
            keys.setdefault(("file", row["sha256"]), row["image_index"])
            if number := coco_id_of(row["path"]):
                keys.setdefault(("coco", number), row["image_index"])
    return Pictures(keys, images)


def shared(settings: Settings, splits: Sequence[SplitRef]) -> list[Shared]:
    """Every two of the splits, of different data sets with questions, that share pictures."""
    asked = [split for split in splits if FORMATS[settings.data[split.dataset].format].annotated]
    known = {split: pictures_of(settings, split) for split in asked}
    found = []
    for one, other in combinations(asked, 2):
        if one.dataset != other.dataset and (images := _common(known[one], known[other])):
            found.append(Shared(one, other, images))
    return found


def is_protected(settings: Settings, split: SplitRef) -> bool:
    """Whether a split is there to be evaluated on: it has questions, and its name does not begin with train, nor is it all."""
    annotated = FORMATS[settings.data[split.dataset].format].annotated
    return (annotated and not split.split.startswith("train") and split.split != "all") or split in settings.evaluated


def left_out(settings: Settings, trained: Sequence[SplitRef], mode: str) -> LeftOut:
    """The pictures that a training on these splits leaves out.

    Args:
        mode: ``all``: those of every other data set's splits that are there to be evaluated on (:func:`is_protected`) and that it
            is not trained on; ``paper``: of data sets that are no referring ones, those of referring sets' splits ``val`` (LISA's
            paper; its code leaves out nothing); ``none``.

    Raises:
        InputError: a split is not indexed.
    """
    if mode == "none":
        return LeftOut({}, ())
    protected = [
        split
        for split in settings.splits
        if split not in trained
        and is_protected(settings, split)
        and (mode == "all" or (split.split == "val" and settings.data[split.dataset].format in REFERRING))
    ]
    known = {split: pictures_of(settings, split) for split in protected if _is_indexed(settings, split)}
    images = {}
    for split in trained:
        own = settings.data[split.dataset]
        others = [
            one for one in known if one.dataset != split.dataset and (mode == "all" or own.format not in REFERRING)
        ]
        lost: set[int] = set()
        if others:
            pictures = pictures_of(settings, split)
            for other in others:
                lost |= _common(pictures, known[other]).keys()
        if lost:
            images[str(split)] = tuple(sorted(lost))
    return LeftOut(images, tuple(known))


def _is_indexed(settings: Settings, split: SplitRef) -> bool:
    try:
        return read_column(column_dir(settings.store_path, place_of(settings, split, "images"))) is not None
    except InputError:
        return False


def _common(one: Pictures, other: Pictures) -> dict[int, int]:
    return {image: other.keys[key] for key, image in one.keys.items() if key in other.keys}
