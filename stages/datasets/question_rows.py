"""Reads a file of the user's own questions, a table (CSV) or records (JSON, JSON Lines), into rows by image."""

from __future__ import annotations

import csv
import io
import json
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.datasets.ids import coco_id_of, path_id
from stages.datasets.jsonfile import text as utf8
from stages.datasets.once import Once
from stages.datasets.segments import MAX_OUTLINE_PX, polygons
from stages.images import ImageFailure, inside, read_file
from stages.names import type_name

MAX_BYTES = 2**28
SUFFIXES = (".csv", ".jsonl", ".json")
NEEDED = ("image", "question")
REGIONS = ("mask", "rle", "polygon", "box")
"""Columns that say where the answer is."""
_SEVERAL = {"questions": "question", "polygons": "polygon"}
"""Keys of records -> the column for which they are another name."""
COLUMNS = (*NEEDED, *REGIONS, "absent", "ignore", "frame", "target", "answer", "is_sentence")
_TRUE, _FALSE = ("yes", "true", "1", "y"), ("no", "false", "0", "n")
_SHOWN = 80


@dataclass(frozen=True)
class Row:
    """A row of the file.

    line: its number in the file, from 1 (in a JSON file its place in the list). text: its beginning, as messages quote it.
    regions: column -> parsed value, for each of ``REGIONS`` that has one. absent, is_sentence: None if not stated.
    """

    line: int
    text: str
    image: str
    questions: tuple[str, ...]
    regions: Mapping[str, Any] = field(default_factory=dict)
    ignore: Any = None
    absent: bool | None = None
    stored_frame: bool = False
    target: str = ""
    answer: str | None = None
    is_sentence: bool | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the masks that it names."""
        return tuple(value for value in (self.regions.get("mask"), self.ignore) if isinstance(value, str))


def rows_of(root: Path, file: str, ids: str) -> dict[str, list[Row]]:
    """image_id -> its rows, in the order of the file.

    Raises:
        ImageFailure: the file does not have this form, or a row cannot be read; the message quotes the row.
        FileNotFoundError: it is not there.
    """
    return _ROWS.get(root, (file,), ids)


def _parse(root: Path, files: tuple[str, ...], ids: str) -> dict[str, list[Row]]:
    data = read_file(inside(root, files[0]), MAX_BYTES)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageFailure(f"not in UTF-8 (byte {error.start}); save it in UTF-8") from error
    suffix = Path(files[0]).suffix.lower()
    read = {".csv": _table, ".jsonl": _lines, ".json": _records}.get(suffix)
    if read is None:
        raise ImageFailure(f"the name ends in {suffix or 'nothing'!r}, expected one of {', '.join(SUFFIXES)}")
    found: dict[str, list[Row]] = {}
    where = False
    for line, quoted, cells in read(text):
        try:
            row = _row(line, quoted, cells)
            image_id = coco_id_of(row.image) if ids == "coco" else path_id(row.image)
            if not row.image or image_id is None:
                expected = "a file with COCO's name (000000000009.jpg)" if ids == "coco" else "the file of a picture"
                raise ImageFailure(f"'image' is {row.image!r}, expected {expected}")
        except ImageFailure as error:
            raise ImageFailure(f"line {line}: {error}; the line is: {quoted}") from error
        where = where or any(name in cells for name in (*REGIONS, "absent"))
        found.setdefault(image_id, []).append(row)
    if not found:
        raise ImageFailure("has no rows")
    if not where:
        raise ImageFailure(
            f"says nowhere what the answers are; expected {' or '.join(REGIONS)} where the picture shows it, and "
            "nothing (or absent: yes) where it does not"
        )
    return found


_ROWS = Once(_parse)


def _table(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Line number, beginning of the line, and non-empty cells by column, for each row of a CSV with commas, semicolons or tabs."""
    header, _, _ = text.partition("\n")
    delimiter = max(",;\t", key=header.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [name.strip().lower() for name in next(table, [])]
        _check_names(names, "columns")
        if len(set(names)) != len(names):
            raise ImageFailure(f"found the columns {', '.join(map(repr, names))}, expected each once")
        for cells in table:
            if not any(cell.strip() for cell in cells):
                continue
            quoted = delimiter.join(cells)[:_SHOWN]
            if len(cells) > len(names):
                raise ImageFailure(
                    f"line {table.line_num} has {len(cells)} cells, the header {len(names)}; the line is: {quoted}"
                )
            found = {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
            yield (
                table.line_num,
                quoted,
                {**dict.fromkeys(names), **{name: cell or None for name, cell in found.items()}},
            )
    except csv.Error as error:
        raise ImageFailure(f"line {table.line_num}: {error}") from error


def _lines(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _record(number, line.strip()[:_SHOWN], _json(line, f"line {number}: "))


def _records(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    found = _json(text, "")
    if not isinstance(found, list):
        raise ImageFailure(f"found {type_name(found)}, expected a list of records")
    for number, value in enumerate(found, start=1):
        yield _record(number, _quoted(value), value)


def _quoted(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = reprlib.repr(value)
    return text[:_SHOWN].encode("utf-8", "backslashreplace").decode()


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageFailure(f"{where}not JSON: {error}") from error


def _record(line: int, quoted: str, value: Any) -> tuple[int, str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise ImageFailure(f"line {line}: found {type_name(value)}, expected a record {{...}}; the line is: {quoted}")
    cells = {str(_SEVERAL.get(name, name)): cell for name, cell in value.items()}
    try:
        for several, one in _SEVERAL.items():
            if several in value and one in value:
                raise ImageFailure(f"found the keys {one!r} and {several!r}, expected one of them")
        _check_names(list(cells), "keys")
    except ImageFailure as error:
        raise ImageFailure(f"line {line}: {error}; the line is: {quoted}") from error
    return line, quoted, cells


def _check_names(names: Sequence[str], what: str) -> None:
    lacking = [name for name in NEEDED if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    if lacking or unknown:
        raise ImageFailure(
            f"found the {what} {', '.join(map(repr, names)) or 'none'}; expected {' and '.join(NEEDED)}, and of "
            f"{', '.join(COLUMNS[2:])} those that are needed"
        )


def _row(line: int, quoted: str, cells: Mapping[str, Any]) -> Row:
    questions = cells["question"] if isinstance(cells["question"], list) else [cells["question"]]
    if not questions or not all(isinstance(each, str) and each.strip() for each in questions):
        raise ImageFailure(f"'question' is {reprlib.repr(cells['question'])}, expected text")
    readers = {"mask": _text, "rle": _rle, "polygon": _polygons, "box": _box}
    regions = {name: read(name, cells[name]) for name, read in readers.items() if cells.get(name) is not None}
    absent = _flag("absent", cells.get("absent"))
    if len(regions) > 1 or (regions and absent):
        given = ", ".join([*regions, *(["absent"] if absent else [])])
        raise ImageFailure(f"found several answers ({given}), expected one of {', '.join((*REGIONS, 'absent'))}")
    frame = "upright" if cells.get("frame") is None else cells["frame"]
    if frame not in ("upright", "stored"):
        raise ImageFailure(
            f"'frame' is {reprlib.repr(frame)}, expected upright (as the picture is shown) or stored (as its file has it)"
        )
    return Row(
        line,
        quoted,
        _text("image", cells["image"]),
        tuple(_text("question", each) for each in questions),
        regions,
        None if cells.get("ignore") is None else _ignored(cells["ignore"]),
        absent,
        frame == "stored",
        _target(cells.get("target")),
        None if cells.get("answer") is None else _text("answer", cells["answer"]),
        _flag("is_sentence", cells.get("is_sentence")),
    )


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ImageFailure(f"{name!r} is {reprlib.repr(value)}, expected text")
    return utf8(value, repr(name)).strip()


def _target(value: Any) -> str:
    """The text or whole number that rows of one question share; empty if the row has no such cell."""
    if value is None:
        return ""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text("target", value)


def _flag(name: str, value: Any) -> bool | None:
    said = str(value).lower() if isinstance(value, str | bool | int) else value
    if said is not None and said not in _TRUE and said not in _FALSE:
        raise ImageFailure(f"{name!r} is {reprlib.repr(value)}, expected yes or no")
    return None if said is None else said in _TRUE


def _rle(name: str, value: Any) -> dict[str, Any]:
    """COCO's run lengths: ``counts``, and ``size`` if stated."""
    found = _json(value, f"{name!r}: ") if isinstance(value, str) and value.startswith("{") else value
    found = {"counts": found} if isinstance(found, str) else found
    counts, size = (found.get("counts"), found.get("size")) if isinstance(found, dict) else (None, None)
    runs = isinstance(counts, str) or (isinstance(counts, list) and _whole(counts))
    if not runs or not (size is None or (isinstance(size, list) and _whole(size))):
        raise ImageFailure(f"{name!r} is {reprlib.repr(value)}, expected the counts as text, or size and counts")
    return {key: each for key, each in found.items() if key in ("size", "counts")}


def _polygons(name: str, value: Any) -> list[list[float]]:
    """Flat lists of x and y in px, from a text ``x,y x,y x,y; ...`` or any list that ``segments.polygons`` takes."""
    if isinstance(value, str):
        found: list[Any] = [_numbers(name, part) for part in value.split(";") if part.strip()]
    else:
        found = polygons(value) if isinstance(value, list) and value else []
    if not found or not all(
        isinstance(each, list) and len(each) >= 6 and len(each) % 2 == 0 and set(map(type, each)) <= {int, float}
        for each in found
    ):
        raise ImageFailure(f"{name!r} is {reprlib.repr(value)}, expected three points or more, each x,y")
    return found


def _ignored(value: Any) -> Any:
    """The path of a PNG, run lengths or polygons."""
    if isinstance(value, dict) or (isinstance(value, str) and value.startswith("{")):
        return _rle("ignore", value)
    if isinstance(value, str) and value.lower().endswith(".png"):
        return _text("ignore", value)
    return _polygons("ignore", value)


def _box(name: str, value: Any) -> list[float]:
    numbers = _numbers(name, value) if isinstance(value, str) else value
    if (
        not isinstance(numbers, list)
        or len(numbers) != 4
        or not all(type(each) in (int, float) and abs(each) <= MAX_OUTLINE_PX for each in numbers)
    ):
        raise ImageFailure(f"{name!r} is {reprlib.repr(value)}, expected x,y,width,height in px")
    if min(numbers[2:]) <= 0:
        raise ImageFailure(f"{name!r} is {reprlib.repr(value)}, expected a width and a height above 0 px")
    return numbers


def _whole(values: list[Any]) -> bool:
    return set(map(type, values)) <= {int}


def _numbers(name: str, value: str) -> list[float]:
    try:
        return [float(each) for each in value.replace(",", " ").split()]
    except ValueError as error:
        raise ImageFailure(f"{name!r} is {value!r:.80}: {error}") from error
