"""Which pictures two splits share, and which pictures a training leaves out because other data sets are evaluated on them.

A picture is known by the sha256 of its file and, where its file is named as COCO's are, by its COCO number: so copies of 2014 and
2017, and COCO's pictures in a folder of one's own, are found. In Visual Genome and GQA, COCO's pictures have other names and bytes;
there ``coco_ids`` of the collection gives the numbers. Copies that were encoded again under another name are found by their decoded
pixels, if that is asked for and the encoding lost nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import PurePosixPath

from pipeline.config import ROOT, InputError, Settings
from pipeline.listed import not_indexed
from pipeline.upstream import commits_of, place_of
from stages.datasets import FORMATS
from stages.datasets.ids import coco_id, coco_id_of
from stages.datasets.jsonfile import MAX_SET_BYTES, read_json
from stages.datasets.params import ImagesOptions
from stages.images import ImageFailure
from stages.likeness import Likeness, alike, likenesses
from stages.names import SplitRef
from store.format.layout import column_dir
from store.format.schema import ABSENT, OK
from store.format.tables import read_table

Key = tuple[str, str]
"""``file`` and its sha256, ``coco`` and the number, or ``pixels`` and their sha256."""
REFERRING = ("refer", "grefer")
"""Formats of the sets whose validation pictures LISA's paper leaves out of COCO's other sets."""
ALIKE_BITS = 4
"""Difference hashes of pictures that are shown as alike differ in at most this many of their 64 bits."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a split that are ok. keys: what a picture is known by -> its image_index, or several where the
    split has it more than once.

    files: image_index -> sha256 of its file and its path, which starts at the folders of the data set that holds it.
    """

    keys: Mapping[Key, Sequence[int]]
    files: Mapping[int, tuple[str, str]]


@dataclass(frozen=True)
class Shared:
    """Two splits that share pictures. images: image_index in ``one`` -> one in ``other``."""

    one: SplitRef
    other: SplitRef
    images: Mapping[int, int]


@dataclass(frozen=True)
class LeftOut:
    """What a training leaves out: split -> image_index of its pictures, and the splits that are protected so.

    not_indexed: splits that would be protected, but are not indexed, so that nothing is known of their pictures.
    """

    images: Mapping[str, tuple[int, ...]]
    protected: tuple[SplitRef, ...]
    not_indexed: tuple[SplitRef, ...] = ()


def pictures_of(settings: Settings, split: SplitRef, pixels: bool = False) -> Pictures:
    """The pictures of a split, as its index says.

    Args:
        pixels: know them by their decoded pixels as well, which are read the first time (:mod:`stages.likeness`).

    Raises:
        InputError: it is not indexed, the file that ``coco_ids`` names cannot be read, or a picture's pixels are asked for and its
            file is gone or was replaced.
    """
    found = indexed_pictures(settings, split, pixels)
    if found is None:
        raise not_indexed(settings, split)
    return found


def indexed_pictures(settings: Settings, split: SplitRef, pixels: bool = False) -> Pictures | None:
    """As :func:`pictures_of`; None where the split is not indexed."""
    commits = commits_of(settings, split, "images")
    if commits is None:
        return None
    folder = column_dir(settings.store_path, place_of(settings, split, "images"))
    files: dict[int, tuple[str, str]] = {}
    for commit in commits:
        table = read_table(folder, commit, ["image_index", "path", "sha256", "status"])
        for index, path, sha256, status in zip(*(column.to_pylist() for column in table.columns), strict=True):
            if status in (OK, ABSENT):  # absent: not listed by the data set that holds it
                files[index] = sha256, path
    return pictures_in(settings, split, files, pixels)


def pictures_in(
    settings: Settings, split: SplitRef, files: Mapping[int, tuple[str, str]], pixels: bool = False
) -> Pictures:
    """The pictures of a split, by what they are known by.

    Args:
        files, pixels, and what it raises: as for :class:`Pictures` and :func:`pictures_of`.
    """
    numbers = _coco_numbers(settings, settings.data[split.dataset].images)
    keys: dict[Key, list[int]] = defaultdict(list)
    for index, (sha256, path) in files.items():
        keys["file", sha256].append(index)
        if number := coco_id_of(path) or numbers.get(PurePosixPath(path).stem):
            keys["coco", number].append(index)
    if pixels:
        known = _likenesses(settings, split, files)
        for index, (sha256, _) in files.items():
            keys["pixels", known[sha256].pixels].append(index)
    return Pictures(keys, files)


def _coco_numbers(settings: Settings, holder: str) -> Mapping[str, str]:
    """Name of a picture without suffix -> its COCO number, of a collection that has other names for COCO's pictures."""
    data = settings.data[holder]
    if not isinstance(data, ImagesOptions) or data.coco_ids is None:
        return {}
    root = settings.folders(holder).folders[0]
    try:
        items, _ = read_json(root, data.coco_ids, max_bytes=MAX_SET_BYTES)
        return {
            str(item["image_id"]): coco_id(int(item["coco_id"])) for item in items if item.get("coco_id") is not None
        }
    except (ImageFailure, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"data.{holder}.coco_ids: {root / data.coco_ids}: {error or type(error).__name__}; expected a list of records with "
            "image_id and coco_id, as Visual Genome's image_data.json"
        ) from error


