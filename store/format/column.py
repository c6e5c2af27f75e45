"""The two records of a column: ``column.json`` says what it is, ``commits/*.json`` which of its shards are done.

What they hold, the checks on what is read back, and how they are read and written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from ..errors import DamagedStoreError, StoreError
from ..storage.files import cached_sha256, canonical_json, digest, read_json, write_json
from ..storage.listing import entries, files_below, is_plain_file, is_there
from .layout import COLUMN_JSON, COMMITS, FORMAT_VERSION, array_file, commit_file, table_file
from .schema import ABSENT, FAILED, OK, REMOVED

MAX_IMAGES = 2**33
MAX_ROW_BYTES = 2**32
"""Bounds on what a record may claim, so that a forged one costs no memory."""
_STATUS = {OK, FAILED, REMOVED, ABSENT}
_DTYPES = {"float16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class ArrayLayout:
    """Shape of an array column ``[N, *row_shape]``; the first axis of a row is cut into chunks of ``chunk_rows``.

    Embeddings: row_shape (K_max, D), chunk_rows 16. Everything else: one chunk an image.
    """

    row_shape: tuple[int, ...]
    chunk_rows: int
    dtype: str
    dimension_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnMeta:
    """Content of ``column.json``.

    ``identity`` is, in clear, all that decides the column's bytes; ``fingerprint`` is its digest. ``sources`` is the
    order of the split's images for life, as (image_id, path), in the column ``images`` alone.
    """

    column: str
    identity: Mapping[str, Any]
    fingerprint: str
    images: int
    shard_images: int
    array: ArrayLayout | None = None
    zarr_sha256: str | None = None
    sources: tuple[tuple[str, str], ...] | None = None
    format_version: int = FORMAT_VERSION

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.images // self.shard_images)

    def shard_range(self, shard: int) -> range:
        """The image indices of a shard."""
        return range(shard * self.shard_images, min(self.images, (shard + 1) * self.shard_images))


@dataclass(frozen=True)
class Commit:
    """The record, written last, that says: this shard of this column is done.

    Args:
        place: ``<dataset>/<column>/<split>`` (``means/<name>/<encoder>`` for a mean), so that a commit cannot be moved.
        file: data file relative to the column; size in bytes and sha256 of it follow.
        upstream: column -> :attr:`content` of the shard (for the index: source file -> sha256) it was computed from.
        counts, status: one entry an image. Arrays also have crc32c: that of the image's chunk checksums.
        errors: position in the shard (as text) -> reason.
        omitted: vectors left out by K_max or G_max, over the shard.
        run: how it was computed (device, versions, seconds); no part of the content.

    ``replacing`` is not stored: a writer is replacing the shard, or was when it was killed, and this record fits the file.
    """

    place: str
    shard: int
    fingerprint: str
    file: str
    size: int
    sha256: str
    upstream: Mapping[str, str]
    counts: tuple[int, ...]
    status: tuple[str, ...]
    crc32c: tuple[int, ...] | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    omitted: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    replacing: ClassVar[bool] = False

    @property
    def content(self) -> str:
        """Digest of what downstream shards are computed from: the file and, as an array's file cannot hold them, failures."""
        if not self.errors:
            return self.sha256
        return digest([self.sha256, list(self.status), dict(self.errors)])

    def same_inputs(self, other: Commit) -> bool:
        """Whether both were computed from the same parameters and the same upstream bytes."""
        return self.fingerprint == other.fingerprint and dict(self.upstream) == dict(other.upstream)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Digest of all that decides a column's bytes."""
    return digest(identity)


def parse_column(value: dict[str, Any], path: Path) -> ColumnMeta:
    """A ``column.json`` from its JSON; raises DamagedStoreError when it claims what cannot be."""
    _known(ColumnMeta, value, path)
    if value["array"] is not None:
        value["array"] = _parse_layout(value["array"], path)
    if value["sources"] is not None:
        pairs = value["sources"]
        is_list = isinstance(pairs, list) and set(map(type, pairs)) <= {list} and set(map(len, pairs)) <= {2}
        if not is_list or not set(map(type, chain.from_iterable(pairs))) <= {str}:
            _wrong(path, "sources", "pairs of image_id and path")
        value["sources"] = tuple(map(tuple, pairs))
    _require(isinstance(value["identity"], dict), path, "identity", "an object")
    for name, least in (("images", 0), ("shard_images", 1)):
        _require(_whole(value[name], least, MAX_IMAGES), path, name, f"{least} to {MAX_IMAGES}")
    _require(isinstance(value["column"], str), path, "column", "a name")
    meta = ColumnMeta(**value)
    _require(meta.sources is None or len(meta.sources) == meta.images, path, "sources", "one an image")
    if fingerprint(meta.identity) != meta.fingerprint:
        _wrong(path, "fingerprint", "that of the parameters beside it")
    return meta


