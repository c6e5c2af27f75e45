"""Semantic segmentation as published: one PNG for each picture, whose pixel values are the numbers of labels.

| labels | label maps | pictures | values |
|---|---|---|---|
| ade20k | annotations/training/*.png | images/training/*.jpg | 0 void, 1 to 150 the names |
| cocostuff | train2017/*.png | COCO's, by their number | 0 to 181 the names, 255 void |
| mapillary | training/v2.0/labels/*.png | training/images/*.jpg | place in ``labels`` of config_v2.0.json; nothing is void |
| own | annotations/SPLIT/*.png | images/SPLIT/*.jpg | line of a file of names |

Every label in the picture is a target, however small, with one instance of all its pixels. Targets are in the order of
their values. Void pixels are ignored. A picture that shows only void has no target.

With ``absent``, labels that are not in the picture are targets too, with a false premise (see-say-segment/sesame,
dataloaders/sem_seg_dataset.py).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.datasets.base import Annotation, DatasetError, Expected, Instance, Source, Target
from stages.datasets.classes import Classes, classes_of, names_file
from stages.datasets.frame import turn_note, turned_by, upright_pixels
from stages.datasets.ids import coco_id_of
from stages.datasets.labelmap import read_label_map, regions
from stages.datasets.params import SemanticOptions
from stages.datasets.stems import by_stem
from stages.images import SUFFIXES, ImageFailure, inside
from stages.names import did_you_mean
from store import rle
from store.stream.dice import Dice

DEFAULTS = SemanticOptions()
CORRECTED = 8 / 15
"""Share of the absent labels that get a correction: SESAME draws 7 % denials and 8 % corrections."""
_FULL_ADE20K = (
    "this is the full ADE20K, whose label maps are *_seg.png in three channels; expected SceneParsing150, "
    "ADEChallengeData2016.zip, with annotations/training/*.png and images/training/*.jpg"
)


@dataclass(frozen=True)
class _Tree:
    """Folders of a split's label maps and pictures, and the names of splits in them."""

    labels: str
    images: str
    splits: Mapping[str, str] = field(default_factory=dict)


_TREES = {
    "ade20k": _Tree("annotations/{split}", "images/{split}", {"train": "training", "val": "validation"}),
    "cocostuff": _Tree("{split}", "{split}", {"train": "train2017", "val": "val2017"}),
    "mapillary": _Tree("{split}/{version}/labels", "{split}/images", {"train": "training", "val": "validation"}),
    "own": _Tree("annotations/{split}", "images/{split}"),
}


def folders_of(split: str, options: SemanticOptions) -> tuple[str, str]:
    """The folders of a split's label maps and pictures, relative to the root."""
    tree = _TREES[options.labels]
    words = {"split": tree.splits.get(split, split), "version": options.version}
    return tree.labels.format(**words), tree.images.format(**words)


def list_sources(root: Path, split: str, options: SemanticOptions = DEFAULTS) -> list[Source]:
    """Give a source for each stem: a label map, a picture, or both together; sorted by image_id.

    A picture without a label map is listed without annotations; a label map without a picture is listed too.

    Raises DatasetError where the split has no folder of label maps, where it is the full ADE20K, where two files have the same
    stem, where a name is not COCO's although images are called by their COCO number, or where the names of the labels are
    unusable.
    """
    tree = _TREES[options.labels]
    folder, pictures = folders_of(split, options)
    names = _files(root, folder)
    if options.labels == "ade20k" and _is_full_ade20k(root, names or []):
        raise DatasetError(f"{root}: {_FULL_ADE20K}")
    if names is None:
        raise DatasetError(_no_folder(root, split, folder, tree))
    maps = by_stem(folder, names, (".png",))
    if not maps:
        raise DatasetError(f"no label maps in {root / folder}; expected *.png, one for each picture of {pictures}")
    same = pictures == folder
    images = by_stem(pictures, names if same else _files(root, pictures) or [], (".jpg", ".jpeg") if same else SUFFIXES)
    _check_names(root, options)
    named = names_file(options)
    by_number = options.ids == "coco" or options.labels == "cocostuff"
    sources = []
    for stem in images.keys() | maps.keys():
        image_id = coco_id_of(f"{stem}.jpg") if by_number else stem
        if image_id is None:
            raise DatasetError(
                f"{root / folder}: {stem!r} is not a file name of COCO's; expected its number, such as 000000000009"
            )
        files = (f"{folder}/{maps[stem]}", *([named] if named else [])) if stem in maps else ()
        sources.append(Source(image_id, f"{pictures}/{images.get(stem, f'{stem}.jpg')}", files))
    return sorted(sources, key=lambda source: source.image_id)


