"""The user's own questions, one file per split: CSV, JSON or JSON Lines, with the answer as mask, run lengths, polygons or box.

Columns (or keys), in any order: ``image`` (its file) and ``question`` (in a record also a list of wordings); then one that says
where the answer is: ``mask`` (a PNG as large as the picture, below the data set's folder, 0 where nothing is meant), ``rle``
(COCO's, its counts as text or ``{size, counts}``), ``polygon`` (``x,y x,y x,y``, several with ``;`` between them) or ``box``
(``x,y,width,height``). Without any of these, or with ``absent: yes``, the picture shows nothing of the kind. ``ignore``: pixels
that do not count, as PNG, run lengths or polygons. ``frame``: ``upright`` (default: pixels of the picture as it is shown) or
``stored`` (as its file has them, before an EXIF turn). ``target``: rows of an image with the same value here are wordings of
one question, whose answer stands in one of them or is the same in all; without ``target`` each row is a question. ``answer``:
the answer in words. ``is_sentence``: no for a noun phrase; default yes, never guessed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.datasets.base import Annotation, DatasetError, Expected, Instance, Source, Target
from stages.datasets.content import content_of
from stages.datasets.params import QuestionsOptions
from stages.datasets.question_rows import NEEDED, SUFFIXES, Row, rows_of
from stages.datasets.segments import read_segmentation
from stages.images import ImageFailure, inside, read_image, read_picture
from store import rle
from store.read.pixels import oriented

DEFAULTS = QuestionsOptions()
Mask = NDArray[np.bool_]


def list_sources(root: Path, split: str, options: QuestionsOptions = DEFAULTS) -> list[Source]:
    """Give a source for each image that a row names, in the order of their first rows; mask files belong to its annotations.

    Raises DatasetError if the file is missing or a row of it cannot be read.
    """
    file = _file(root, split, options)
    try:
        found = rows_of(root, file, options.ids)
    except ImageFailure as error:
        raise DatasetError(f"{root / file}: {error}") from error
    return [
        Source(image_id, rows[0].image, (file, *own), content=_content(rows), own=own)
        for image_id, rows in found.items()
        for own in [tuple(dict.fromkeys(name for row in rows for name in row.files))]
    ]


def contents(root: Path, sources: Sequence[Source], options: QuestionsOptions = DEFAULTS) -> list[str]:
    """Give the ``content`` of sources as their file says now."""
    found = rows_of(root, sources[0].annotations[0], options.ids)
    return [_content(found[each.image_id]) if each.image_id in found else "missing" for each in sources]


def _content(rows: Sequence[Row]) -> str:
    """Digest of what the rows of an image say, whatever their place in the file."""
    return content_of([[value for name, value in vars(row).items() if name not in ("line", "text")] for row in rows])


def expected(split: str, options: QuestionsOptions = DEFAULTS, holds: bool = False) -> tuple[Expected, ...]:
    """The file of a split, under any of its names."""
    return (Expected("questions", _names(split, options)),)


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: QuestionsOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the questions of an image, one target per ``target`` of its rows, and one instance for each answer.

    Raises ImageFailure, quoting the line, where the rows of a question have several answers, or a mask is of another size, marks
    nothing or lies outside the data set's folder.
    """
    file = source.annotations[0]
    grouped: dict[Hashable, list[Row]] = {}
    for row in rows_of(root, file, options.ids).get(source.image_id, []):
        grouped.setdefault(row.target or row.line, []).append(row)
    instances: list[Instance] = []
    targets = []

    def turn() -> int:
        return read_picture(picture or inside(root, source.path), height_px * width_px).orientation

    for number, group in enumerate(grouped.values()):
        first = group[0]
        try:
            orientation = turn() if any(row.stored_frame for row in group) else 1
            size = (width_px, height_px) if orientation >= 5 else (height_px, width_px)
            mask, ignored = _answer(root, group, *size)
        except ImageFailure as error:
            raise ImageFailure(f"{file}, line {first.line}: {error}; the line is: {first.text}") from error
        answer = next((row.answer for row in group if row.answer), None)
        segmentation = _encoded(mask, orientation, size)
        if mask is not None:
            instances.append(Instance(segmentation, answer or ""))
        targets.append(
            Target(
                target_id=f"{source.image_id}/{number}",
                instances=() if mask is None else (len(instances) - 1,),
                texts=tuple(dict.fromkeys(text for row in group for text in row.questions)),
                is_sentence=next((row.is_sentence for row in group if row.is_sentence is not None), True),
                kind="questions",
                answer=answer,
                segmentation=segmentation,
                ignore=_encoded(
                    None if ignored is None else ignored if mask is None else ignored & ~mask, orientation, size
                ),
                absent=mask is None,
            )
        )
    return Annotation(tuple(instances), tuple(targets))