def parse_commit(value: dict[str, Any], path: Path, shard: int) -> Commit:
    """A commit from its JSON; raises DamagedStoreError when it claims what cannot be."""
    _known(Commit, value, path)
    for name, (holds, expected) in _OF_COMMITS.items():
        if not holds(value[name]):
            _wrong(path, name, expected)
    counts, status, crc32c, errors = (value[name] for name in ("counts", "status", "crc32c", "errors"))
    if value["shard"] != shard:
        _wrong(path, "shard", str(shard))
    if len(status) != len(counts) or not set(status) <= _STATUS:
        _wrong(path, "status", "one an image")
    if crc32c is not None and len(crc32c) != len(counts):
        _wrong(path, "crc32c", "one an image")
    if errors and not errors.keys() <= {str(position) for position in range(len(counts))}:
        _wrong(path, "errors", "positions in the shard")
    if not _is_file_of(value["file"], shard):
        _wrong(path, "file", f"{table_file(shard)} or c/{shard}/0...")
    lists = {"counts": tuple(counts), "status": tuple(status), "crc32c": None if crc32c is None else tuple(crc32c)}
    return Commit(**{**value, **lists})


def _is_file_of(name: str, shard: int) -> bool:
    return name == table_file(shard) or any(name == array_file(shard, ndim) for ndim in range(2, 9))


def _parse_layout(array: Any, path: Path) -> ArrayLayout:
    names = {item.name for item in fields(ArrayLayout)}
    _require(isinstance(array, dict) and set(array) == names, path, "array", f"an object of {sorted(names)}")
    shape = array["row_shape"]
    _require(isinstance(shape, list) and 1 <= len(shape) <= 7, path, "array.row_shape", "1 to 7 sides")
    _require(all(_whole(side, 1) for side in shape), path, "array.row_shape", "positive sides")
    _require(array["dtype"] in _DTYPES, path, "array.dtype", " or ".join(_DTYPES))
    chunk_rows = array["chunk_rows"]
    _require(
        _whole(chunk_rows, 1) and shape[0] % chunk_rows == 0, path, "array.chunk_rows", "a divisor of the first side"
    )
    size = _DTYPES[array["dtype"]]
    for side in shape:
        size *= side
    _require(size <= MAX_ROW_BYTES, path, "array.row_shape", f"at most {MAX_ROW_BYTES} bytes an image")
    names_of_axes = array["dimension_names"]
    _require(isinstance(names_of_axes, list), path, "array.dimension_names", "a list")
    return ArrayLayout(**{**array, "row_shape": tuple(shape), "dimension_names": tuple(names_of_axes)})


def _known(kind: type, value: dict[str, Any], path: Path) -> None:
    if value.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: found format version {value.get('format_version')!r}, this reader knows {FORMAT_VERSION}; "
            "read it with a newer elisa-store"
        )
    names = _names_of(kind)
    if value.keys() != names:
        _wrong(path, f"the fields {sorted(value)}", str(sorted(names)))


@cache
def _names_of(kind: type) -> frozenset[str]:
    return frozenset(item.name for item in fields(kind))


def _whole(value: Any, least: int = 0, most: int = 2**63) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _all_whole(values: Any) -> bool:
    """:func:`_whole` of a long list, in a tenth of the time: a split of 100 000 images has a million of them."""
    whole = isinstance(values, list) and set(map(type, values)) <= {int}
    return whole and (not values or (min(values) >= 0 and max(values) <= 2**63))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _all_text(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {str}


_OF_COMMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("place", "fingerprint", "file", "sha256"), (_is_text, "a string")),
    **dict.fromkeys(("errors", "extra", "run"), (_is_object, "an object")),
    "upstream": (lambda value: isinstance(value, dict) and _all_text([*value.values()]), "an object of digests"),
    **dict.fromkeys(("shard", "size", "omitted"), (_whole, "a whole number")),
    "counts": (_all_whole, "a list of whole numbers"),
    "crc32c": (lambda value: value is None or _all_whole(value), "a list of whole numbers, or null"),
    "status": (_all_text, "a list of strings"),
}
"""Field -> whether a value can be its, and what it should be."""


def _require(holds: bool, path: Path, what: str, expected: str) -> None:
    if not holds:
        _wrong(path, what, expected)


