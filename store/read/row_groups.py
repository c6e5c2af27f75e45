"""Reads single row groups of tables, for columns that do not fit the cache of decoded tables.

The first time, the whole file is checked against its record's seal, as whenever a table is decoded. Its token, and a checksum
of each row group and of the footer, are remembered. A later read takes one row group and the footer, and is checked against these.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import pyarrow as pa

from ..forks import arrow_at_work
from ..format.column import Commit
from ..format.layout import table_file
from ..format.shard import damaged, open_shard
from ..format.tables import checked, decode, rows_of
from ..storage.objects import read_range
from ..storage.protocol import Opened


class Parts(NamedTuple):
    """A shard's file that was checked: its token, and the byte offsets and crc32c of each row group and, last, of the footer."""

    token: str
    borders: array[int]
    crc32c: array[int]


def read_row_group(
    folder: Path,
    commit: Commit,
    fields: Sequence[str] | None,
    group: int,
    known: dict[int, Parts],
    opened: Opened | None = None,
) -> pa.Table:
    """Decode one row group of a committed shard of a table (or some fields of it).

    Args:
        known: by shard, what earlier calls found; threads may share it.
        opened: its file, where it is open already.

    Raises:
        DamagedStoreError, ChangedError: as :func:`store.format.tables.read_table`.
    """
    path = folder / table_file(commit.shard)
    opened, parts = opened or open_shard(path, commit), known.get(commit.shard)
    data = _group_alone(opened, path, parts, group) if parts is not None and parts.token == opened.token else None
    if data is None:  # the first time, or the file is another one: only the whole file says whether it is the commit's
        data = checked(opened, path, folder, commit)
        known[commit.shard] = _parts(data, opened, path, commit)
    return decode(data, path, commit, fields, group)


def _group_alone(opened: Opened, path: Path, parts: Parts, group: int) -> pa.Buffer | None:
    """The file with nothing but a row group and the footer filled in; None when they do not fit their checksums.

    The rest is memory that is never touched, and so takes no room.
    """
    with arrow_at_work():
        data = pa.allocate_buffer(opened.size)
    bytes_ = memoryview(data).cast("B")
    for part in (group, len(parts.crc32c) - 1):
        start, end = parts.borders[part], parts.borders[part + 1]
        read = read_range(opened, start, end - start, path)
        if len(read) < end - start or google_crc32c.value(read) != parts.crc32c[part]:
            return None
        bytes_[start:end] = read
    return data


def _parts(data: pa.Buffer, opened: Opened, path: Path, commit: Commit) -> Parts:
    """What to remember of a file whose bytes were checked."""
    import pyarrow.parquet as pq  # open_split has loaded it

    bytes_ = memoryview(data).cast("B")
    footer = len(bytes_) - 8 - int.from_bytes(bytes_[-8:-4], "little")
    try:
        metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, commit, f"found no table: {error}") from error
    if metadata.num_rows != rows_of(commit):
        raise damaged(path, commit, f"found {metadata.num_rows} rows, expected {rows_of(commit)}")
    borders, places = [], [0]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(field) for field in range(group.num_columns)]
        starts = [chunk.dictionary_page_offset or chunk.data_page_offset for chunk in chunks]
        ends = [start + chunk.total_compressed_size for start, chunk in zip(starts, chunks, strict=True)]
        borders.append(min(starts))
        places += [min(starts), max(ends)]
    if sorted(places) != places or places[-1] > footer:
        raise damaged(path, commit, "its row groups do not lie one after the other")
    borders += [footer, len(bytes_)]
    sums = [google_crc32c.value(bytes(bytes_[start:end])) for start, end in pairwise(borders)]
    return Parts(opened.token, array("Q", borders), array("I", sums))
