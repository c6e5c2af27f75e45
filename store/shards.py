"""One shard of an array: a standard Zarr v3 sharding_indexed file, encoded and read here.

Inner chunks of an image lie next to each other and in order, images in order, the index at the end, crc32c on every
inner chunk and on the index; so an image is one ``preadv``. A chunk is absent exactly when it lies past its image's
count. Source: the Zarr v3 specification, codecs sharding_indexed, bytes, zstd and crc32c.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .columns import ArrayLayout, ColumnMeta, Commit
from .errors import DamagedStoreError
from .layout import array_file

_ABSENT = np.iinfo(np.uint64).max
_CRC_BYTES = 4

AnyArray = npt.NDArray[Any]


def zarr_json(meta: ColumnMeta) -> bytes:
    """The array's ``zarr.json``."""
    layout = _layout(meta)
    rest = list(layout.row_shape[1:])
    crc: dict[str, Any] = {"name": "crc32c"}
    raw: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
    sharding = {
        "chunk_shape": [1, layout.chunk_rows, *rest],
        "codecs": [raw, *([zstd] if layout.compression == "zstd" else []), crc],
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
        "fill_value": "NaN",
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": list(layout.dimension_names) or None,
    }
    if value["dimension_names"] is None:
        del value["dimension_names"]
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


class ShardEncoder:
    """Turns the rows of a shard into the blocks of its file.

    After :meth:`blocks` is exhausted, ``crc32c`` holds one checksum an image: that of its chunks' checksums. (Taken
    over the bytes as they stand it would say nothing: the crc of any data followed by its own crc is a constant.)
    """

    def __init__(self, meta: ColumnMeta) -> None:
        self.layout = _layout(meta)
        self.chunks_per_image = self.layout.row_shape[0] // self.layout.chunk_rows
        self.index = np.full((meta.shard_images, self.chunks_per_image, 2), _ABSENT, dtype="<u8")
        self.crc32c: list[int] = []

    def blocks(self, rows: Iterable[AnyArray]) -> Iterator[bytes]:
        """Yield the file's blocks.

        Args:
            rows: one array ``[count, *row_shape[1:]]`` an image, of the layout's dtype; count 0 for a failed image.

        Raises:
            ValueError: a row does not fit the layout.
        """
        offset = 0
        for position, row in enumerate(rows):
            chunks = list(self._chunks(position, row, offset))
            self.crc32c.append(google_crc32c.value(b"".join(chunk[-_CRC_BYTES:] for chunk in chunks)))
            block = b"".join(chunks)
            offset += len(block)
            if block:
                yield block
        index = self.index.tobytes()
        yield index + google_crc32c.value(index).to_bytes(_CRC_BYTES, "little")

    def _chunks(self, position: int, row: AnyArray, offset: int) -> Iterator[bytes]:
        layout = self.layout
        if row.dtype != layout.dtype or row.shape[1:] != layout.row_shape[1:] or len(row) > layout.row_shape[0]:
            raise ValueError(
                f"found a row {row.dtype} {row.shape}, expected {layout.dtype} of at most {layout.row_shape}"
            )
        for number, start in enumerate(range(0, len(row), layout.chunk_rows)):
            chunk = np.full(
                (layout.chunk_rows, *layout.row_shape[1:]), np.nan, dtype=np.dtype(layout.dtype).newbyteorder("<")
            )
            part = row[start : start + layout.chunk_rows]
            chunk[: len(part)] = part
            data = chunk.tobytes()
            if layout.compression == "zstd":
                data = pa.Codec("zstd", compression_level=1).compress(data, asbytes=True)
            data += google_crc32c.value(data).to_bytes(_CRC_BYTES, "little")
            self.index[position, number] = offset, len(data)
            offset += len(data)
            yield data


