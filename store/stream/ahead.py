"""What a batch takes from an object store, asked for at once: its tables, which are decoded, then its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from ..format.names import without_proposer
from ..format.schema import TABLES
from ..format.tables import ROW_GROUP_ROWS
from ..read.borrowed import AnyColumn
from ..read.far import Piece
from ..storage.requests import at_once
from .request import Request

Task = Callable[[], Any]


def ask_ahead(request: Request, samples: Iterable[tuple[int, int]]) -> list[Piece]:
    """Decode the tables of these samples (source and image_index) that lie in an object store, and open their arrays.

    Returns:
        the images of arrays that are left to be asked for.
    """
    distinct = list(dict.fromkeys(samples))
    by_source = {source: [image for number, image in distinct if number == source] for source, _ in distinct}
    tables: list[tuple[AnyColumn, str, list[int]]] = []
    arrays: list[tuple[AnyColumn, int]] = []
    for source, images in by_source.items():
        for name in request.needed:
            column = request.splits[source].column(name)
            if column.far and column.meta.array is None:
                tables.append((column, name, images))
            elif column.far:
                arrays += [(column, image) for image in images]
    first, then = _decoding(request, tables)
    opening = {(column, column.rows(image)[0]): image for column, image in arrays}
    opens: list[Task] = [partial(column.reader, image) for (column, _), image in opening.items()]
    for tasks in ([*first, *opens], then):
        at_once(_do, tasks)
    pieces = [Piece(*column.reader(image)) for column, image in arrays]
    return [piece for piece in pieces if piece.shard.commit.counts[piece.position]]


def _do(task: Task) -> None:
    task()


def _decoding(request: Request, tables: list[tuple[AnyColumn, str, list[int]]]) -> tuple[list[Task], list[Task]]:
    """Tasks that read a row of each shard, and tasks that read a row of each row group: whole shards need only the former."""
    shards: dict[Any, Task] = {}
    groups: dict[Any, Task] = {}
    for column, name, images in tables:
        fields = request.fields[name]
        field = fields[0] if fields else TABLES[without_proposer(name)].names[0]
        for image in images:
            shard, rows = column.rows(image)
            for row in rows:
                task = partial(_read_row, column, shard, field, fields, row)
                shards.setdefault((column, shard), task)
                groups.setdefault((column, shard, row // ROW_GROUP_ROWS), task)
    return list(shards.values()), list(groups.values())


def _read_row(column: AnyColumn, shard: int, field: str, fields: tuple[str, ...] | None, row: int) -> None:
    column.field(shard, field, fields)(row)
