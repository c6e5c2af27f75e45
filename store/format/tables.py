"""One shard of a table: a Parquet file with small row groups and page checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import DamagedStoreError
from ..storage.listing import is_plain_file, named
from .column import Commit
from .layout import parts_of
from .schema import PER_TARGET, TABLES

ROW_GROUP_ROWS = 16


def encode_table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> bytes:
    """Parquet bytes of a shard's rows."""
    import pyarrow.parquet as pq  # takes 50 ms, which `import store` shall not

    table = pa.Table.from_pylist(list(rows), schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROW_GROUP_ROWS, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_table(folder: Path, commit: Commit, fields: Sequence[str] | None = None) -> pa.Table:
    """Decode a committed shard of a table (or some fields of it); its bytes are checked against the commit first.

    Raises:
        DamagedStoreError: the file is missing or is not the one that was committed.
    """
    import pyarrow.parquet as pq  # open_split has loaded it: an import that a fork cuts short is never finished

    path = folder / commit.file

    def damaged(what: str) -> DamagedStoreError:
        return DamagedStoreError(f"{path}: shard {commit.shard}: {what}", place=commit.place, shard=commit.shard)

    if not is_plain_file(path):
        raise damaged("the file is missing")
    if path.stat().st_size != commit.size:
        raise damaged(f"found {path.stat().st_size} bytes, expected {commit.size}")
    with named(path):
        data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != commit.sha256:
        raise damaged("the bytes are not the committed ones")
    try:
        # Not read_table: that imports pyarrow.dataset and pandas, which takes a second.
        table = pq.ParquetFile(_owned_by_arrow(data)).read(columns=None if fields is None else list(fields))
    except (pa.ArrowException, OSError) as error:  # OSError is what Arrow raises for a broken footer
        raise damaged(f"found no table: {error}") from error
    _, name, _ = parts_of(commit.place)
    rows = sum(commit.counts) if name in PER_TARGET else len(commit.counts)
    if table.num_rows != rows:
        raise damaged(f"found {table.num_rows} rows, expected {rows}")
    for field in TABLES.get(name, ()):
        if (fields is None or field.name in fields) and field not in table.schema:
            raise damaged(f"found no field {field.name} of {field.type}")
    return table


def _owned_by_arrow(data: bytes) -> pa.BufferReader:
    """The same bytes in Arrow's memory. A thread of Arrow's may be the last to let go of them, also while the interpreter ends, and
    letting go of Python's memory then ends the process by SIGABRT."""
    buffer = pa.allocate_buffer(len(data))
    memoryview(buffer).cast("B")[:] = data
    return pa.BufferReader(buffer)