def _wrong(path: Path, what: str, expected: str) -> NoReturn:
    raise DamagedStoreError(f"{path}: {what} is not right, expected {expected}")


def load_column(folder: Path) -> ColumnMeta | None:
    """Read ``column.json`` from the disk; None when there is none.

    Raises:
        DamagedStoreError: it does not hold what was written.
        StoreError: it is of a format version that this reader does not know.
    """
    path = folder / COLUMN_JSON
    if not is_there(path):
        return None
    return parse_column(read_json(path), path)


def read_column(folder: Path) -> ColumnMeta | None:
    """:func:`load_column`, parsed once for as long as the file is not replaced: that of ``images`` has a line an image."""
    try:
        state = (folder / COLUMN_JSON).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _column_of_version(folder, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)


@lru_cache(maxsize=256)
def _column_of_version(folder: Path, inode: int, mtime_ns: int, ctime_ns: int, size: int) -> ColumnMeta | None:
    return load_column(folder)


def write_commit(folder: Path, commit: Commit) -> None:
    """Write a shard's commit; from now on the shard is done.

    Where :func:`announce_commit` has named it already, a power loss that undoes the rename loses nothing.
    """
    path = folder / commit_file(commit.shard)
    write_json(path, asdict(commit), durable=not _is_announced(path, commit))


def _is_announced(path: Path, commit: Commit) -> bool:
    try:
        return bool(read_json(path).get(NEXT) == json.loads(canonical_json(asdict(commit))))
    except (FileNotFoundError, DamagedStoreError):
        return False


def announce_commit(folder: Path, old: Commit, new: Commit) -> None:
    """Before the data file of a committed shard is replaced: let its commit name both versions.

    Whichever the data file holds is the shard's from now on, so a kill at any moment leaves the old shard or the new one.
    """
    write_json(folder / commit_file(old.shard), {**asdict(old), NEXT: asdict(new)})


NEXT = "next"
"""Field of a commit whose shard is being replaced: the commit that comes."""


def read_commit(folder: Path, shard: int) -> Commit | None:
    """Read a shard's commit; None when the shard is not computed. Raises as :func:`read_column`.

    Where a writer is replacing the shard (or was killed in the middle of it), the commit that fits the data file.
    """
    path = folder / commit_file(shard)
    try:
        value = read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    following = value.pop(NEXT, None)
    commit = parse_commit(value, path, shard)
    if following is None:
        return commit
    new = parse_commit(following if isinstance(following, dict) else {}, path, shard)
    true = new if _is_data_of(folder, new) else commit
    object.__setattr__(true, "replacing", True)  # about the disk, not about the shard: no field of the record
    return true


def _is_data_of(folder: Path, commit: Commit) -> bool:
    path = folder / commit.file
    if not is_plain_file(path):
        return False
    try:
        return path.stat().st_size == commit.size and cached_sha256(path) == commit.sha256
    except FileNotFoundError:
        return False


def settle(folder: Path) -> None:
    """Under the column's lock: give every shard whose replacing was cut short the one commit that fits its file."""
    for shard in committed_shards(folder):
        with contextlib.suppress(StoreError):  # a damaged one is found by whoever reads it
            commit = read_commit(folder, shard)
            if commit is not None and commit.replacing:
                write_commit(folder, commit)


def committed_shards(folder: Path) -> list[int]:
    """The numbers of the shards that have a commit, sorted.

    Raises:
        OSError: the folder of the commits cannot be listed.
    """
    names = [Path(entry.name) for entry in entries(folder / COMMITS)]
    return sorted(int(name.stem) for name in names if name.suffix == ".json" and _is_number(name.stem))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12


def left_beyond(folder: Path, shards: int) -> list[Path]:
    """Commits and data files of shards past the last one, commits first: shards were smaller under other parameters.

    What is reached only through the link of a folder is not ours.
    """
    numbers = {folder / COMMITS / name: Path(name).stem for name in _names(folder / COMMITS, ".json")}
    numbers |= {folder / name: Path(name).stem for name in _names(folder, ".parquet")}
    numbers |= {path: path.relative_to(folder).parts[1] for path in files_below(folder / "c") if is_plain_file(path)}
    beyond = [path for path, number in numbers.items() if _is_number(number) and int(number) >= shards]
    return [path for path in beyond if path.parent.resolve().is_relative_to(folder.resolve())]


def _names(folder: Path, ending: str) -> list[str]:
    return [entry.name for entry in entries(folder) if entry.name.endswith(ending)]
