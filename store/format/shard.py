"""The commit in a shard's file: put there with the data, found without ``column.json``, read without the data.

It is a JSON object. In a table it is the value of the key ``elisa`` in Parquet's key-value metadata; in an array it stands between
the last chunk and Zarr's index, followed by its length (uint64) and :data:`MAGIC`. Its last fields are ``content``, ``seal``
and ``check``: the crc32c of the object itself, with its own eight digits zeroed.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import google_crc32c

from ..errors import ChangedError, DamagedStoreError, StoreError
from ..storage.files import TEMPORARY, canonical_json
from ..storage.listing import entries, files_below, is_folder, is_plain_file
from ..storage.mounts import storage_of
from ..storage.objects import blocks_of, read_object, read_range, replace_object
from ..storage.protocol import Opened
from .column import NOT_STORED, ArrayLayout, ColumnMeta, Commit, parse_commit, read_column
from .layout import LOG, array_file, log_file, table_file

KEY = "elisa"
MAGIC = b"\x97elisa\x02\x8b"
"""Ends the record in an array's file. An index cannot contain it: any eight of its bytes include the highest byte of a number,
which is 0 or 255."""
LENGTH_BYTES = 8
_TAIL = 1 << 14
_MOST_TAIL = 1 << 26
"""How many of a file's last bytes are searched for the record and index: at first, and at most."""
_MOST_RECORD = 1 << 26
_ZEROS = "0" * 64
_IN_FOOTER = b"\x05" + KEY.encode() + b"\x18"
"""The key and the field header of its value, as Thrift's compact protocol writes them in Parquet's footer."""


def record_text(commit: Commit) -> bytes:
    """A commit as it stands in its file."""
    stored = {item.name: getattr(commit, item.name) for item in fields(Commit) if item.name not in _LAST}
    text = (
        canonical_json(stored)[:-1]
        + f',"content":"{commit.content}","seal":"{commit.seal}","check":"00000000"}}'.encode()
    )
    return text[:-10] + b'%08x"}' % google_crc32c.value(text)


_LAST = (*NOT_STORED, "content", "seal")


def unsealed(text: bytes) -> bytes:
    """A record's text as the seal is computed over it: with the digits of ``seal`` and ``check`` zeroed."""
    head = len(text) - len(_SEALS)
    return text[:head] + _SEALS


_SEALS = f'{_ZEROS}","check":"00000000"}}'.encode()


def without_seal(commit: Commit) -> bytes:
    """The text to write before the file's digest is known; it is as long as :func:`record_text` of the sealed commit."""
    return unsealed(record_text(replace(commit, content=commit.content or _ZEROS, seal=_ZEROS)))


def content_of(data_sha256: str, commit: Commit) -> str:
    """:attr:`Commit.content`: a digest of the sha256 of the bytes before the record (array) or footer (table), and of the counts,
    status and errors, which these bytes lack."""
    rest = canonical_json([list(commit.counts), list(commit.status), dict(commit.errors)])
    return hashlib.sha256(data_sha256.encode() + rest).hexdigest()


def parse_record(text: bytes, path: Path, shard: int) -> Commit:
    """A commit from its text; raises DamagedStoreError when it is not what was written, or holds impossible values."""
    blank = text[:-10] + b'00000000"}'
    if text != text[:-10] + b'%08x"}' % google_crc32c.value(blank):
        raise DamagedStoreError(f"{path}: the record of the shard does not fit its checksum", shard=shard, path=path)
    try:
        value = json.loads(text)
        value.pop("check")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedStoreError(
            f"{path}: the record of the shard is no JSON object ({error})", shard=shard, path=path
        ) from error
    return parse_commit(value, path, shard)


def file_of(array: ArrayLayout | None, shard: int) -> str:
    """The file of a shard of an array, or of a table (None), relative to its column."""
    return table_file(shard) if array is None else array_file(shard, 1 + len(array.row_shape))


def shard_path(folder: Path, shard: int, meta: ColumnMeta | None) -> Path:
    """The file of a shard. Without a ``column.json``, the one that is there."""
    if meta is not None:
        return folder / file_of(meta.array, shard)
    table, array = folder / table_file(shard), folder / "c" / str(shard)
    if is_plain_file(table) or not is_folder(array):
        return table
    while is_folder(array):
        array = array / "0"
    return array