def _file(root: Path, split: str, options: QuestionsOptions) -> str:
    """The file of a split: the one that the option names, or the only one named after the split."""
    names = _names(split, options)
    there = [name for name in names if (root / name).is_file()]
    if len(there) == 1:
        return there[0]
    others = sorted(path.name for path in root.iterdir() if path.suffix in SUFFIXES) if root.is_dir() else []
    found = (
        f"found {' and '.join(there)}"
        if there
        else f"no file {' or '.join(names)} (there: {', '.join(others) or 'none'})"
    )
    raise DatasetError(
        f"{found} in {root}; expected one with {' and '.join(NEEDED)}: set root, file or splits of the data set in section data of "
        "the params"
    )


def _names(split: str, options: QuestionsOptions) -> tuple[str, ...]:
    if options.file is None:
        return tuple(f"{split}{suffix}" for suffix in SUFFIXES)
    return (options.file.replace("{split}", split),)


def _answer(root: Path, group: Sequence[Row], height_px: int, width_px: int) -> tuple[Mask | None, Mask | None]:
    """The mask that answers a question, bool [H, W], None where it is absent; and the pixels that do not count, or None."""
    given = {repr(row.regions): row.regions for row in group if row.regions}
    if len(given) > 1:
        raise ImageFailure(f"the rows of target {group[0].target!r} have {len(given)} different answers, expected one")
    if given and any(row.absent for row in group):
        raise ImageFailure(
            f"the rows of target {group[0].target!r} have an answer and absent: yes, expected one of them"
        )
    if not given and any(row.absent is False for row in group):
        raise ImageFailure("absent is no, and nothing says where the answer is")
    ignore = next((row.ignore for row in group if row.ignore is not None), None)
    ignored = None if ignore is None else _region(root, "ignore", ignore, height_px, width_px)
    if not given:
        return None, ignored
    ((name, value),) = next(iter(given.values())).items()
    mask = _region(root, name, value, height_px, width_px)
    if not mask.any():
        raise ImageFailure(f"{name} marks nothing; expected absent: yes where the picture shows nothing of the kind")
    return mask, ignored


def _region(root: Path, name: str, value: Any, height_px: int, width_px: int) -> Mask:
    try:
        if isinstance(value, str):
            return _png(inside(root, value), height_px, width_px)
        if name == "box":
            x, y, width, height = value
            value = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        return read_segmentation(value, height_px, width_px).mask
    except ImageFailure as error:
        raise ImageFailure(f"{name}: {error}") from error


def _png(path: Path, height_px: int, width_px: int) -> Mask:
    try:
        pixels = read_image(path, height_px * width_px)
    except ImageFailure as error:
        raise ImageFailure(f"{path.name}: {error}") from error
    if pixels.shape[:2] != (height_px, width_px):
        height, width, _ = pixels.shape
        raise ImageFailure(f"{path.name} has {width} x {height} px, the picture {width_px} x {height_px}")
    return np.asarray(pixels.any(axis=2))


def _encoded(mask: Mask | None, orientation: int, size: tuple[int, int]) -> str:
    """COCO RLE of a mask in the upright picture; None is the empty mask."""
    return rle.encode(oriented(np.zeros(size, bool) if mask is None else mask, orientation))
