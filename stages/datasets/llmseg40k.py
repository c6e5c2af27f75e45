"""LLM-Seg40K as released: ``train.json``, ``validation.json`` and ``test.json``, each an object keyed by the image's file name.

``{"000000000009.jpg": {"from_dataset": "coco", "qa_pairs": [{"question", "answer", "rle_seg", "segmentation_path"}]}}``. A pair is
a target of one instance, whose label is the answer, the name of a class. ``segmentation_path`` names files that were not
released.

The pictures are those of COCO train2017 and of EgoObjects. A data set borrows from only one holder, so an entry of the params
reads the pictures of one source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stages.datasets.base import Annotation, DatasetError, Expected, Instance, Source, Target
from stages.datasets.content import content_of
from stages.datasets.frame import turn_note, turned_by, upright_counts
from stages.datasets.ids import coco_id_of, path_id
from stages.datasets.instances import numbers
from stages.datasets.jsonfile import MAX_SET_BYTES, field, read_json, text
from stages.datasets.once import Once
from stages.datasets.params import LlmSeg40kOptions
from stages.datasets.setfile import parsed
from stages.images import ImageFailure, check_inside, inside
from stages.names import type_name
from store import rle

DEFAULTS = LlmSeg40kOptions()
SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
"""Split -> name of its file, without suffix."""
_FOLDERS = {"coco": "train2017", "ego_objects": "images"}
_EMPTY = "mask without a pixel"


class _Row(NamedTuple):
    """What the file says of a picture."""

    source: str
    pairs: tuple[Any, ...]
    content: str


def list_sources(root: Path, split: str, options: LlmSeg40kOptions = DEFAULTS) -> list[Source]:
    """List a source for each picture of ``options.source``, sorted by image_id; pictures of the other source are not listed.

    Raises DatasetError if the split has no file, if it does not have this form, or if no picture is from the source.
    """
    if split not in SPLITS:
        raise DatasetError(f"found the split {split!r}, expected one of {', '.join(SPLITS)}")
    file = f"{SPLITS[split]}.json"
    rows = _rows(root, file)
    names = [name for name, row in rows.items() if row.source == options.source]
    if not names:
        others = ", ".join(sorted({row.source for row in rows.values()})) or "none"
        raise DatasetError(
            f"{root / file}: no picture is of source {options.source} (sources there: {others}); set source of the "
            "data set in section data of the params"
        )
    folder = _FOLDERS[options.source]
    sources = [
        Source(_image_id(root / file, name, options.source), f"{folder}/{name}", (file,), content=rows[name].content)
        for name in names
    ]
    return sorted(sources, key=lambda source: source.image_id)


def listed_from(root: Path, split: str, options: LlmSeg40kOptions = DEFAULTS) -> tuple[str, ...]:
    """The file that alone decides what is listed."""
    return (f"{SPLITS[split]}.json",) if split in SPLITS else ()


def contents(root: Path, sources: Sequence[Source], options: LlmSeg40kOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources as their file says now."""
    rows = _rows(root, sources[0].annotations[0])
    found = [rows.get(_name(source, options)) for source in sources]
    return ["missing" if row is None else row.content for row in found]


def expected(split: str, options: LlmSeg40kOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The file of a split."""
    return (Expected("questions", (f"{SPLITS.get(split, split)}.json",)),)


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: LlmSeg40kOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image, one for each pair of question and answer, in file order.

    Raises ImageFailure if a key is missing or has the wrong type, or if the run lengths do not have the image's size.
    """
    file = source.annotations[0]
    name = _name(source, options)
    rows = _ROWS.get(root, (file,), None)
    if name not in rows:
        raise ImageFailure(f"{file}: {name!r} is not there any more")
    instances: list[Instance] = []
    targets: list[Target] = []
    notes: list[str] = []
    for number, pair in enumerate(rows[name].pairs):
        try:
            question, label = (
                text(field(pair, "question", str), "'question'"),
                text(field(pair, "answer", str), "'answer'"),
            )
            runs = field(pair, "rle_seg", dict)
            size = _size(runs)
            turn = turned_by("rle_seg", size, (height_px, width_px), picture or inside(root, source.path))
            counts, _ = upright_counts(runs, size, turn)
        except ImageFailure as error:
            raise ImageFailure(f"{file}: {name}: pair {number}: {error}") from error
        found = [Instance(counts, label)] if rle.area(counts) else []
        targets.append(
            Target(
                target_id=f"{source.image_id}/{number}",
                instances=numbers(found, instances),
                texts=(question,),
                is_sentence=True,
                kind="llmseg40k",
                answer=None,
                segmentation=counts,
                ignore=rle.union([], height_px, width_px),
            )
        )
        notes += [*turn_note("mask", turn), *([] if found else [_EMPTY])]
    return Annotation(tuple(instances), tuple(targets), tuple(notes))


def _rows(root: Path, file: str) -> dict[str, _Row]:
    return parsed(_ROWS, root, file, None, "an object by image file name, with 'from_dataset' and 'qa_pairs'")


def _name(source: Source, options: LlmSeg40kOptions) -> str:
    return source.path.removeprefix(f"{_FOLDERS[options.source]}/")


def _image_id(file: Path, name: str, source: str) -> str:
    try:
        check_inside(name)
    except ImageFailure as error:
        raise DatasetError(f"{file}: {error}") from error
    image_id = coco_id_of(name) if source == "coco" else path_id(name)
    if image_id is None:
        raise DatasetError(f"{file}: {name!r} is not a file name of COCO's, such as 000000000009.jpg")
    return image_id


def _size(runs: Mapping[str, Any]) -> tuple[int, int]:
    size = field(runs, "size", list)
    if len(size) != 2 or not all(isinstance(each, int) and not isinstance(each, bool) for each in size):
        raise ImageFailure(f"'size' is {size!r:.40}, expected [height, width]")
    return size[0], size[1]


def _parse(root: Path, files: tuple[str, ...], _options: None) -> dict[str, _Row]:
    """Image file name -> its row, with only the fields that are read."""
    document, _ = read_json(root, files[0], max_bytes=MAX_SET_BYTES)
    if not isinstance(document, dict):
        raise ImageFailure(f"found {type_name(document)}, expected an object by image file name")
    rows = {}
    for name, row in document.items():
        try:
            source = field(row, "from_dataset", str)
            if source not in _FOLDERS:
                raise ImageFailure(f"'from_dataset' is {source!r}, expected one of {', '.join(_FOLDERS)}")
            pairs = field(row, "qa_pairs", list)
            for pair in pairs:
                if isinstance(pair, dict):
                    pair.pop("segmentation_path", None)
            content = content_of(pairs)
        except ImageFailure as error:
            raise ImageFailure(f"{name}: {error}") from error
        rows[text(name, "a file name")] = _Row(source, tuple(pairs), content)
    return rows


_ROWS = Once(_parse)
