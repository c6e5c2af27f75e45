"""Any file in the form of COCO's ``instances_*.json``: LVIS, PACO-LVIS, PASCAL-Part, PartImageNet, EgoObjects, one's own.

By default an image has one target for each category among its annotations, and the answer is their union. LVIS, PACO and
EgoObjects are federated: a category that is not annotated may still be in the picture. So it is never asked about as absent,
except for those in ``neg_category_ids`` if the options say so. A category in ``not_exhaustive_category_ids`` is ``incomplete``, and
so is a part of such an object.

The region of a crowd (``iscrowd``) belongs to the answer of its category. With one target per annotation a crowd is not a target;
its pixels are ignored in the targets of its category.

An annotation with ``bbox`` but without ``segmentation`` becomes the filled box, and its target has the kind ``box``. An image that
is listed without annotations counts as annotated, with nothing. ``area``, and ``bbox`` next to a segmentation, are ignored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.datasets.base import Annotation, DatasetError, Expected, Instance, Source, Target
from stages.datasets.cocofile import Category, CocoFile, Record, name_of, read_coco
from stages.datasets.cocoregion import Region, frame_of, read_region
from stages.datasets.once import Once
from stages.datasets.params import CocoOptions
from stages.datasets.sizes import UPRIGHT
from stages.images import ImageFailure, inside, read_picture
from store import rle

DEFAULTS = CocoOptions()
ABSENT_BUT_ANNOTATED = "a category is annotated, and said to be absent: asked as annotated"
WITHOUT_CATEGORY = "annotation of EgoObjects with an instance_id and no category, passed over"
ALIKE = "two categories of an image have the same texts"
NO_PIXEL = "a target without a pixel, which is not absent"


@dataclass(frozen=True)
class _Marked:
    """An annotation: the number of its category, its region, and whether it is a crowd."""

    category: int
    region: Region
    is_crowd: bool


@dataclass(frozen=True)
class _Asked:
    """What a target asks for: a category, and the indices of the annotations that are the answer and of those that are ignored."""

    category: int
    answer: tuple[int, ...] = ()
    ignored: tuple[int, ...] = ()


def list_sources(root: Path, split: str, options: CocoOptions = DEFAULTS) -> list[Source]:
    """List a source for each image that the split's file lists, sorted by image_id, as in data sets that hold pictures.

    In a file without the key ``annotations``, such as COCO's ``image_info_test2017.json``, no source has an annotation. Raises
    DatasetError if the file is missing or does not have this form, or if two images have the same id or name.
    """
    files = listed_from(root, split, options)
    found = _read(root, files, options)
    if not found.images:
        raise DatasetError(f"{root / files[0]}: 'images' is empty, expected the images of the split {split!r}")
    folder = _pictures(split, options)
    before = "" if folder in ("", ".") else f"{folder}/"
    annotations = files if found.has_annotations else ()
    return [
        Source(each.image_id, before + each.path, annotations, content=each.content if annotations else "")
        for each in sorted(found.images.values(), key=lambda each: each.image_id)
    ]


def contents(root: Path, sources: Sequence[Source], options: CocoOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources as their files say now."""
    found = _read(root, sources[0].annotations, options).images
    return [found[each.image_id].content if each.image_id in found else "missing" for each in sources]


