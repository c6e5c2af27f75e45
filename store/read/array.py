"""Reads images out of one committed shard of an array, straight into the caller's buffer.

The file is a standard Zarr v3 shard (:mod:`store.format.arrays`). Its index is read and judged once; then an image is one
``preadv`` whose pieces are the vectors and, beside them, their checksums. ``preadv`` and the checksum run without the
interpreter lock, so threads overlap reading with checking.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from ..errors import DamagedStoreError
from ..format.arrays import ABSENT, CRC_BYTES, AnyArray, layout_of
from ..format.column import ColumnMeta, Commit
from ..format.layout import array_file
from ..internals import crc32c_at
from .open_files import OpenFile, handle, opened

CHECKS = ("always", "first-touch", "never")
"""When the bytes of an image are checked: at every read, at its first in this process, or not at all."""

_PIECES = 1024  # IOV_MAX of Linux and macOS

U8 = npt.NDArray[np.uint8]


class ShardReader:
    """Reads images out of one committed shard.

    Args:
        folder: of the column.
        check: one of :data:`CHECKS`. Size, index and the layout of the file are checked whatever it says.

    Raises:
        DamagedStoreError: the file is missing, has another size, or its index is not that of the commit.
    """

    def __init__(self, folder: Path, meta: ColumnMeta, commit: Commit, check: str = "always") -> None:
        layout = layout_of(meta)
        self.layout, self.commit = layout, commit
        self.path = folder / array_file(commit.shard, 1 + len(layout.row_shape))
        self.dtype = np.dtype(layout.dtype).newbyteorder("<")
        self.row_bytes = int(np.prod(layout.row_shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._chunk_bytes = self.row_bytes * layout.chunk_rows
        self._name = str(self.path)
        self._handle = handle(self)
        self._offsets = self._read_index(meta.shard_images)
        self._unchecked = bytearray(b"\1" * len(commit.counts)) if check == "first-touch" else None
        self._never = check == "never"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_handle"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._handle = handle(self)

    def read(self, position: int, rows: int | None = None) -> AnyArray:
        """The vectors ``[count, *row_shape[1:]]`` of the image at a position of the shard; of them the first ``rows``."""
        count = self.commit.counts[position] if rows is None else rows
        vectors = np.empty((count, *self.layout.row_shape[1:]), dtype=self.dtype)
        if count:
            self.read_into(position, vectors.reshape(-1).view(np.uint8).data, vectors.ctypes.data, count)
        return vectors

    def read_into(self, position: int, out: memoryview, address: int, rows: int) -> None:
        """Write the first ``rows`` vectors of an image to ``out``, bytes that begin at ``address``.

        Where ``out`` has room for it, the rest of the last vector's chunk is written behind them.

        Raises:
            DamagedStoreError: the bytes are not the committed ones. ``out`` then holds anything.
        """
        if rows == 0:
            return
        if not 0 < rows <= self.commit.counts[position] or len(out) < rows * self.row_bytes:
            raise ValueError(
                f"{self.path}: image {position} of the shard has {self.commit.counts[position]} vectors of {self.row_bytes} "
                f"bytes; asked for {rows} into {len(out)} bytes"
            )
        size, chunk_rows = self._chunk_bytes, self.layout.chunk_rows
        chunks = -(-rows // chunk_rows)
        seals = bytearray(CRC_BYTES * chunks)
        places, pieces = memoryview(seals), []
        for number in range(chunks):
            pieces += [out[number * size : (number + 1) * size], places[CRC_BYTES * number : CRC_BYTES * (number + 1)]]
        last: U8 | None = None
        if chunks * size > len(out):
            last = np.empty(size, np.uint8)
            pieces[-2] = last.data
        self._fill(pieces, self._offsets[position], chunks * (size + CRC_BYTES))
        if self._checks(position):
            found = [crc32c_at(address + number * size, size) for number in range(chunks - (last is not None))]
            if last is not None:
                found.append(crc32c_at(last.ctypes.data, size))
            self._compare(position, found, seals)
        if last is not None:
            first = (chunks - 1) * size
            out[first : rows * self.row_bytes] = last.data[: rows * self.row_bytes - first]

    def _checks(self, position: int) -> bool:
        return not self._never and (self._unchecked is None or bool(self._unchecked[position]))

    def _compare(self, position: int, found: list[int], seals: bytes | bytearray) -> None:
        """Hold the chunks' bytes against their checksums, and all checksums of the image against the commit."""
        if _words(len(found)).pack(*found) != seals:
            raise self._damaged(f"image {position} of the shard: the bytes do not fit their checksum")
        total = -(-self.commit.counts[position] // self.layout.chunk_rows)
        if len(found) < total:
            seals = bytes(seals) + self._later_seals(position, len(found), total)
        if self.commit.crc32c is None or google_crc32c.value(bytes(seals)) != self.commit.crc32c[position]:
            raise self._damaged(f"image {position} of the shard has another checksum than its commit says")
        if self._unchecked is not None:
            self._unchecked[position] = len(found) < total  # only the whole image settles it

    def _later_seals(self, position: int, first: int, total: int) -> bytes:
        """The checksums of the chunks that were not asked for: the commit holds one of all of them."""
        size, seals = self._chunk_bytes + CRC_BYTES, b""
        for number in range(first, total):
            seal = bytearray(CRC_BYTES)
            self._fill([memoryview(seal)], self._offsets[position] + (number + 1) * size - CRC_BYTES, CRC_BYTES)
            seals += bytes(seal)
        return seals

    def _read_index(self, shard_images: int) -> list[int]:
        """Where each image begins.

        Everything in the index follows from the commit's counts, so all of it is checked here: chunks are there up to
        the count, adjacent, in order, and fill the file.
        """
        per_image = self.layout.row_shape[0] // self.layout.chunk_rows
        length = shard_images * per_image * 16
        if self.commit.size < length + CRC_BYTES:
            raise self._damaged(f"{self.commit.size} bytes cannot hold its index")
        raw = np.empty(length + CRC_BYTES, np.uint8)
        start = self.commit.size - len(raw)
        self._fill([raw.data], start, len(raw))
        if crc32c_at(raw.ctypes.data, length) != int.from_bytes(raw[length:].tobytes(), "little"):
            raise self._damaged("its index is not what was written")
        counts = np.zeros(shard_images, np.int64)
        counts[: len(self.commit.counts)] = self.commit.counts
        there = np.arange(per_image) < -(-counts // self.layout.chunk_rows)[:, None]
        chunks, size = there.sum(axis=1), self._chunk_bytes + CRC_BYTES
        wanted = np.full((shard_images, per_image, 2), ABSENT, "<u8")
        wanted[there, 0] = size * np.arange(chunks.sum())
        wanted[there, 1] = size
        if wanted.tobytes() != raw[:length].tobytes() or chunks.sum() * size != start:
            raise self._damaged("its index is not that of the images in its commit")
        return (size * (np.cumsum(chunks) - chunks)).tolist()  # type: ignore[no-any-return]

    def _fill(self, pieces: Sequence[memoryview], offset: int, length: int) -> None:
        """Fill the pieces, ``length`` bytes in all, with what stands in the file from ``offset`` on."""
        file = opened(self._handle, self._open)
        try:
            if len(pieces) <= _PIECES and os.preadv(file.descriptor, pieces, offset) == length:
                return
            for piece in pieces:  # more pieces than one call takes, or a call that stopped early
                done = 0
                while done < len(piece):
                    got = os.preadv(file.descriptor, [piece[done:]], offset)
                    if not got:
                        raise self._damaged(f"the file ends within a read, at byte {offset}")
                    done, offset = done + got, offset + got
        except OSError as error:  # the system does not say which file failed
            raise OSError(error.errno, f"{error.strerror} at byte {offset}", self._name) from error

    def _open(self) -> OpenFile:
        try:
            file = OpenFile(self._name)
        except FileNotFoundError as error:
            raise self._damaged("the file is missing") from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._damaged("found a link, expected a file (DVC: cache.type must not be symlink)") from error
            raise
        size = os.fstat(file.descriptor).st_size
        if size != self.commit.size:
            raise self._damaged(f"found {size} bytes, expected {self.commit.size}")
        return file

    def _damaged(self, what: str) -> DamagedStoreError:
        commit = self.commit
        return DamagedStoreError(f"{self.path}: shard {commit.shard}: {what}", place=commit.place, shard=commit.shard)


@lru_cache
def _words(count: int) -> struct.Struct:
    """This many checksums, as they stand in the file."""
    return struct.Struct(f"<{count}I")
