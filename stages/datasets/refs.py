"""Files of referring expressions: refs (``refs(unc).p``, ``grefs(unc).json``) and the COCO-form ``instances.json`` next to them.

A ref is a list of sentences about one object, about several, or about an absent one: ``ref_id``, ``ann_id``, ``image_id``,
``split`` and ``sentences``, each with ``sent``. Pictures and objects are found by ``image_id`` and ``ann_id``, never by the
ref's ``file_name``, which differs (``COCO_train2014_000000581857_16.jpg``). Both files are read once per process, and only
objects that a ref names are kept: about a quarter of refCOCO's.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from stages.datasets.base import DatasetError, Expected, Source
from stages.datasets.content import content_of
from stages.datasets.ids import coco_id, coco_id_of, path_id
from stages.datasets.jsonfile import field as value_of
from stages.datasets.jsonfile import text
from stages.datasets.jsonstream import read_elements, read_list
from stages.datasets.once import Once
from stages.datasets.pickles import read_pickle
from stages.datasets.published import Counts
from stages.images import ImageFailure, check_inside, inside
from stages.names import type_name

INSTANCES = "instances.json"
MAX_REFS_BYTES = 2**29
"""Largest size of a file of refs; refCOCO's has about 20 MB."""
_NAMED = re.compile(r".*\(.*\)\.(?:p|json)")
_DO = "set root or split_by of the data set in section data of the params"


@dataclass(frozen=True, slots=True)
class Sentence:
    """A wording. exists: the picture shows what it says. correction: for a false premise, the sentence that it was made from."""

    text: str
    exists: bool = True
    correction: str | None = None


@dataclass(frozen=True, slots=True)
class Ref:
    """A ref as it stands in its file. name: its place there. ann_id: one or several numbers, None if it is anything else.

    problem: why it cannot be used, or empty.
    """

    name: str
    split: str
    ann_id: int | tuple[int, ...] | None = None
    sentences: tuple[Sentence, ...] = ()
    source: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Thing:
    """An annotated object. image: number of its picture. segmentation: as in COCO, written in JSON."""

    image: Any
    label: str
    crowd: bool
    segmentation: str


@dataclass(slots=True)
class Picture:
    """A picture that refs are about. size_px: stated height and width, each None where it is not stated."""

    number: int
    path: str
    size_px: tuple[Any, Any]
    listed: bool
    refs: list[Ref] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class RefSet:
    """What two files of refs hold: image_id -> picture, ann_id -> object."""

    pictures: Mapping[str, Picture]
    things: Mapping[int, Thing]

    def split(self, matches: Callable[[str], bool]) -> dict[str, list[Ref]]:
        """image_id -> its refs of a split, in file order; images without refs are left out."""
        found = {name: [ref for ref in each.refs if matches(ref.split)] for name, each in self.pictures.items()}
        return {name: refs for name, refs in found.items() if refs}

    def content(self, picture: Picture, refs: Sequence[Ref]) -> str:
        """The ``content`` of a source: a digest of its picture, these refs of it, and the objects that they name."""
        said = [
            (each.ann_id, each.source, each.problem, [(one.text, one.exists, one.correction) for one in each.sentences])
            for each in refs
        ]
        named = dict.fromkeys(number for each in refs for number in _numbers(each.ann_id))
        things = [self.things.get(number) for number in named]
        meant = [None if each is None else (each.image, each.label, each.crowd, each.segmentation) for each in things]
        return content_of(picture.number, picture.size_px, picture.listed, said, meant)

    def count(self, matches: Callable[[str], bool]) -> Counts:
        """How many images, refs and sentences a split has."""
        split = self.split(matches)
        refs = [ref for each in split.values() for ref in each]
        return Counts(len(split), len(refs), sum(len(ref.sentences) for ref in refs))

    def splits(self) -> str:
        """The splits named in the files, each with its number of refs."""
        counts = Counter(ref.split for picture in self.pictures.values() for ref in picture.refs)
        return ", ".join(f"{name} ({count} refs)" for name, count in sorted(counts.items())) or "none"


def expected(names: Sequence[str]) -> tuple[Expected, ...]:
    """The file of refs, under any of these names, and the file of objects."""
    return Expected("refs", tuple(names)), Expected("objects", (INSTANCES,))