class ShardReader:
    """Reads images out of one committed shard. The index is read once; the file is opened for each call.

    Raises:
        DamagedStoreError: the file is missing, has another size, or its index is not intact.
    """

    def __init__(self, folder: Path, meta: ColumnMeta, commit: Commit) -> None:
        self.layout = _layout(meta)
        self.path = folder / array_file(commit.shard, 1 + len(self.layout.row_shape))
        self.commit = commit
        shape = (meta.shard_images, self.layout.row_shape[0] // self.layout.chunk_rows, 2)
        length = int(np.prod(shape)) * 8
        if commit.size < length + _CRC_BYTES:
            raise self._damaged(f"{commit.size} bytes cannot hold its index")
        raw = self._pread(commit.size - length - _CRC_BYTES, length + _CRC_BYTES)
        if google_crc32c.value(raw[:length]) != int.from_bytes(raw[length:], "little"):
            raise self._damaged("its index is not what was written")
        self.index = np.frombuffer(raw[:length], dtype="<u8").reshape(shape)

    def read(self, position: int) -> AnyArray:
        """The vectors ``[count, *row_shape[1:]]`` of the image at a position of the shard, checked against the commit."""
        layout, count = self.layout, self.commit.counts[position]
        if count == 0:
            return np.empty((0, *layout.row_shape[1:]), dtype=layout.dtype)
        entries = self.index[position, : -(-count // layout.chunk_rows)]
        if (entries == _ABSENT).any():
            raise self._damaged(f"image {position} of the shard lacks chunks")
        sizes = entries[:, 1].astype(np.int64)
        start, length = int(entries[0, 0]), int(sizes.sum())
        if not 0 <= start <= start + length <= self.commit.size:
            raise self._damaged(f"the index of image {position} of the shard points outside the file")
        run = self._pread(start, length)
        ends = np.cumsum(sizes)
        chunks = [run[end - size : end] for end, size in zip(ends, sizes, strict=True)]
        checksums = b"".join(chunk[-_CRC_BYTES:] for chunk in chunks)
        found = b"".join(google_crc32c.value(chunk[:-_CRC_BYTES]).to_bytes(_CRC_BYTES, "little") for chunk in chunks)
        if found != checksums:
            raise self._damaged(f"image {position} of the shard: the bytes do not fit their checksum")
        if self.commit.crc32c is None or google_crc32c.value(checksums) != self.commit.crc32c[position]:
            raise self._damaged(f"image {position} of the shard has another checksum than its commit says")
        vectors = np.concatenate([self._decode(chunk[:-_CRC_BYTES]) for chunk in chunks])
        return vectors[:count].astype(layout.dtype, copy=False)

    def _decode(self, data: bytes) -> AnyArray:
        shape = (self.layout.chunk_rows, *self.layout.row_shape[1:])
        dtype = np.dtype(self.layout.dtype).newbyteorder("<")
        if self.layout.compression == "zstd":
            data = pa.Codec("zstd").decompress(data, int(np.prod(shape)) * dtype.itemsize, asbytes=True)
        return np.frombuffer(data, dtype=dtype).reshape(shape)

    def _pread(self, offset: int, length: int) -> bytes:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise self._damaged("the file is missing") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._damaged("found a link, expected a file (DVC: cache.type must not be symlink)") from error
            raise
        try:
            size = os.fstat(descriptor).st_size
            if size != self.commit.size or offset < 0:
                raise self._damaged(f"found {size} bytes, expected {self.commit.size}")
            data = bytearray()
            while len(data) < length:
                block = os.pread(descriptor, length - len(data), offset + len(data))
                if not block:
                    raise self._damaged(f"the file ends within a read at byte {offset}")
                data += block
            return bytes(data)
        finally:
            os.close(descriptor)

    def _damaged(self, what: str) -> DamagedStoreError:
        return DamagedStoreError(f"{self.path}: shard {self.commit.shard}: {what}; run: python cli.py verify --repair")


def _layout(meta: ColumnMeta) -> ArrayLayout:
    if meta.array is None:
        raise ValueError(f"{meta.column} is a table, expected an array")
    return meta.array