def _likenesses(settings: Settings, split: SplitRef, files: Mapping[int, tuple[str, str]]) -> Mapping[str, Likeness]:
    """sha256 of a file -> its likeness, of all of them; InputError where one cannot be read: it could be the one that is shared."""
    holder = settings.data[split.dataset].images
    pictures, root = dict(files.values()), settings.folders(holder)
    known, gone = likenesses(root, pictures, settings.data[holder].max_pixels, ROOT / settings.run.cache_dir)
    if gone:
        raise InputError(
            f"{split}: {len(gone)} of {len(pictures)} pictures cannot be compared by their pixels, first {gone[0]}; expected the "
            f"files in {root} as they were indexed: bring them back, or run: python cli.py index {settings.holder_options(split)}"
        )
    return known


def shared(settings: Settings, known: Mapping[SplitRef, Pictures]) -> list[Shared]:
    """Every two splits, of different data sets with questions, that share pictures.

    Args:
        known: the pictures of each split.
    """
    asked = [split for split in known if FORMATS[settings.data[split.dataset].format].annotated]
    found = []
    for one, other in combinations(asked, 2):
        if one.dataset != other.dataset and (images := _common(known[one], known[other])):
            found.append(Shared(one, other, images))
    return found


def alike_pictures(settings: Settings, known: Mapping[SplitRef, Pictures]) -> list[tuple[str, str, int]]:
    """Pairs of pictures of different data sets that look alike and are not the same file, the most similar first, for a person to
    look at. Each is ``<split>: <path>``; the number is that of the bits in which their hashes differ.

    Args:
        known: the pictures of each split.
    """
    found: list[tuple[str, str, int]] = []
    looks = {}
    for split, pictures in known.items():
        of_files = _likenesses(settings, split, pictures.files)
        looks[split] = [(path, sha256, of_files[sha256].look) for sha256, path in pictures.files.values()]
    for one, other in combinations(known, 2):
        if settings.data[one.dataset].images == settings.data[other.dataset].images:
            continue
        left, right = looks[one], looks[other]
        for at, place, bits in alike([look for *_, look in left], [look for *_, look in right], ALIKE_BITS):
            if left[at][1] != right[place][1]:
                found.append((f"{one}: {left[at][0]}", f"{other}: {right[place][0]}", bits))
    return sorted(found, key=lambda pair: pair[2])


def is_protected(settings: Settings, split: SplitRef) -> bool:
    """Whether a split is there to be evaluated on: it is one of ``Settings.evaluated``, or it has questions, and its name is not
    ``all`` and does not begin with ``train``."""
    annotated = FORMATS[settings.data[split.dataset].format].annotated
    return (annotated and not split.split.startswith("train") and split.split != "all") or split in settings.evaluated


def left_out(
    settings: Settings,
    trained: Sequence[SplitRef],
    mode: str,
    pixels: bool = False,
    seen: Callable[[SplitRef], Pictures | None] | None = None,
) -> LeftOut:
    """The pictures that a training on these splits leaves out.

    Args:
        mode: ``all``: those of every other data set's splits that are there to be evaluated on (:func:`is_protected`) and that it
            is not trained on; ``paper``: from data sets that are not referring sets, those of
            referring sets' splits ``val`` (LISA's paper; its code leaves out nothing); ``none``.
        pixels: as :func:`pictures_of`.
        seen: gives the pictures of a split, None where nothing is known of them; default: as the index says.

    Raises:
        InputError: a split is not indexed.
    """
    if mode == "none":
        return LeftOut({}, ())
    look = seen or partial(indexed_pictures, settings, pixels=pixels)
    protected = [
        split
        for split in settings.splits
        if split not in trained
        and is_protected(settings, split)
        and (mode == "all" or (split.split == "val" and settings.data[split.dataset].format in REFERRING))
    ]
    known = {split: found for split in protected if (found := look(split)) is not None}
    images = {}
    for split in trained:
        own = settings.data[split.dataset]
        others = [
            one for one in known if one.dataset != split.dataset and (mode == "all" or own.format not in REFERRING)
        ]
        lost: set[int] = set()
        if others:
            pictures = look(split)
            if pictures is None:
                raise not_indexed(settings, split)
            for other in others:
                lost |= _common(pictures, known[other]).keys()
        if lost:
            images[str(split)] = tuple(sorted(lost))
    return LeftOut(images, tuple(known), tuple(split for split in protected if split not in known))


def _common(one: Pictures, other: Pictures) -> dict[int, int]:
    """image_index of each picture of ``one`` that is in ``other``, and where it is there."""
    return {image: other.keys[key][0] for key, images in one.keys.items() if key in other.keys for image in images}