def find(root: Path, names: Sequence[str]) -> tuple[str, str]:
    """The files of a data set, relative to root: refs, under the first of these names that exists, and objects.

    Raises DatasetError if one is missing; the message says which files of refs exist.
    """
    if not root.is_dir():
        raise DatasetError(f"no folder {root}; expected one with {' or '.join(names)} and {INSTANCES}: {_DO}")
    refs = next((name for name in names if (root / name).is_file()), None)
    if refs is None:
        there = sorted(path.name for path in root.iterdir() if _NAMED.fullmatch(path.name))
        raise DatasetError(
            f"no {' or '.join(names)} in {root} (files of refs there: {', '.join(there) or 'none'}); {_DO}"
        )
    if not (root / INSTANCES).is_file():
        raise DatasetError(f"no {INSTANCES} in {root}, which holds the objects that {refs} is about; bring it there")
    return refs, INSTANCES


def read(root: Path, files: tuple[str, ...], ids: str) -> RefSet:
    """The content of the files, read once per process. Raises DatasetError if one of them is unusable as a whole."""
    return _READ.get(root, files, ids)


def sources(found: RefSet, files: tuple[str, ...], split: str, matches: Callable[[str], bool]) -> list[Source]:
    """A source for each picture with refs of the split, sorted by image_id. DatasetError if the split has no refs."""
    wanted = found.split(matches)
    if not wanted:
        raise DatasetError(
            f"{files[0]} has no refs of the split {split!r} (splits there: {found.splits()}); set splits of the data set in "
            "section data of the params"
        )
    return [
        Source(name, found.pictures[name].path, files, content=found.content(found.pictures[name], refs), split=split)
        for name, refs in sorted(wanted.items())
    ]


def contents(found: RefSet, sources: Sequence[Source], matches: Callable[[str], bool]) -> list[str]:
    """The ``content`` of sources as their files say now."""
    there = [found.pictures.get(source.image_id) for source in sources]
    refs = [[ref for ref in each.refs if matches(ref.split)] if each else [] for each in there]
    return [found.content(each, own) if each else "missing" for each, own in zip(there, refs, strict=True)]


def _parse(root: Path, files: tuple[str, ...], ids: str) -> RefSet:
    refs_file, instances_file = files
    try:
        by_number = _refs(root, refs_file)
    except ImageFailure as error:
        raise DatasetError(f"{root / refs_file}: {error}; get the file again, or {_DO}") from error
    wanted = {number for refs in by_number.values() for ref in refs for number in _numbers(ref.ann_id)}
    try:
        listed, things = _instances(root, instances_file, wanted)
        pictures = _pictures(by_number, listed, ids == "coco")
    except ImageFailure as error:
        raise DatasetError(f"{root / instances_file}: {error}") from error
    return RefSet(pictures, things)


_READ = Once(_parse)


def _refs(root: Path, file: str) -> dict[int, list[Ref]]:
    """Number of the picture -> its refs. A ref without picture or split is an ImageFailure; other problems are noted in the ref."""
    found: dict[int, list[Ref]] = {}
    positions = count()

    def each(record: Any, *_: int) -> None:
        name = f"ref {next(positions)}"
        try:
            image, split = _whole(record, "image_id"), sys.intern(text(value_of(record, "split", str), "'split'"))
        except ImageFailure as error:
            raise ImageFailure(f"{name}: {error}") from error
        if isinstance(record.get("ref_id"), int):
            name += f" (ref_id {record['ref_id']})"
        try:
            ref = _ref(record, name, split)
        except ImageFailure as error:
            ref = Ref(name, split, problem=str(error))
        found.setdefault(image, []).append(ref)

    if file.endswith(".json"):
        read_list(inside(root, file), each)
        return found
    records = read_pickle(root, file, MAX_REFS_BYTES)
    if not isinstance(records, list):
        raise ImageFailure(f"found {type_name(records)}, expected a list of refs")
    for record in records:
        each(record)
    return found


