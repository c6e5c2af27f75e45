"""ReasonSeg from the hub's Parquet copies (Ricky06662/ReasonSeg_val and the like), read unchanged.

They differ from ReasonSeg: ignored pixels are foreground, only the first text of an image is kept, and ``is_sentence`` is missing.
The image_id is the file name up to the first dot. Masks were painted on the picture as it is stored, before EXIF turns it, but
with points that may belong to the upright one: a mask whose size differs from the upright picture's is a failure, and never turned.

``is_sentence`` of a target is always true, so that its text is asked unchanged. Long and short questions cannot be
distinguished here.

The pictures are in the Parquet file. The entry borrows them by image_id, from ReasonSeg itself or from a data set of the format
images that ``python cli.py data NAME --unpack FOLDER`` fills.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.datasets.base import Annotation, DatasetError, Expected, Instance, Source, Target
from stages.datasets.hubfile import Row, digests_of, masks_of, rows_of
from stages.datasets.instances import numbers
from stages.datasets.params import ReasonSegHubOptions
from stages.datasets.published import Counts
from stages.images import ImageFailure, check_inside
from store import rle

DEFAULTS = ReasonSegHubOptions()
KIND = "reasonseg_hub"
FOREGROUND = "the hub's copy: pixels that ReasonSeg ignores are foreground"
SENTENCE = "the hub's copy has no is_sentence: stored as a sentence, as its text is asked as it stands"
EMPTY = "mask without a pixel"

Placed = tuple[str, Row]
"""The row's file, and the row."""


def files_of(root: Path, split: str, options: ReasonSegHubOptions = DEFAULTS) -> list[str]:
    """The Parquet files of a split, relative to the root and sorted. DatasetError if none is found."""
    pattern = _pattern(split, options)
    try:
        check_inside(pattern)
    except ImageFailure as error:
        raise DatasetError(f"files: {error}; expected a pattern such as {DEFAULTS.files}") from error
    found = sorted(path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file())
    if not found:
        there = sorted(
            path.relative_to(root).as_posix()
            for depth in ("*", "*/*", "*/*/*")
            for path in root.glob(f"{depth}.parquet")
        )
        raise DatasetError(
            f"no {pattern} in {root} (Parquet files there: {', '.join(there[:20]) or 'none'}); set root, files or splits of the "
            "data set in section data of the params"
        )
    return found


def list_sources(root: Path, split: str, options: ReasonSegHubOptions = DEFAULTS) -> list[Source]:
    """Give a source for each image with rows, in the order of the rows. No mask or picture is read.

    Raises DatasetError if the split has no file, or one of its files does not have this form.
    """
    files = files_of(root, split, options)
    return [
        Source(image_id, f"{split}/{image_id}.jpg", tuple(dict.fromkeys(file for file, _ in placed)))
        for image_id, placed in rows_by_image(root, files).items()
    ]


def rows_by_image(root: Path, files: list[str]) -> dict[str, list[Placed]]:
    """image_id -> its rows. DatasetError if a file does not have this form, or no file has rows."""
    found: dict[str, list[Placed]] = {}
    for file in files:
        try:
            rows = rows_of(root, file)
        except ImageFailure as error:
            raise DatasetError(
                f"{root / file}: {error}; expected a Parquet file of the hub's copies of ReasonSeg"
            ) from error
        for row in rows:
            found.setdefault(row.image_id, []).append((file, row))
    if not found:
        raise DatasetError(f"{root}: {', '.join(files)} have no rows")
    return found


def require_one_picture(root: Path, placed: list[Placed]) -> None:
    """Raise ImageFailure where the rows of one image_id are of different pictures: names that are equal up to the first dot."""
    names = list(dict.fromkeys(row.name for _, row in placed if row.name))
    if len(placed) > 1 and (
        len(names) > 1 or len({digests_of(root, file, row.group)[row.place] for file, row in placed}) > 1
    ):
        which = " and ".join(names[:2]) if len(names) > 1 else f"{len(placed)} rows"
        raise ImageFailure(
            f"{which} are different pictures of one image_id, {placed[0][1].image_id!r:.60}, as the hub's copies cut names at the "
            "first dot: they are not used"
        )


def expected(split: str, options: ReasonSegHubOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The Parquet files of a split; some columns are read to count."""
    return (Expected("questions, masks and pictures", (_pattern(split, options),), partly=True),)


def count(root: Path, splits: Sequence[str], options: ReasonSegHubOptions = DEFAULTS) -> Counts:
    """How many images, questions and texts some splits have together. DatasetError if a file does not have this form."""
    rows = rows_by_image(root, [file for split in splits for file in files_of(root, split, options)])
    questions = sum(map(len, rows.values()))
    return Counts(len(rows), questions, questions)


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: ReasonSegHubOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the targets of an image, one for each of its rows, in their order.

    Raises ImageFailure where a mask is unusable or not of the picture's size, or where the rows are of different pictures.
    """
    placed = [
        (file, row) for file in source.annotations for row in rows_of(root, file) if row.image_id == source.image_id
    ]
    if not placed:
        raise ImageFailure(f"{', '.join(source.annotations)}: no row of the image {source.image_id!r} any more")
    file = placed[0][0]
    try:
        require_one_picture(root, placed)
        nothing = rle.union([], height_px, width_px)
        instances: list[Instance] = []
        targets: list[Target] = []
        notes: list[str] = []
        for file, row in placed:
            mask = masks_of(root, file, row.group)[row.place]
            if problem := row.problem or mask.problem:
                raise ImageFailure(problem)
            if (mask.height_px, mask.width_px) != (height_px, width_px):
                raise ImageFailure(
                    f"'mask' has {mask.width_px} x {mask.height_px} px, the upright picture {width_px} x {height_px}: it was made "
                    "for another picture, or for this one before EXIF turned it, with points in an unknown frame"
                )
            found = [Instance(mask.counts, "target")] if rle.area(mask.counts) else []
            targets.append(
                Target(
                    target_id=f"{source.image_id}/{len(targets)}",
                    instances=numbers(found, instances),
                    texts=(row.text,),
                    is_sentence=True,
                    kind=KIND,
                    answer=None,
                    segmentation=mask.counts,
                    ignore=nothing,
                )
            )
            notes += [FOREGROUND, SENTENCE, *([] if found else [EMPTY])]
    except ImageFailure as error:
        raise ImageFailure(f"{file}: {error}") from error
    return Annotation(tuple(instances), tuple(targets), tuple(notes))


def _pattern(split: str, options: ReasonSegHubOptions) -> str:
    return options.files.replace("{split}", split)
