"""What a notebook shows of a split, a record, a slice of records, or a mask: pictures with outlines, names and sizes.

Everything is bounded: pictures are reduced, long texts and lists are cut, and the number of what is left out is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from ..errors import StoreError
from ..format.schema import OK
from .borrowed import AnyColumn
from .drawing import MOST_MASKS, draw, masks_of
from .markup import line, page, picture, table
from .open_columns import OpenColumns

SIDE_PX, THUMBNAIL_PX = 384, 160
"""Longest side of the pictures of one image, and of each of several."""
MOST_OF_SPLIT, MOST_THUMBNAILS = 4, 12
"""How many images are shown of a split (the first ones that can be read), and of a slice."""
MOST_PROPOSERS = 3
"""How many proposers' masks are drawn, the first ones, if a split has several proposers and none is chosen."""


def split_html(columns: OpenColumns) -> str:
    """The columns of a split, what they hold and how many images have it, and its first images."""
    readable: Iterable[int] = range(len(columns) if columns.images_root is not None else 0)
    readable = (number for number in readable if _why_not(columns.columns["images"], number) is None)
    pictures = _thumbnails(columns, islice(readable, MOST_OF_SPLIT))
    rows = (_column_row(name, column, len(columns)) for name, column in columns.columns.items())
    heads = ("column", "holds", "images", "missing")
    return page(f"{columns.name}: {len(columns)} images", pictures, table(heads, rows, len(columns.columns)))


def records_html(columns: OpenColumns, numbers: Sequence[int]) -> str:
    """Some images of a split, each with its masks."""
    more = len(numbers) - MOST_THUMBNAILS
    rest = [line(f"... and {more} more")] if more > 0 else []
    title = f"{len(numbers)} of the {len(columns)} images of {columns.name}"
    return page(title, _thumbnails(columns, numbers[:MOST_THUMBNAILS]), *rest)


def record_html(columns: OpenColumns, image: Mapping[str, Any], targets: Sequence[Mapping[str, Any]] | str) -> str:
    """An image: its masks and annotated regions, its questions, and what each column holds of it.

    Args:
        image: its row of the table ``images``.
        targets: its questions, or why they are missing.
    """
    number, ok = image["image_index"], image["status"] == OK
    size = f"{image['width_px']} x {image['height_px']} px" if ok else f"{image['status']}: {image['error']}"
    parts = [line(f"{image['path']}, {size}")]
    if ok:
        names = [*_of_masks(columns), *(["instances"] if columns.has("instances") else [])]
        parts += [_figure(columns, number, name) for name in names]
        parts += [] if names else [picture(partial(draw, columns, number, None, None, SIDE_PX), "")]
    if isinstance(targets, str):
        parts += [line(f"no questions: {targets}")] if targets else []
    elif targets:
        rows = (tuple(_question(target)) for target in targets)
        parts.append(table(("question", "kind", "instances", "IoU of the best mask"), rows, len(targets)))
    held = ((name, _held(column, number)) for name, column in columns.columns.items() if name != "images")
    parts.append(table(("column", "holds"), held, len(columns.columns) - 1))
    return page(f"{columns.name}, image {number}: {image['image_id']}", *parts)


def row_html(columns: OpenColumns, image_index: int, column: str, number: int, fields: Mapping[str, Any]) -> str:
    """One mask, instance or answer of an image as an outline, and the fields of its table."""
    drawn = picture(partial(draw, columns, image_index, column, [number], SIDE_PX), "")
    title = f"{column} {number} of {columns.name}, image {image_index}"
    return page(title, drawn, table(("field", "value"), fields.items(), len(fields)))


def _of_masks(columns: OpenColumns) -> list[str]:
    """The tables of proposals that are drawn: of the proposer that was chosen, or of the first ones."""
    proposers = columns.proposers if columns.proposer is None else (columns.proposer,)
    return [f"masks/{name}" for name in proposers if columns.has(f"masks/{name}")][:MOST_PROPOSERS]


def _figure(columns: OpenColumns, number: int, column: str) -> str:
    """An image with its masks in a column and their number; where it has no masks there, the image with the reason."""
    try:
        count = len(masks_of(columns, number, column))
    except StoreError as error:
        return picture(partial(draw, columns, number, None, None, SIDE_PX), f"{column}: {error}")
    drawn = f"the first {MOST_MASKS} of {count}" if count > MOST_MASKS else str(count)
    return picture(partial(draw, columns, number, column, None, SIDE_PX), f"{column}: {drawn}")


def _thumbnails(columns: OpenColumns, numbers: Iterable[int]) -> str:
    """Images with their names and the masks of one proposer, where they have any."""
    name, shown = next(iter(_of_masks(columns)), None), []
    for number in numbers:
        (row,) = columns.columns["images"].table_rows(number)
        drawn = None if name is None or _why_not(columns.columns[name], number) is not None else name
        shown.append(picture(partial(draw, columns, number, drawn, None, THUMBNAIL_PX), row["image_id"]))
    return "".join(shown)


def _question(target: Mapping[str, Any]) -> Iterator[str]:
    """The cells of a question."""
    first, *others = target["texts"] or [""]
    yield f"{first} (and {len(others)} other wordings)" if others else first
    yield target["kind"]
    yield str(len(target["instances"])) if target["instances"] else "none: nothing in the image answers"
    yield f"{max(target['iou'], default=0.0):.3f}" if "iou" in target else ""


def _column_row(name: str, column: AnyColumn, images: int) -> tuple[object, ...]:
    """The cells of a column of a split."""
    array = column.meta.array
    holds = "table" if array is None else f"{array.dtype} [image, {', '.join(map(str, array.row_shape))}]"
    try:
        status = column.status(images)
    except StoreError as error:
        return name, holds, "", error
    missing = {"failed": len(status.failed), "without annotation": len(status.absent)}
    return name, holds, int(status.ok.sum()), ", ".join(f"{count} {why}" for why, count in missing.items() if count)


def _held(column: AnyColumn, number: int) -> str:
    """What a column holds of an image, in a few words, or why it holds nothing."""
    if (reason := _why_not(column, number)) is not None:
        return reason
    (commit, position), array = column.commit(number), column.meta.array
    if array is None:
        return f"rows: {commit.counts[position]}"
    return f"{array.dtype} [{', '.join(map(str, (commit.counts[position], *array.row_shape[1:])))}]"


def _why_not(column: AnyColumn, number: int) -> str | None:
    """Why an image has nothing in a column; None where it has something."""
    try:
        column.require_ok(number)
    except StoreError as error:
        return str(error)
    return None