def expected(split: str, options: SemanticOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The folders of a split's label maps and, where the data set ``holds`` them, pictures; the file that names the labels."""
    maps, pictures = folders_of(split, options)
    named = names_file(options)
    return (
        Expected("label maps", (maps,)),
        *([Expected("names of the labels", (named,))] if named else []),
        *([Expected("pictures", (pictures,))] if holds else []),
    )


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: SemanticOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image, one for each label that it shows, in the order of their values; then those that are absent.

    Raises ImageFailure where there is no label map, where it is not a PNG of one value of 8 bits for each pixel, where its size is
    not the image's, or where a value has no name. Swapped sizes are accepted if the image's EXIF orientation explains them.
    """
    if not source.annotations:
        raise ImageFailure("no annotation: expected a label map (PNG) of the same name")
    name = source.annotations[0]
    upright = (height_px, width_px)
    try:
        labels = read_label_map(inside(root, name), upright)
        turn = turned_by("the label map", labels.shape, upright, picture or inside(root, source.path))
        classes = classes_of(root, options)
        found = regions(upright_pixels(labels, turn))
        _check_values(found, classes, options.labels)
    except ImageFailure as error:
        hint = f" ({_FULL_ADE20K})" if options.labels == "ade20k" and "RGB" in str(error) else ""
        raise ImageFailure(f"{name}: {error}{hint}") from error
    shown = [value for value in found if value in classes.names]
    ignore = rle.union([counts for value, counts in found.items() if value in classes.void], *upright)
    targets = [
        Target(
            target_id=f"{source.image_id}/{number}",
            instances=(number,),
            texts=(classes.names[value],),
            is_sentence=False,
            kind="semantic",
            answer=None,
            segmentation=found[value],
            ignore=ignore,
        )
        for number, value in enumerate(shown)
    ]
    if shown and options.absent:
        targets += _absent(source.image_id, shown, classes, options.absent, rle.union([], *upright))
    instances = [Instance(found[value], classes.names[value]) for value in shown]
    return Annotation(tuple(instances), tuple(targets), turn_note("label map", turn))


def _absent(image_id: str, shown: Sequence[int], classes: Classes, most: int, nothing: str) -> list[Target]:
    """Targets for at most ``most`` labels that are not shown, which the image_id decides."""
    there = sorted({classes.names[value] for value in shown})
    others = sorted({*classes.names.values()}.difference(there))
    dice = Dice(int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "little"))
    return [
        Target(
            target_id=f"{image_id}/{len(shown) + number}",
            instances=(),
            texts=(others[drawn],),
            is_sentence=False,
            kind="semantic",
            answer=None,
            segmentation=nothing,
            ignore=nothing,
            absent=True,
            correction=there[dice.below(len(there))] if dice.fraction() < CORRECTED else None,
        )
        for number, drawn in enumerate(dice.some(len(others), most))
    ]


def _check_values(found: Mapping[int, str], classes: Classes, labels: str) -> None:
    unnamed = [value for value in found if value not in classes.names and value not in classes.void]
    if unnamed:
        known = sorted({*classes.names, *classes.void})
        raise ImageFailure(
            f"value {unnamed[0]} ({rle.area(found[unnamed[0]])} pixels) has no name in {labels}, expected values from "
            f"{known[0]} to {known[-1]}"
        )


def _check_names(root: Path, options: SemanticOptions) -> None:
    try:
        classes_of(root, options)
    except (ImageFailure, FileNotFoundError) as error:
        file = names_file(options)
        found = "no such file" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{file}: ")
        what = "'readable' of each label" if options.labels == "mapillary" else "one name per line"
        raise DatasetError(f"{root / str(file)}: {found}; expected the names of the labels in it, {what}") from error


def _files(root: Path, folder: str) -> list[str] | None:
    """Names of the files of a folder, sorted; None: there is no such folder."""
    try:
        top = inside(root, folder)
    except ImageFailure as error:
        raise DatasetError(f"{error}; expected a folder in {root}") from error
    if not top.is_dir():
        return None
    with os.scandir(top) as entries:
        return sorted(entry.name for entry in entries)


def _is_full_ade20k(root: Path, names: Sequence[str]) -> bool:
    """Whether these are files of the other data set of this name, the full ADE20K of 2016 or 2021."""
    if any(name.endswith("_seg.png") for name in names):
        return True
    if names:
        return False
    marks = ("index_ade20k.pkl", "index_ade20k.mat", "images/ADE", "images/training/a", "images/training/misc")
    return any((root / mark).exists() for mark in marks)


def _no_folder(root: Path, split: str, folder: str, tree: _Tree) -> str:
    top = root / folder.split("/")[0] if "/" in tree.labels and not tree.labels.startswith("{") else root
    there = sorted(path.name for path in top.iterdir() if path.is_dir()) if top.is_dir() else []
    return (
        f"no folder {folder} in {root} (folders in {top}: {', '.join(there) or 'none'}), which has the label maps of split "
        f"{split!r}{did_you_mean(split, tree.splits)}; set root, labels or splits of the data set in section data of the params"
    )
