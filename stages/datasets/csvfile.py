"""One's own questions: a CSV file per split, one row per wording, with the answer as a mask, polygons or a box.

Columns, in any order and in any case: ``image`` (its file) and ``question``; then ``mask`` (a PNG, below the data set's folder, as
large as the picture and 0 where nothing is meant), ``polygon`` (``x,y x,y x,y``, several with ``;`` between them), ``box``
(``x,y,width,height``), or ``absent`` (yes: the picture shows nothing of the kind). ``target``: rows of an image with the same word
here are wordings of one question, whose answer stands in one of them or is the same in all; without it each row is a question of
its own. ``answer``: in words. ``is_sentence``: no for a noun phrase. Pixels are those of the upright picture.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.datasets.base import Annotation, DatasetError, Instance, Source, Target
from stages.datasets.ids import coco_id_of, path_id
from stages.datasets.once import Once
from stages.datasets.params import CsvOptions
from stages.datasets.segments import read_segmentation
from stages.images import ImageFailure, inside, read_file, read_image
from store import rle

DEFAULTS = CsvOptions()
MAX_BYTES = 2**28
NEEDED = ("image", "question")
ANSWERS = ("mask", "polygon", "box", "absent")
COLUMNS = (*NEEDED, *ANSWERS, "target", "answer", "is_sentence")
_TRUE, _FALSE = ("yes", "true", "1", "y"), ("no", "false", "0", "n", "")


@dataclass(frozen=True)
class Row:
    """A row of the file: its line, and its cells by column, without white space around them."""

    line: int
    cells: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells.get(column, "")


def list_sources(root: Path, split: str, options: CsvOptions = DEFAULTS) -> list[Source]:
    """Give each image that a row names a source, in the order of their first rows; masks are among the annotation's files.

    Raises DatasetError where the file is not there, is no CSV in UTF-8, lacks a column or has one that is unknown.
    """
    file = options.file.replace("{split}", split)
    try:
        found = _ROWS.get(root, (file,), options.ids)
    except ImageFailure as error:
        raise DatasetError(f"{root / file}: {error}") from error
    except FileNotFoundError as error:
        there = sorted(path.name for path in root.glob("*.csv")) if root.is_dir() else []
        raise DatasetError(
            f"no file {root / file} (CSV files there: {', '.join(there) or 'none'}); expected one with the columns "
            f"{', '.join(NEEDED)}: set root, file or splits of the data set in section data of the params"
        ) from error
    return [
        Source(image_id, rows[0]["image"], (file, *dict.fromkeys(row["mask"] for row in rows if row["mask"])))
        for image_id, rows in found.items()
    ]


def annotate(
    root: Path,
    source: Source,
    height_px: int,
    width_px: int,
    options: CsvOptions = DEFAULTS,
    picture: Path | None = None,
) -> Annotation:
    """Read the questions of an image, one target per ``target`` of its rows, and one instance for each answer.

    Raises ImageFailure, naming file and line, where a row has no answer or several, a mask is of another size or outside the
    data set's folder, or numbers are not to be read.
    """
    file = source.annotations[0]
    rows = _ROWS.get(root, (file,), options.ids).get(source.image_id, [])
    grouped: dict[Hashable, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["target"] or row.line, []).append(row)
    instances: list[Instance] = []
    targets = []
    for number, group in enumerate(grouped.values()):
        try:
            mask, answer = _answer(root, group, height_px, width_px)
        except ImageFailure as error:
            raise ImageFailure(f"{file}, line {group[0].line}: {error}") from error
        segmentation = rle.encode(np.zeros((height_px, width_px), bool) if mask is None else mask)
        if mask is not None and mask.any():
            instances.append(Instance(segmentation, answer or ""))
        targets.append(
            Target(
                target_id=f"{source.image_id}/{number}",
                instances=(len(instances) - 1,) if mask is not None and mask.any() else (),
                texts=tuple(row["question"] for row in group),
                is_sentence=_flag(group[0], "is_sentence", default=True),
                kind="csv",
                answer=answer,
                segmentation=segmentation,
                ignore=rle.encode(np.zeros((height_px, width_px), bool)),
                absent=mask is None,
            )
        )
    return Annotation(tuple(instances), tuple(targets))


def _answer(
    root: Path, group: Sequence[Row], height_px: int, width_px: int
) -> tuple[NDArray[np.bool_] | None, str | None]:
    """The mask that answers a question, bool [H, W], None where it is absent; and the answer in words."""
    if empty := next((row for row in group if not row["question"]), None):
        raise ImageFailure(f"'question' of line {empty.line} is empty")
    given = {(name, row[name]) for row in group for name in ANSWERS if row[name] and not _is_no(row, name)}
    if len(given) != 1:
        found = ", ".join(f"{name} {value!r}" for name, value in sorted(given)) or "none"
        raise ImageFailure(f"expected one answer in the columns {', '.join(ANSWERS)}, found {found}")
    ((kind, value),) = given
    words = next((row["answer"] for row in group if row["answer"]), None)
    if kind == "absent":
        _flag(next(row for row in group if row["absent"]), "absent", default=False)
        return None, words
    if kind == "mask":
        return _png(inside(root, value), height_px, width_px), words
    polygons = (
        _box(value) if kind == "box" else [_numbers(part, "polygon") for part in value.split(";") if part.strip()]
    )
    region = read_segmentation(polygons, height_px, width_px)
    if region.dropped:
        raise ImageFailure(f"{kind} {value!r}: expected three points or more, each x,y")
    return region.mask, words


def _is_no(row: Row, name: str) -> bool:
    return name == "absent" and not _flag(row, name, default=False)


def _flag(row: Row, name: str, default: bool) -> bool:
    value = row[name].lower()
    if value not in _TRUE and value not in _FALSE:
        raise ImageFailure(f"{name!r} is {row[name]!r}, expected yes or no")
    return value in _TRUE if value else default


def _png(path: Path, height_px: int, width_px: int) -> NDArray[np.bool_]:
    try:
        pixels = read_image(path, height_px * width_px)
    except ImageFailure as error:
        raise ImageFailure(f"mask {path.name}: {error}") from error
    if pixels.shape[:2] != (height_px, width_px):
        height, width, _ = pixels.shape
        raise ImageFailure(f"mask {path.name} has {width} x {height} px, the upright picture {width_px} x {height_px}")
    mask = np.asarray(pixels.any(axis=2))
    if not mask.any():
        raise ImageFailure(
            f"mask {path.name} marks nothing; expected absent yes where the picture shows nothing of the kind"
        )
    return mask


def _box(value: str) -> list[list[float]]:
    numbers = _numbers(value, "box")
    if len(numbers) != 4 or min(numbers[2:]) <= 0:
        raise ImageFailure(f"box {value!r}: expected x,y,width,height in px")
    x, y, width, height = numbers
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def _numbers(value: str, what: str) -> list[float]:
    try:
        return [float(each) for each in value.replace(",", " ").split()]
    except ValueError as error:
        raise ImageFailure(f"{what} {value!r:.80}: {error}") from error


def _parse(root: Path, files: tuple[str, ...], ids: Hashable) -> dict[str, list[Row]]:
    """Rows by image_id."""
    data = read_file(inside(root, files[0]), MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageFailure(f"not in UTF-8 (byte {error.start}); save the table as CSV in UTF-8") from error
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: dict[str, list[Row]] = {}
    try:
        names = [name.strip().lower() for name in next(table)]
        _check_header(names)
        for cells in table:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(names):
                raise ImageFailure(f"line {table.line_num} has {len(cells)} cells, the header {len(names)}")
            row = Row(table.line_num, dict(zip(names, (cell.strip() for cell in cells), strict=False)))
            image_id = coco_id_of(row["image"]) if ids == "coco" else path_id(row["image"])
            if not row["image"] or image_id is None:
                expected = "a file with COCO's name (000000000009.jpg)" if ids == "coco" else "the file of a picture"
                raise ImageFailure(f"line {row.line}: 'image' is {row['image']!r}, expected {expected}")
            found.setdefault(image_id, []).append(row)
    except csv.Error as error:
        raise ImageFailure(f"line {table.line_num}: {error}") from error
    if not found:
        raise ImageFailure("has no rows")
    return found


def _check_header(names: Sequence[str]) -> None:
    lacking = [name for name in NEEDED if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    if lacking or unknown or len(set(names)) != len(names):
        raise ImageFailure(
            f"found the columns {', '.join(map(repr, names))}; expected {', '.join(NEEDED)}, and of {', '.join(COLUMNS[2:])} "
            "those that are needed, each once"
        )


_ROWS = Once(_parse)