def expected(split: str, options: CocoOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The files of annotations and categories, and the folder of the pictures where the data set ``holds`` them."""
    files = [("annotations", options.file), ("categories", options.categories)]
    folder = _pictures(split, options) if holds else ""
    return (
        *(Expected(what, (file.replace("{split}", split),)) for what, file in files if file),
        *([Expected("pictures", (folder,))] if folder else []),
    )


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: CocoOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the annotations of an image. Raises ImageFailure, naming the annotation, if one is unusable.

    Sizes in the file are those of the upright image, or swapped where the image's EXIF orientation explains it: then the points
    decide whether regions are turned with the image (:mod:`stages.datasets.sizes`).
    """
    if not source.annotations:
        raise ImageFailure("no annotation: the file that lists the image has no key 'annotations'")

    def orientation() -> int:
        return read_picture(picture or inside(root, source.path), height_px * width_px).orientation

    found = _read(root, source.annotations, options)
    record = found.images.get(source.image_id)
    if record is None:
        raise ImageFailure(f"{source.annotations[0]}: no image {source.image_id!r} in it any more")
    try:
        file = inside(root, source.annotations[0])
        every = list(found.annotations(file, source.image_id))
        kept = [(value, category) for value, category in every if not _is_of_instances_alone(value)]
        turn = frame_of(record, [value for value, _ in kept], height_px, width_px, orientation)
        marked = [_marked(found, value, category, height_px, width_px, turn) for value, category in kept]
        absent = _absent(found, record, marked) if options.absent else []
    except ImageFailure as error:
        raise ImageFailure(f"{source.annotations[0]}: {error}") from error
    asked = [*(_by_category if options.targets == "category" else _by_instance)(marked), *map(_Asked, absent)]
    used = sorted({each for one in asked for each in one.answer})
    number_of = {each: number for number, each in enumerate(used)}
    nothing, targets = rle.union([], height_px, width_px), []
    for number, each in enumerate(asked):
        regions = [marked[one].region for one in each.answer]
        answer = _union([region.counts for region in regions], nothing, height_px, width_px)
        crowds = _union([marked[one].region.counts for one in each.ignored], nothing, height_px, width_px)
        target = Target(
            target_id=f"{source.image_id}/{number}",
            instances=tuple(number_of[one] for one in each.answer),
            texts=_texts(found.categories[each.category], options),
            is_sentence=False,
            kind="box" if any(region.is_box for region in regions) else _kind(found.categories[each.category], options),
            answer=None,
            segmentation=answer,
            ignore=rle.subtract(crowds, answer) if each.ignored else nothing,
            absent=not each.answer,
            incomplete=bool(each.answer) and _is_open_ended(found, record, each.category),
        )
        targets.append(target)
    instances = [Instance(marked[each].region.counts, found.categories[marked[each].category].name) for each in used]
    notes = [*record.notes, *(note for each in marked for note in each.region.notes)]
    notes += [WITHOUT_CATEGORY] * (len(every) - len(kept))
    notes += [f"regions drawn before EXIF orientation {turn}, turned with the image"] * (turn != UPRIGHT)
    notes += [ABSENT_BUT_ANNOTATED] * len({each.category for each in marked}.intersection(record.negative))
    notes += _notes_of(
        targets, nothing, [_texts(found.categories[each], options) for each in {one.category for one in asked}]
    )
    return Annotation(tuple(instances), tuple(targets), tuple(notes))


def _notes_of(targets: Sequence[Target], nothing: str, texts: Sequence[tuple[str, ...]]) -> list[str]:
    """Notes of targets whose answer has no pixel, and of texts that several of an image's categories have."""
    alike = sum(count > 1 for count in Counter(texts).values())
    empty = sum(not target.absent and target.segmentation == nothing for target in targets)
    return [NO_PIXEL] * empty + [ALIKE] * alike


def wordings(name: str) -> tuple[str, ...]:
    """The texts for a category, as in dvlab-research/LISA: ``dog_(animal)`` as dog, a part ``dog:ear`` in two wordings."""
    parts = [part.partition("_(")[0].strip() or part for part in _parts(name)]
    if len(parts) == 1:
        return (parts[0],)
    return f"{parts[0]} {parts[1]}", f"the {parts[1]} of the {parts[0]}"


def _parts(name: str) -> tuple[str, ...]:
    """Object and part of ``object:part``, or the whole name."""
    parts = tuple(part.strip() for part in name.split(":"))
    return parts if len(parts) == 2 and all(parts) else (name,)


def _texts(category: Category, options: CocoOptions) -> tuple[str, ...]:
    return wordings(category.name) if options.names == "parts" else (category.name,)


def _kind(category: Category, options: CocoOptions) -> str:
    if options.kind is not None:
        return options.kind
    named = options.names == "parts" and len(_parts(category.name)) == 2
    return "part" if named or category.supercategory == "PART" else "object"


def _is_open_ended(found: CocoFile, record: Record, category: int) -> bool:
    """Whether the image may show more of a category than is annotated, or, for a part, more of the object it belongs to."""
    names = {found.categories[each].name for each in record.open_ended if each in found.categories}
    name = found.categories[category].name
    return name in names or _parts(name)[0] in names


def _is_of_instances_alone(annotation: Mapping[str, Any]) -> bool:
    return "instance_id" in annotation and annotation.get("category_id") is None


def _marked(
    found: CocoFile, annotation: dict[str, Any], category: int, height_px: int, width_px: int, turn: int
) -> _Marked:
    name = name_of(annotation)
    if category not in found.categories:
        of = "missing" if "category_id" not in annotation else f"{annotation['category_id']!r:.40}"
        raise ImageFailure(f"{name}: 'category_id' is {of}, expected the id of a category that the file lists")
    is_crowd = annotation.get("iscrowd")
    if is_crowd not in (None, 0, 1):
        raise ImageFailure(f"{name}: 'iscrowd' is {is_crowd!r:.40}, expected 0 or 1")
    try:
        return _Marked(category, read_region(annotation, height_px, width_px, turn), bool(is_crowd))
    except ImageFailure as error:
        raise ImageFailure(f"{name}: {error}") from error


def _absent(found: CocoFile, record: Record, marked: Sequence[_Marked]) -> list[int]:
    """Categories that the annotation says the image does not show, and that have no annotation in it."""
    annotated = {each.category for each in marked}
    for each in record.negative:
        if each not in found.categories:
            raise ImageFailure(f"image {record.key:.40}: 'neg_category_ids' has an id that no category has")
    return [each for each in record.negative if each not in annotated]


def _union(counts: Sequence[str], nothing: str, height_px: int, width_px: int) -> str:
    """The union of regions: a single one unchanged; ``nothing`` if there are no regions."""
    return rle.union(counts, height_px, width_px) if len(counts) > 1 else (*counts, nothing)[0]


def _by_category(marked: Sequence[_Marked]) -> list[_Asked]:
    of: dict[int, list[int]] = {}
    for place, each in enumerate(marked):
        of.setdefault(each.category, []).append(place)
    return [_Asked(category, tuple(places)) for category, places in of.items()]


def _by_instance(marked: Sequence[_Marked]) -> list[_Asked]:
    crowds: dict[int, list[int]] = {}
    for place, each in enumerate(marked):
        if each.is_crowd:
            crowds.setdefault(each.category, []).append(place)
    return [
        _Asked(each.category, (place,), tuple(crowds.get(each.category, ())))
        for place, each in enumerate(marked)
        if not each.is_crowd
    ]


def listed_from(root: Path, split: str, options: CocoOptions = DEFAULTS) -> tuple[str, ...]:
    """The file of a split, and the file of its categories if there is one. DatasetError if one is missing."""
    names = [options.file.replace("{split}", split)]
    names += [] if options.categories is None else [options.categories.replace("{split}", split)]
    for name, option in zip(names, ("file", "categories"), strict=False):
        try:
            path = inside(root, name)
        except ImageFailure as error:
            raise DatasetError(f"{option} of the data set: {error}; expected a file below {root}") from error
        if not path.is_file():
            there = sorted(
                each.relative_to(root).as_posix() for depth in ("*", "*/*") for each in root.glob(f"{depth}.json")
            )
            raise DatasetError(
                f"no file {name!r} in {root} (JSON files there: {', '.join(there[:20]) or 'none'}); set {option} of the data set "
                "in section data of the params, such as annotations/instances_{split}.json"
            )
    return tuple(names)


def _pictures(split: str, options: CocoOptions) -> str:
    """The folder that ``file_name`` starts from, relative to the root; empty: the root itself."""
    return options.pictures.replace("{split}", split).strip("/")


def _parse(root: Path, files: tuple[str, ...], ids: str) -> CocoFile:
    return read_coco(root, files, ids)


_ONCE = Once(_parse)


def _read(root: Path, files: tuple[str, ...], options: CocoOptions) -> CocoFile:
    """The file's content; DatasetError if the file is broken, as that is not the fault of a single image."""
    try:
        return _ONCE.get(root, files, options.ids)
    except ImageFailure as error:
        raise DatasetError(
            f"{root / files[0]}: {error}; expected COCO's form, an object with the lists images, annotations and categories"
        ) from error