def read_commit(folder: Path, shard: int, meta: ColumnMeta | None = None) -> Commit | None:
    """Read a shard's commit; None when the shard is not computed.

    Args:
        meta: of the column, if it is known.

    Raises:
        DamagedStoreError: the file holds no record, or one that is damaged.
        StoreError: it is of a format version that this reader does not know.
    """
    known = meta or _meta_of(folder)
    return commit_at(shard_path(folder, shard, known), folder, shard, begun=known is not None)


def commit_at(path: Path, folder: Path, shard: int, begun: bool = True) -> Commit | None:
    """The commit in a shard's file, which is at ``path``; None where nothing is there. Raises as :func:`read_commit`.

    Args:
        begun: whether the column has a ``column.json``. If not, ``path`` may be a folder that a writer has just made: the folders
            of an array's first shard are made before the column is begun.
    """
    try:
        opened = storage_of(path).open(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        if not begun and path.suffix != ".parquet":
            return None
        raise DamagedStoreError(f"{path}: found a folder, expected a file", shard=shard, path=path) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamagedStoreError(f"{path}: {LINKED}", shard=shard, path=path) from error
        raise
    return commit_in(opened, path, folder, shard)


LINKED = "found a link, expected a file (DVC: cache.type must not be symlink)"


def commit_in(opened: Opened, path: Path, folder: Path, shard: int) -> Commit:
    """The commit in an open file of a shard. Raises as :func:`read_commit`."""
    commit = parse_record(_record_in(opened, path, shard)[0], path, shard)
    return replace(commit, file=path.relative_to(folder).as_posix(), size=opened.size, token=opened.token)


def _meta_of(folder: Path) -> ColumnMeta | None:
    try:
        return read_column(folder)
    except StoreError:
        return None


def _record_in(opened: Opened, path: Path, shard: int) -> tuple[bytes, int]:
    """A record's text, and where it begins in the file."""
    length = min(opened.size, _TAIL)
    while True:
        start = opened.size - length
        tail = read_range(opened, start, length, path)
        found = _in_table(tail) if path.suffix == ".parquet" else _in_array(tail)
        if found is not None and found[0] >= 0:
            return tail[found[0] : found[1]], start + found[0]
        if length >= min(opened.size, _MOST_TAIL):
            raise DamagedStoreError(
                f"{path}: found no record of the shard in {opened.size} bytes", shard=shard, path=path
            )
        length = min(opened.size, length * 16)


def _in_array(tail: bytes) -> tuple[int, int] | None:
    """First and last position of the record in the last bytes of a file; negative where it begins before them."""
    at = tail.rfind(MAGIC)
    if at < 0:
        return None
    end = at - LENGTH_BYTES
    return (end - int.from_bytes(tail[max(0, end) : at], "little"), end) if end > 0 else (-1, end)


def _in_table(tail: bytes) -> tuple[int, int] | None:
    end = len(tail) - 8
    footer = end - int.from_bytes(tail[-8:-4], "little")
    at = tail.rfind(_IN_FOOTER, max(0, footer), max(0, end))
    if at < 0:
        return None
    at += len(_IN_FOOTER)
    size = shift = 0
    while at < end:  # the length, seven bits a byte, the lowest first
        byte = tail[at]
        at += 1
        size |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (at, at + size) if at + size <= end else None
    return None


def seal_of(path: Path, opened: Opened, text: bytes) -> str:
    """The seal that an open file with the record ``text`` should have, computed from its bytes."""
    at = _record_in(opened, path, 0)[1]
    state, done = hashlib.sha256(), 0
    for block in blocks_of(opened, path):
        if done < at + len(text) and at < done + len(block):
            block = overlay(block, at - done, unsealed(text))
        state.update(block)
        done += len(block)
    return state.hexdigest()


def overlay(block: bytes, at: int, text: bytes) -> bytes:
    """A block of bytes with ``text`` written over it from ``at`` on, cut to the block; ``at`` may be negative."""
    start, end = max(0, at), min(len(block), at + len(text))
    return block[:start] + text[start - at : end - at] + block[end:]


def open_shard(path: Path, commit: Commit, opens: Callable[[Path], Opened] | None = None) -> Opened:
    """Open a committed shard's file for reading; raises DamagedStoreError when it is missing or a link.

    ``opens``: called instead of its storage's ``open``.
    """
    try:
        return (opens or storage_of(path).open)(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise damaged(path, commit, "the file is missing") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise damaged(path, commit, LINKED) from error
        raise


def raise_changed(path: Path, folder: Path, commit: Commit, opened: Opened) -> None:
    """Raise the error that explains why an open file is not the commit's: it is another version, or another shard's file.

    Returns if the file's record is that of the commit.

    Raises:
        ChangedError: it is this shard, computed again.
        DamagedStoreError: it is not a shard, or is another shard.
    """
    found = commit_in(opened, path, folder, commit.shard)
    if found.place != commit.place:
        raise damaged(path, commit, f"the file is that of {found.place}")
    if found.seal != commit.seal:
        raise ChangedError(
            f"{path}: shard {commit.shard} of {commit.place} was computed again since the split was opened; open it again",
            place=commit.place,
            shard=commit.shard,
            path=path,
            found=found.seal,
            expected=commit.seal,
        )


def damaged(path: Path, commit: Commit, what: str) -> DamagedStoreError:
    """The error that says what is wrong with a committed shard's file."""
    message = f"{path}: shard {commit.shard}: {what}"
    return DamagedStoreError(message, place=commit.place, shard=commit.shard, path=path)


def is_whole(folder: Path, commit: Commit) -> bool:
    """Whether every byte of a shard's file is what its seal says."""
    path = folder / commit.file
    opened = storage_of(path).open(path)
    return seal_of(path, opened, record_text(commit)) == commit.seal


def committed_shards(folder: Path) -> list[int]:
    """The numbers of the shards that are there, sorted.

    Raises:
        OSError: a folder cannot be listed.
    """
    tables = [Path(entry.name) for entry in entries(folder)]
    found = [name.stem for name in tables if name.suffix == ".parquet"]
    for entry in entries(folder / "c"):
        if any(not path.name.startswith(TEMPORARY) for path in files_below(folder / "c" / entry.name)):
            found.append(entry.name)
    return sorted(int(name) for name in found if _is_number(name))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12


def left_beyond(folder: Path, shards: int, files: Iterable[Path] | None = None) -> list[Path]:
    """Files of shards past the last one, from parameters with smaller shards.

    Files that are reached only through a link to a folder are left out.

    Args:
        files: all that is below the folder, where that is known.
    """
    found = files_below(folder) if files is None else files
    numbers = {path: _number_in(path.relative_to(folder)) for path in found}
    beyond = [path for path, number in numbers.items() if _is_number(number) and int(number) >= shards]
    ours = [path for path in beyond if path.parent.resolve().is_relative_to(folder.resolve())]
    return [path for path in ours if path.relative_to(folder).parts[0] != "c" or is_plain_file(path)]


def _number_in(name: Path) -> str:
    """The shard number in the name of a data or log file, as text; empty for other files."""
    match name.parts:
        case (_,) if name.suffix == ".parquet":
            return name.stem
        case (top, _, *_) if top == LOG and name.suffix == ".json":
            return name.stem
        case ("c", number, _, *_):
            return number
    return ""


def write_log(folder: Path, commit: Commit, run: dict[str, Any]) -> None:
    """Note how a shard was made: device, versions, seconds. The log decides nothing, and may be lost."""
    if run:
        replace_object(
            folder / log_file(commit.shard), canonical_json({"seal": commit.seal, "run": run}), durable=False
        )


def read_log(folder: Path, commit: Commit) -> dict[str, Any]:
    """How a shard was made, as :func:`write_log` was told; empty where that is not known."""
    try:
        value = json.loads(read_object(folder / log_file(commit.shard), 1 << 24))
    except (OSError, ValueError, RecursionError, DamagedStoreError):
        return {}
    known = isinstance(value, dict) and value.get("seal") == commit.seal and isinstance(value.get("run"), dict)
    return value["run"] if known else {}
