"""Reads images out of one committed shard of an array, straight into the caller's buffer.

The file is a standard Zarr v3 shard (:mod:`store.format.arrays`). Its record and index are read and judged once; then an image is
one ``preadv`` whose pieces are the vectors and, between them, their checksums. ``preadv`` and the checksum run without the
interpreter lock, so threads overlap reading with checking.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt

from ..addresses import is_far
from ..errors import DamagedStoreError
from ..format.arrays import ABSENT, CRC_BYTES, AnyArray, layout_of, record_frame
from ..format.column import ColumnMeta, Commit
from ..format.layout import array_file
from ..format.shard import damaged, open_shard, raise_changed, record_text
from ..internals import crc32c_at
from ..storage.mounts import storage_of
from ..storage.protocol import Opened
from ..storage.remote_opened import RemoteOpened, fill
from .far import Piece, at_hand, forget
from .open_files import handle, opened, shut, with_room

CHECKS = ("always", "first-touch", "never")
"""When the bytes of an image are checked: at every read, at its first read in this process, or not at all."""

_PIECES = 1024  # IOV_MAX of Linux and macOS

U8 = npt.NDArray[np.uint8]


class ShardReader:
    """Reads images out of one committed shard.

    Args:
        folder: of the column.
        check: one of :data:`CHECKS`. Record, index and the layout of the file are checked whatever it says, and so is every image
            that comes from an object store.
        cached: keep what comes from an object store in this machine's cache, and look there first.

    Raises:
        DamagedStoreError: the file is missing, holds no such commit, or its index is not that of the commit.
        ChangedError: it was computed again since the commit was read.
    """

    def __init__(
        self, folder: Path, meta: ColumnMeta, commit: Commit, check: str = "always", cached: bool = False
    ) -> None:
        layout = layout_of(meta)
        self.layout, self.commit, self.folder = layout, commit, folder
        self.path = folder / array_file(commit.shard, 1 + len(layout.row_shape))
        self.dtype = np.dtype(layout.dtype).newbyteorder("<")
        self.row_bytes = int(np.prod(layout.row_shape[1:], dtype=np.int64)) * self.dtype.itemsize
        self._chunk_bytes = self.row_bytes * layout.chunk_rows
        self._name = str(self.path)
        self._handle = handle(self)
        self._index_rows = meta.shard_images
        self._token = ""
        self._offsets: list[int] = []
        self.far, self.cached = is_far(folder), cached
        self._object: Opened | None = None
        self._file()
        self._unchecked = bytearray(b"\1" * len(commit.counts)) if check == "first-touch" else None
        self._never = check == "never"

    def __getstate__(self) -> dict[str, Any]:
        return {**{name: value for name, value in vars(self).items() if name != "_handle"}, "_object": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._handle = handle(self)

    def read(self, position: int, rows: int | None = None) -> AnyArray:
        """The vectors ``[count, *row_shape[1:]]`` of the image at a position of the shard; with ``rows``, only this many."""
        count = self.commit.counts[position] if rows is None else rows
        vectors = np.empty((count, *self.layout.row_shape[1:]), dtype=self.dtype)
        if count:
            self.read_into(position, vectors.reshape(-1).view(np.uint8).data, vectors.ctypes.data, count)
        return vectors

    def read_into(self, position: int, out: memoryview, address: int, rows: int) -> None:
        """Write the first ``rows`` vectors of an image to ``out``, bytes that begin at ``address``.

        Where ``out`` has room for it, the rest of the last vector's chunk is written after them.

        Raises:
            DamagedStoreError: the bytes are not the committed ones. ``out`` then holds anything.
            ChangedError: they differ because the shard was computed again. ``out`` then holds anything.
        """
        try:
            if self.far and rows:
                with at_hand(Piece(self, position)):  # requested once, for its chunks and for the checksums of the rest
                    self._read_into(position, out, address, rows)
            else:
                self._read_into(position, out, address, rows)
        except DamagedStoreError:
            if self.far and self._reads_again(position, out, address, rows):
                return
            now = storage_of(self.path).stat(self.path)
            if now is None or now.token == self._token:
                raise
            shut(self._handle)  # it was replaced: the same shard again, or another version of it
            self._object = None
            self._read_into(position, out, address, rows)

    def _reads_again(self, position: int, out: memoryview, address: int, rows: int) -> bool:
        """Read an image from the object store again, because the bytes from there or from the cache are damaged; return whether
        it is intact this time."""
        forget(Piece(self, position))
        try:
            self._read_into(position, out, address, rows)
        except DamagedStoreError:
            forget(Piece(self, position))
            return False
        return True

    def extent(self, position: int) -> tuple[int, int]:
        """Where in the file the chunks of an image begin and end."""
        start = self._offsets[position]
        return start, start + -(-self.commit.counts[position] // self.layout.chunk_rows) * (
            self._chunk_bytes + CRC_BYTES
        )

    def request(self, start: int, end: int) -> memoryview:
        """These bytes of the file, from an object store, in one request; fewer where it is another version now."""
        file = self._file()
        assert isinstance(file, RemoteOpened)
        return file.get(start, end)

    def _read_into(self, position: int, out: memoryview, address: int, rows: int) -> None:
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
        self._fill(position, pieces, self._offsets[position], chunks * (size + CRC_BYTES))
        if self._checks(position):
            found = [crc32c_at(address + number * size, size) for number in range(chunks - (last is not None))]
            if last is not None:
                found.append(crc32c_at(last.ctypes.data, size))
            self._compare(position, found, seals)
        if last is not None:
            first = (chunks - 1) * size
            out[first : rows * self.row_bytes] = last.data[: rows * self.row_bytes - first]

    def _checks(self, position: int) -> bool:
        return self.far or (not self._never and (self._unchecked is None or bool(self._unchecked[position])))

    def _compare(self, position: int, found: list[int], seals: bytes | bytearray) -> None:
        """Check the chunks' bytes against their checksums, and all checksums of the image against the commit."""
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
        """The checksums of the chunks that were not asked for: the commit has only one over the checksums of all chunks."""
        size, seals = self._chunk_bytes + CRC_BYTES, b""
        for number in range(first, total):
            seal = bytearray(CRC_BYTES)
            self._fill(
                position, [memoryview(seal)], self._offsets[position] + (number + 1) * size - CRC_BYTES, CRC_BYTES
            )
            seals += bytes(seal)
        return seals

    def _settle(self, file: Opened) -> list[int]:
        """Where each image begins.

        The record in the file has to be the commit. Everything in the index follows from its counts, so all of it is checked
        here: chunks are there up to the count, adjacent, in order, and fill the file up to the record.
        """
        per_image = self.layout.row_shape[0] // self.layout.chunk_rows
        length, record = self._index_rows * per_image * 16, record_frame(record_text(self.commit))
        start = file.size - (len(record) + length + CRC_BYTES)
        raw = np.empty(file.size - start if start >= 0 else 0, np.uint8)
        if start < 0 or self._read_at(file, [raw.data], start, len(raw)) or raw[: len(record)].tobytes() != record:
            raise_changed(self.path, self.folder, self.commit, file)
            raise self._damaged("its record is not where the index says")
        raw = raw[len(record) :]
        if crc32c_at(raw.ctypes.data, length) != int.from_bytes(raw[length:].tobytes(), "little"):
            raise self._damaged("its index is not what was written")
        counts = np.zeros(self._index_rows, np.int64)
        counts[: len(self.commit.counts)] = self.commit.counts
        there = np.arange(per_image) < -(-counts // self.layout.chunk_rows)[:, None]
        chunks, size = there.sum(axis=1), self._chunk_bytes + CRC_BYTES
        wanted = np.full((self._index_rows, per_image, 2), ABSENT, "<u8")
        wanted[there, 0] = size * np.arange(chunks.sum())
        wanted[there, 1] = size
        if wanted.tobytes() != raw[:length].tobytes() or chunks.sum() * size != start:
            raise self._damaged("its index is not that of the images in its commit")
        return (size * (np.cumsum(chunks) - chunks)).tolist()  # type: ignore[no-any-return]

    def _fill(self, position: int, pieces: Sequence[memoryview], offset: int, length: int) -> None:
        """Fill the pieces, ``length`` bytes of an image in all, with what stands in the file from ``offset`` on."""
        if self.far:
            with at_hand(Piece(self, position)) as data:
                ended = fill(pieces, data[offset - self._offsets[position] :]) < length
        else:
            ended = self._read_at(opened(self._handle, self._open), pieces, offset, length)
        if ended:
            raise self._damaged(f"the file ends within a read, at byte {offset}")

    def _file(self) -> Opened:
        if not self.far:
            return opened(self._handle, self._open)
        if self._object is None:  # it holds no file descriptor, so any number may be open
            self._object = self._open()
        return self._object

    def _read_at(self, file: Opened, pieces: Sequence[memoryview], offset: int, length: int) -> bool:
        """Fill the pieces; return whether the file ended before that."""
        try:
            if len(pieces) <= _PIECES and file.readv(pieces, offset) == length:
                return False
            for piece in pieces:  # more pieces than one call takes, or a call that stopped early
                done = 0
                while done < len(piece):
                    got = file.readv([piece[done:]], offset)
                    if not got:
                        return True
                    done, offset = done + got, offset + got
        except OSError as error:  # the system does not say which file failed
            raise OSError(error.errno, f"{error.strerror} at byte {offset}", self._name) from error
        return False

    def _open(self) -> Opened:
        file = with_room(lambda: open_shard(self.path, self.commit))
        if (
            file.token != self._token
        ):  # the first time, or the file was replaced since, by a copy of itself or by a shard that was computed again
            self._offsets = self._settle(file)
            self._token = file.token
        if isinstance(file, RemoteOpened):
            file.drop_tail()
        return file

    def _damaged(self, what: str) -> DamagedStoreError:
        return damaged(self.path, self.commit, what)


@lru_cache
def _words(count: int) -> struct.Struct:
    """The format of this many checksums in the file."""
    return struct.Struct(f"<{count}I")