def _ref(record: Mapping[str, Any], name: str, split: str) -> Ref:
    sentences = tuple(_sentence(each) for each in value_of(record, "sentences", list))
    if not sentences:
        raise ImageFailure("'sentences' is empty, expected at least one")
    ann_id = record.get("ann_id")
    if isinstance(ann_id, list) and all(_is_whole(each) for each in ann_id):
        ann_id = tuple(ann_id)
    elif not _is_whole(ann_id):
        ann_id = None
    source = record.get("source")
    return Ref(name, split, ann_id, sentences, sys.intern(source) if isinstance(source, str) else "")


def _sentence(record: Any) -> Sentence:
    wording = text(value_of(record, "sent", str), "'sent'")
    says = record.get("is_false_premise", record.get("exist", True))
    if not isinstance(says, int) or says not in (0, 1):
        raise ImageFailure(f"a sentence says {says!r:.40} of whether its object exists, expected true or false")
    exists = not says if "is_false_premise" in record else bool(says)
    correction = record.get("gt_sent")
    if exists or not isinstance(correction, str) or not correction.strip():
        return Sentence(wording, exists)
    return Sentence(wording, exists, text(correction, "'gt_sent'"))


def _instances(root: Path, file: str, wanted: set[int]) -> tuple[dict[int, dict[str, Any]], dict[int, Thing]]:
    """Number -> picture as listed, and ann_id -> object for the wanted ones; the others are dropped while the file is read."""
    names: dict[Any, str] = {}
    listed: dict[int, dict[str, Any]] = {}
    kept: dict[int, tuple[Any, Any, bool, str]] = {}

    def category(record: Any, *_: int) -> None:
        if isinstance(record, dict) and isinstance(record.get("name"), str) and _is_whole(record.get("id")):
            names[record["id"]] = text(record["name"], "the name of a category")

    def image(record: Any, *_: int) -> None:
        number = _whole(record, "id")
        listed[number] = {key: record.get(key) for key in ("file_name", "height", "width")}

    def annotation(record: Any, *_: int) -> None:
        number = record.get("id") if isinstance(record, dict) else None
        if _is_whole(number) and number in wanted and "segmentation" in record:
            written = json.dumps(record["segmentation"], separators=(",", ":"))
            kept[number] = record.get("image_id"), record.get("category_id"), bool(record.get("iscrowd")), written

    asked = {"images": image, "annotations": annotation, "categories": category}
    keys = read_elements(inside(root, file), asked)
    for key in ("images", "annotations"):
        if key not in keys:
            raise ImageFailure(f"key {key!r} is missing (found: {', '.join(map(repr, sorted(keys))) or 'none'})")
    things = {
        number: Thing(of, names.get(kind, f"category {kind}") if _is_whole(kind) else "", crowd, written)
        for number, (of, kind, crowd, written) in kept.items()
    }
    return listed, things


def _pictures(
    by_number: Mapping[int, list[Ref]], listed: Mapping[int, Mapping[str, Any]], coco: bool
) -> dict[str, Picture]:
    """image_id -> picture, for those that refs are about."""
    names = {number: image.get("file_name") for number, image in listed.items()}
    given = [name for name in names.values() if isinstance(name, str)]
    if coco and given and not any(map(coco_id_of, given)):
        raise ImageFailure(
            f"the pictures are not COCO's (the first is {given[0]!r:.60}); set ids: path for this data set"
        )
    found: dict[str, Picture] = {}
    for number, refs in by_number.items():
        image, name = listed.get(number, {}), names.get(number)
        if isinstance(name, str):
            check_inside(name)
        elif not coco:
            raise ImageFailure(f"no file_name is listed for image {number}, and ids: path makes the image_id from it")
        try:
            image_id = coco_id(number) if coco else path_id(text(name, "'file_name'"))
        except ValueError as error:
            raise ImageFailure(str(error)) from error
        if image_id in found:
            raise ImageFailure(f"images {found[image_id].number} and {number} would both be the image {image_id!r}")
        path = name if isinstance(name, str) else f"{image_id}.jpg"
        found[image_id] = Picture(number, path, (image.get("height"), image.get("width")), number in listed, refs)
    return found


def _numbers(ann_id: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return ann_id if isinstance(ann_id, tuple) else () if ann_id is None else (ann_id,)


def _whole(record: Any, key: str) -> int:
    number: int = value_of(record, key, int)
    if isinstance(number, bool):
        raise ImageFailure(f"{key!r} is bool, expected int")
    return number


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
