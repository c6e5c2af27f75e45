"""One shard of a table: a Parquet file with small row groups and page checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..forks import arrow_at_work
from ..storage.objects import read_range
from ..storage.protocol import Opened
from .column import Commit
from .layout import parts_of, table_file
from .names import without_proposer
from .schema import PER_TARGET, SINCE, TABLES
from .shard import KEY, content_of, damaged, open_shard, overlay, raise_changed, record_text, unsealed, without_seal

ROW_GROUP_ROWS = 16


def encode_table(rows: Sequence[dict[str, Any]], schema: pa.Schema, commit: Commit) -> tuple[bytes, Commit]:
    """Parquet bytes of a shard's rows with its commit in them, and that commit, sealed.

    Args:
        commit: the shard's commit as far as it is known before the values are: without content and seal.
    """
    import pyarrow.parquet as pq  # takes 50 ms, which `import store` should not cost

    text = without_seal(commit)
    with arrow_at_work():
        table, sink = pa.Table.from_pylist(list(rows), schema=schema), pa.BufferOutputStream()
        with pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
            writer.add_key_value_metadata({KEY: text.decode()})
        data = sink.getvalue().to_pybytes()
    at, footer = data.rindex(text), len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    commit = replace(commit, content=content_of(hashlib.sha256(data[:footer]).hexdigest(), commit))
    data = overlay(data, at, without_seal(commit))
    commit = replace(commit, seal=hashlib.sha256(data).hexdigest())
    return overlay(data, at, record_text(commit)), commit


def read_table(folder: Path, commit: Commit, fields: Sequence[str] | None = None) -> pa.Table:
    """Decode a committed shard of a table (or some fields of it); its bytes are checked against the commit first.

    Raises:
        DamagedStoreError: the file is missing or is not the one that was committed.
        ChangedError: it was computed again since the commit was read.
    """
    path = folder / table_file(commit.shard)
    return decode(checked(open_shard(path, commit), path, folder, commit), path, commit, fields)


def checked(opened: Opened, path: Path, folder: Path, commit: Commit) -> pa.Buffer:
    """All bytes of a shard's open file, checked against the seal of its commit. Raises as :func:`read_table`."""
    data, text = read_range(opened, 0, opened.size, path), record_text(commit)
    at = data.rfind(text)
    if at < 0 or hashlib.sha256(overlay(data, at, unsealed(text))).hexdigest() != commit.seal:
        raise_changed(path, folder, commit, opened)
        raise damaged(path, commit, "the bytes are not the committed ones")
    return _owned_by_arrow(data)


def decode(
    data: pa.Buffer, path: Path, commit: Commit, fields: Sequence[str] | None = None, group: int | None = None
) -> pa.Table:
    """The table in a shard's checked bytes, or one row group of it. Raises DamagedStoreError when it is not the commit's."""
    import pyarrow.parquet as pq  # open_split has loaded it: an import that a fork cuts short is never finished

    names = None if fields is None else list(fields)
    rows, where = rows_of(commit), ""
    try:
        with arrow_at_work():
            # Not read_table: that imports pyarrow.dataset and pandas, which takes a second. The bytes are here, so there is nothing
            # to buffer; and a forked child has none of the threads of its parent.
            file = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False)
            if group is None:
                table = file.read(columns=names, use_threads=False)
            else:
                rows, where = min(ROW_GROUP_ROWS, rows - group * ROW_GROUP_ROWS), f" in row group {group}"
                table = file.read_row_group(group, columns=names, use_threads=False)
    except (pa.ArrowException, OSError) as error:  # OSError is what Arrow raises for a broken footer
        raise damaged(path, commit, f"found no table: {error}") from error
    if table.num_rows != rows:
        raise damaged(path, commit, f"found {table.num_rows} rows{where}, expected {rows}")
    for field in TABLES.get(_table_of(commit), ()):
        if (fields is not None and field.name not in fields) or field in table.schema:
            continue
        if field.name in SINCE.get(_table_of(commit), ()) and field.name not in file.schema_arrow.names:
            with arrow_at_work():
                table = table.append_column(field, pa.nulls(table.num_rows, field.type))
        else:
            raise damaged(path, commit, f"found no field {field.name} of {field.type}")
    return table


def concatenated(shards: Sequence[pa.Table], column: str) -> pa.Table:
    """The rows of shards of one table; older shards may have their fields in another order, or lack some, which are then null."""
    tables = list(shards) or [TABLES[without_proposer(column)].empty_table()]
    return pa.concat_tables(tables, promote_options="default")


def rows_of(commit: Commit) -> int:
    """How many rows a committed shard of a table has."""
    return sum(commit.counts) if _table_of(commit) in PER_TARGET else len(commit.counts)


def _table_of(commit: Commit) -> str:
    return without_proposer(parts_of(commit.place)[1])


def _owned_by_arrow(data: bytes) -> pa.Buffer:
    """The same bytes in Arrow's memory. One of Arrow's threads may be the last to release them, even while the interpreter ends;
    releasing Python's memory then aborts the process (SIGABRT)."""
    with arrow_at_work():
        buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return buffer
