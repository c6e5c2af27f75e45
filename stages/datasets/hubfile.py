"""A Parquet file in the form of the hub's copies of ReasonSeg, read row by row.

The columns are those that dvlab-research/Seg-Zero writes: ``image`` (``bytes``, and the file's name as ``path``), ``text``,
``mask`` (a list of rows of booleans), ``image_id``, ``img_height`` and ``img_width``. Other columns are ignored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stages.datasets.jsonfile import text
from stages.datasets.once import Once
from stages.images import ImageFailure, check_inside, inside
from store import rle

MAX_CHARS = 2**16
"""Longest text or name, in characters."""
MAX_COLUMN_BYTES = 2**24
"""Largest column of texts or names in a row group; checked before it is read."""
MAX_VALUES, SLACK = 2**31, 2**26
"""Largest number of mask pixels in a row group: in all, and beyond the sizes that its rows state.

One mask is in memory at a time.
"""
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Row:
    """A row without its mask and picture.

    group, place: its row group, and its place in it. name: file name of the picture, or empty. problem: why the row cannot be used,
    or empty.
    """

    group: int
    place: int
    image_id: str
    name: str
    text: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HubMask:
    """The mask of a row as COCO RLE, with its own size; or the problem that makes it unusable."""

    counts: str = ""
    height_px: int = 0
    width_px: int = 0
    problem: str = ""


def rows_of(root: Path, file: str) -> tuple[Row, ...]:
    """The rows of a file in file order, read once per process. ImageFailure if the file does not have this form."""
    return _ROWS.get(root, (file,), None)


def masks_of(root: Path, file: str, group: int) -> tuple[HubMask, ...]:
    """The masks of a row group, read once. ImageFailure if they have more pixels than allowed."""
    return _MASKS.get(root, (file,), group)


def pictures_of(root: Path, file: str, groups: Sequence[int] | None = None) -> Iterator[tuple[int, int, bytes | None]]:
    """Row group, place and picture (bytes of the file, None if missing) of each row, in file order; one at a time in memory."""
    with _opened(inside(root, file)) as parquet:
        for group in range(parquet.metadata.num_row_groups) if groups is None else groups:
            batches = parquet.iter_batches(1, row_groups=[group], columns=["image.bytes"], use_threads=False)
            for place, batch in enumerate(_read(batches)):
                value = batch.column(0)[0].as_py()
                yield group, place, None if value is None else value["bytes"]


def digests_of(root: Path, file: str, group: int) -> tuple[str, ...]:
    """sha256 of each picture of a row group, read once; empty for a row without one."""
    return _DIGESTS.get(root, (file,), group)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        parquet = pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ImageFailure(f"not Parquet: {error}") from error
    schema = parquet.schema_arrow
    for name, fits in _COLUMNS.items():
        if schema.names.count(name) != 1 or not fits(schema.field(name).type):
            found = ", ".join(f"{each.name}: {each.type}" for each in schema)[:200] or "none"
            raise ImageFailure(f"no column {name!r} of the type that the hub's copies have (found: {found})")
    return parquet


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_mask(kind: pa.DataType) -> bool:
    return _is_list(kind) and _is_list(kind.value_type) and bool(pa.types.is_boolean(kind.value_type.value_type))


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return False
    fields = {kind.field(number).name: kind.field(number).type for number in range(kind.num_fields)}
    return bool(pa.types.is_binary(fields.get("bytes")) or pa.types.is_large_binary(fields.get("bytes"))) and _is_text(
        fields.get("path")
    )


_COLUMNS: dict[str, Callable[[pa.DataType], bool]] = {
    "image": _is_image,
    "text": _is_text,
    "mask": _is_mask,
    "image_id": _is_text,
    "img_height": pa.types.is_integer,
    "img_width": pa.types.is_integer,
}
"""Required columns -> check of the type. Each must occur once."""


def _read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (pa.ArrowException, OSError) as error:
        raise ImageFailure(f"broken Parquet: {error}") from error


def _parse_rows(root: Path, files: tuple[str, ...], _options: None) -> tuple[Row, ...]:
    found: list[Row] = []
    with _opened(inside(root, files[0])) as parquet:
        for group in range(parquet.metadata.num_row_groups):
            for name, chunk in _chunks(parquet, group).items():
                if name in ("text", "image_id", "image.path") and chunk.total_uncompressed_size > MAX_COLUMN_BYTES:
                    size = chunk.total_uncompressed_size
                    raise ImageFailure(
                        f"column {name!r} has {size} bytes in row group {group}, expected at most {MAX_COLUMN_BYTES}"
                    )
            columns = ["image_id", "image.path", "text"]
            batches = parquet.iter_batches(_BATCH, row_groups=[group], columns=columns, use_threads=False)
            place = 0
            for batch in _read(batches):
                for value in batch.to_pylist():
                    found.append(_row(value, group, place, f"row {len(found)}"))
                    place += 1
    return tuple(found)


def _row(value: dict[str, Any], group: int, place: int, where: str) -> Row:
    """A row without its mask. ImageFailure if its picture has no usable name, as it then belongs to no image."""
    image_id = _checked(value["image_id"], f"{where}: 'image_id'")
    check_inside(image_id)
    path = text((value["image"] or {}).get("path") or "", f"{where}: 'path'")
    name = path.replace("\\", "/").rpartition("/")[2]
    try:
        return Row(group, place, image_id, name, _checked(value["text"], f"{where}: 'text'"))
    except ImageFailure as error:
        return Row(group, place, image_id, name, "", str(error))


def _checked(value: Any, what: str) -> str:
    found = text(value, what)
    if not found.strip() or len(found) > MAX_CHARS:
        raise ImageFailure(f"{what} has {len(found)} characters, expected 1 to {MAX_CHARS}")
    return found


def _chunks(parquet: pq.ParquetFile, group: int) -> dict[str, Any]:
    """Metadata of the columns of a row group by path, from the footer."""
    row_group = parquet.metadata.row_group(group)
    return {(chunk := row_group.column(number)).path_in_schema: chunk for number in range(row_group.num_columns)}


def _parse_masks(root: Path, files: tuple[str, ...], group: int) -> tuple[HubMask, ...]:
    """Masks as run lengths. The number of values in the footer is checked against the sizes in the rows before any mask is read."""
    with _opened(inside(root, files[0])) as parquet:
        sizes = parquet.read_row_group(group, columns=["img_height", "img_width"], use_threads=False).to_pylist()
        pixels = [_pixels(size["img_height"], size["img_width"]) for size in sizes]
        values = sum(
            chunk.num_values for name, chunk in _chunks(parquet, group).items() if name.partition(".")[0] == "mask"
        )
        if values > min(sum(pixels) + SLACK, MAX_VALUES):
            raise ImageFailure(
                f"the masks of row group {group} have {values} pixels, where 'img_height' and 'img_width' make {sum(pixels)}"
            )
        batches = parquet.iter_batches(1, row_groups=[group], columns=["mask"], use_threads=False)
        return tuple(
            _mask(batch.column(0), (size["img_height"], size["img_width"]))
            for batch, size in zip(_read(batches), sizes, strict=True)
        )


def _pixels(height: Any, width: Any) -> int:
    """Number of pixels of a stated size; 0 if it is invalid, so that no mask is read for it."""
    fits = isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0
    return height * width if fits and height * width <= (Image.MAX_IMAGE_PIXELS or 0) else 0


def _mask(column: Any, stated: tuple[Any, Any]) -> HubMask:
    if not _pixels(*stated):
        return HubMask(
            problem=f"'img_height' and 'img_width' are {stated[0]!r:.20} and {stated[1]!r:.20}, expected a size in px"
        )
    if column.null_count:
        return HubMask(problem="'mask' is missing")
    lines = column[0].values
    offsets = np.asarray(lines.offsets)
    flat = lines.flatten()
    widths = np.diff(offsets)
    if lines.null_count or flat.null_count or not widths.size or not widths[0] or (widths != widths[0]).any():
        return HubMask(problem="'mask' is no list of rows of equal length, of true and false")
    height, width = len(widths), int(widths[0])
    if (height, width) != stated:
        return HubMask(
            problem=f"'mask' has {width} x {height} px, 'img_width' and 'img_height' say {stated[1]} x {stated[0]}"
        )
    pixels = flat.to_numpy(zero_copy_only=False).reshape(height, width)
    return HubMask(rle.encode(pixels), height, width)


def _parse_digests(root: Path, files: tuple[str, ...], group: int) -> tuple[str, ...]:
    pictures = pictures_of(root, files[0], [group])
    return tuple("" if data is None else hashlib.sha256(data).hexdigest() for _, _, data in pictures)


_ROWS = Once(_parse_rows, keep=16)
_MASKS = Once(_parse_masks, keep=4)
_DIGESTS = Once(_parse_digests, keep=64)
