"""One shard of an array: a standard Zarr v3 sharding_indexed file, encoded here and read by :mod:`store.read.array`.

Inner chunks of an image lie next to each other and in order, images in order, then the shard's record
(:mod:`store.format.shard`), the index at the end, crc32c on every inner chunk and on the index; so an image is one
``preadv``. A chunk is absent exactly when it lies past its image's count. Zarr's readers go by the index and never meet the record.
Source: the Zarr v3 specification, codecs sharding_indexed, bytes and crc32c.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from .column import ArrayLayout, ColumnMeta, Commit
from .shard import LENGTH_BYTES, MAGIC, content_of, record_text, without_seal

ABSENT = np.iinfo(np.uint64).max
"""Offset and size, in the index, of a chunk that is not there."""
CRC_BYTES = 4

AnyArray = npt.NDArray[Any]


def zarr_json(meta: ColumnMeta) -> bytes:
    """The array's ``zarr.json``."""
    layout = layout_of(meta)
    rest = list(layout.row_shape[1:])
    crc: dict[str, Any] = {"name": "crc32c"}
    raw: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [1, layout.chunk_rows, *rest],
        "codecs": [raw, crc],
        "index_codecs": [raw, crc],
        "index_location": "end",
    }
    value = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [meta.images, *layout.row_shape],
        "data_type": layout.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [meta.shard_images, *layout.row_shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN" if np.isnan(fill := no_value(layout.dtype)) else int(fill),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": list(layout.dimension_names) or None,
    }
    if value["dimension_names"] is None:
        del value["dimension_names"]
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def no_value(dtype: str) -> float:
    """The fill value where there is no vector, for readers that do not look at the commits: no stored value equals it."""
    return -128 if dtype == "int8" else math.nan


def record_frame(text: bytes) -> bytes:
    """A record as it stands before the index."""
    return text + len(text).to_bytes(LENGTH_BYTES, "little") + MAGIC


class ShardEncoder:
    """Turns the rows of a shard into the blocks of its file, and completes the commit that the file holds.

    Args:
        commit: the shard's commit as far as it is known before the values are: without crc32c, content and seal.
    """

    def __init__(self, meta: ColumnMeta, commit: Commit) -> None:
        self.layout = layout_of(meta)
        self.chunks_per_image = self.layout.row_shape[0] // self.layout.chunk_rows
        self.index = np.full((meta.shard_images, self.chunks_per_image, 2), ABSENT, dtype="<u8")
        self.commit = commit
        self._record_at = 0

    def blocks(self, rows: Iterable[AnyArray]) -> Iterator[bytes]:
        """Yield the file's blocks, with a record that is not sealed yet.

        An image's crc32c in the commit is computed over its chunks' checksums. (Over the stored bytes it would say nothing: the
        crc of any data followed by its own crc is a constant.)

        Args:
            rows: one array ``[count, *row_shape[1:]]`` per image, of the layout's dtype; count 0 for a failed image.

        Raises:
            ValueError: a row does not fit the layout.
        """
        offset, crc32c, state = 0, [], hashlib.sha256()
        for position, row in enumerate(rows):
            chunks = list(self._chunks(position, row, offset))
            crc32c.append(google_crc32c.value(b"".join(chunk[-CRC_BYTES:] for chunk in chunks)))
            block = b"".join(chunks)
            offset += len(block)
            if block:
                state.update(block)
                yield block
        self._record_at = offset
        self.commit = replace(self.commit, crc32c=tuple(crc32c))
        self.commit = replace(self.commit, content=content_of(state.hexdigest(), self.commit))
        index = self.index.tobytes()
        yield record_frame(without_seal(self.commit)) + index + google_crc32c.value(index).to_bytes(CRC_BYTES, "little")

    def seal(self, sha256: str) -> tuple[int, bytes]:
        """Where in the file the sealed record goes, and the record; called when all blocks are written."""
        self.commit = replace(self.commit, seal=sha256)
        return self._record_at, record_text(self.commit)

    def _chunks(self, position: int, row: AnyArray, offset: int) -> Iterator[bytes]:
        layout = self.layout
        if row.dtype != layout.dtype or row.shape[1:] != layout.row_shape[1:] or len(row) > layout.row_shape[0]:
            raise ValueError(
                f"found a row {row.dtype} {row.shape}, expected {layout.dtype} of at most {layout.row_shape}"
            )
        for number, start in enumerate(range(0, len(row), layout.chunk_rows)):
            dtype = np.dtype(layout.dtype).newbyteorder("<")
            chunk = np.full((layout.chunk_rows, *layout.row_shape[1:]), no_value(layout.dtype), dtype)
            part = row[start : start + layout.chunk_rows]
            chunk[: len(part)] = part
            data = chunk.tobytes()
            data += google_crc32c.value(data).to_bytes(CRC_BYTES, "little")
            self.index[position, number] = offset, len(data)
            offset += len(data)
            yield data


def layout_of(meta: ColumnMeta) -> ArrayLayout:
    """Layout of an array column; a table raises ValueError."""
    if meta.array is None:
        raise ValueError(f"{meta.column} is a table, expected an array")
    return meta.array
