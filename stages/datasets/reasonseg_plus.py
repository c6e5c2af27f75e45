"""Reasoning segmentation with several masks per question, on COCO's pictures: MUSE, MMR and LISA++.

| release | splits | files |
|---|---|---|
| muse | train, val, test_less, test_many | MUSE_train.json or muse_train.json, ... |
| mmr | train, val, test_mixed, test_obj_only, test_part_only | MMR_train.json, ... |
| lisa_plus | instance_seg, cot, caption, conversations | LISA_Plus_COT.json or LISA_Plus_COT/data.json, ... |

Each object or part of an answer is an instance; the target is their union.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.datasets.base import Annotation, DatasetError, Expected, Instance, Source, Target
from stages.datasets.content import Rows, content_of
from stages.datasets.frame import turn_note, turned_by, upright_counts
from stages.datasets.ids import coco_id_of
from stages.datasets.instances import numbers
from stages.datasets.jsonstream import element_at, read_list
from stages.datasets.once import Once
from stages.datasets.params import ReasonSegPlusOptions
from stages.datasets.reasonseg_plus_rows import Asked, asked_in, picture_of, size_of
from stages.datasets.setfile import parsed
from stages.images import ImageFailure, inside
from stages.names import type_name
from store import rle

DEFAULTS = ReasonSegPlusOptions()
NO_POLYGON = "polygon with fewer than three points or half a point, dropped"
FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "muse": {
        split: (f"MUSE_{split}.json", f"muse_{split}.json") for split in ("train", "val", "test_less", "test_many")
    },
    "mmr": {
        split: (f"MMR_{split}.json",) for split in ("train", "val", "test_mixed", "test_obj_only", "test_part_only")
    },
    "lisa_plus": {
        split: (f"LISA_Plus_{name}.json", f"LISA_Plus_{name}/data.json")
        for split, name in {
            "instance_seg": "Instance_Seg",
            "cot": "COT",
            "caption": "Caption",
            "conversations": "Conversations",
        }.items()
    },
}
"""Release -> split -> names of its file; the first that exists is read."""


def list_sources(root: Path, split: str, options: ReasonSegPlusOptions = DEFAULTS) -> list[Source]:
    """Give a source for each picture that is asked about, sorted by its number in COCO.

    Raises DatasetError where the release has no such split, where its file is missing or not a list, or where a row does not
    name a picture of COCO.
    """
    files = FILES[options.release]
    if split not in files:
        raise DatasetError(f"found the split {split!r}, of {options.release} expected one of {', '.join(files)}")
    (file,) = listed_from(root, split, options)
    found = parsed(_ROWS, root, file, None, f"the list of rows of {options.release}, {' or '.join(files[split])}")
    return [
        Source(image_id, rows.path, (file,), content=content_of(rows.digest))
        for image_id, rows in sorted(found.items())
    ]


def contents(root: Path, sources: Sequence[Source], options: ReasonSegPlusOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources as their file says now."""
    (file,) = sources[0].annotations
    found = parsed(_ROWS, root, file, None, f"the list of rows of {options.release}")
    rows = [found.get(source.image_id) for source in sources]
    return ["missing" if each is None else content_of(each.digest) for each in rows]


def listed_from(root: Path, split: str, options: ReasonSegPlusOptions = DEFAULTS) -> tuple[str, ...]:
    """The file that alone decides what is listed; empty: the release has no such split."""
    files = FILES[options.release].get(split, ())
    return tuple(file for file in files if (root / file).is_file())[:1] or files[:1]


def expected(split: str, options: ReasonSegPlusOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The file of a split, under any of its names."""
    return (Expected("questions", FILES[options.release].get(split, (f"{split}.json",))),)


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: ReasonSegPlusOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image, one for each question that has masks, in file order.

    A question whose answer has a different number of ``{seg}`` than masks, or points to no mask, is left out with a note.

    Raises ImageFailure where a key is missing or of another type, where a mask is unusable, or where the size that a row states is
    not the image's.
    """
    (file,) = source.annotations
    rows = _ROWS.get(root, (file,), None)
    if source.image_id not in rows:
        raise ImageFailure(f"{file}: image {source.image_id} is not there any more")
    upright = (height_px, width_px)
    instances: list[Instance] = []
    targets: list[Target] = []
    notes: list[str] = []
    with inside(root, file).open("rb") as opened:
        for number, start, length in rows[source.image_id].places:
            try:
                row = element_at(opened, start, length)
                if not isinstance(row, dict):
                    raise ImageFailure(f"is {type_name(row)}, expected an object")
                size = size_of(row) or upright
                turn = turned_by("the row", size, upright, picture or inside(root, source.path))
                notes += turn_note("masks", turn)
                for asked in asked_in(row):
                    if isinstance(asked, str):
                        notes.append(asked)
                        continue
                    regions = _regions(asked, size, turn, notes)
                    found = [
                        Instance(counts, label)
                        for (label, _), counts in zip(asked.parts, regions, strict=True)
                        if rle.area(counts)
                    ]
                    targets.append(
                        Target(
                            target_id=f"{source.image_id}/{len(targets)}",
                            instances=numbers(found, instances),
                            texts=(asked.question,),
                            is_sentence=True,
                            kind="reasonseg_plus",
                            answer=asked.answer,
                            segmentation=rle.union(regions, *upright),
                            ignore=rle.union([], *upright),
                            incomplete=asked.incomplete,
                        )
                    )
            except ImageFailure as error:
                raise ImageFailure(f"{file}: row {number}: {error}") from error
    return Annotation(tuple(instances), tuple(targets), tuple(notes))


def _regions(asked: Asked, size: tuple[int, int], turn: int, notes: list[str]) -> list[str]:
    """COCO RLE of each mask of an answer; further notes are added to ``notes``."""
    regions = []
    for number, (_, segmentation) in enumerate(asked.parts):
        try:
            counts, dropped = upright_counts(segmentation, size, turn)
        except ImageFailure as error:
            raise ImageFailure(f"{asked.question!r:.40}: mask {number}: {error}") from error
        regions.append(counts)
        notes += [NO_POLYGON] * dropped
        notes += [] if rle.area(counts) else ["mask without a pixel"]
    return regions


def _parse(root: Path, files: tuple[str, ...], _options: None) -> dict[str, Rows]:
    """Positions of the rows in the file, by image. Their text is read when their image is, so that memory use stays constant."""
    rows: dict[str, Rows] = {}
    count = 0

    def add(row: object, start: int, length: int) -> None:
        nonlocal count
        try:
            if not isinstance(row, dict):
                raise ImageFailure(f"is {type_name(row)}, expected an object")
            path = picture_of(row)
            image_id = coco_id_of(path)
            if image_id is None:
                raise ImageFailure(f"names the picture {path!r}, expected a file name of COCO's")
            rows.setdefault(image_id, Rows(path)).add(count, start, length, row)
        except ImageFailure as error:
            raise ImageFailure(f"row {count}: {error}") from error
        count += 1

    read_list(inside(root, files[0]), add)
    return rows


_ROWS = Once(_parse)
