"""The two records of a column: ``column.json`` says what it is, and each shard's file holds the commit that says it is done.

What they hold, the checks on what is read back, and how ``column.json`` is read. :mod:`store.format.shard` reads commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from sys import intern
from typing import Any, NoReturn

from ..errors import DamagedStoreError, StoreError
from ..storage.files import digest
from ..storage.listing import state_of
from ..storage.objects import read_json
from .layout import COLUMN_JSON, FORMAT_VERSION, is_name
from .schema import ABSENT, FAILED, OK, REMOVED

MAX_IMAGES = 2**33
MAX_ROW_BYTES = 2**32
"""Bounds on what a record may claim, so that a forged one costs no memory."""
_STATUS = {OK, FAILED, REMOVED, ABSENT}
_DTYPES = {"int8": 1, "float16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class ArrayLayout:
    """Shape of an array column ``[N, *row_shape]``; the first axis of a row is cut into chunks of ``chunk_rows``.

    Embeddings: row_shape (K_max, D), chunk_rows 16. Everything else: one chunk per image.
    """

    row_shape: tuple[int, ...]
    chunk_rows: int
    dtype: str
    dimension_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnMeta:
    """Content of ``column.json``.

    ``identity`` lists, as plain values, all that decides the column's bytes; ``fingerprint`` is its digest. Only the column
    ``images`` has ``sources``, the permanent order of the split's images as (image_id, path), and, where the split borrows its
    images, ``holder``, the data set that holds them (:mod:`store.format.links`).
    """

    column: str
    identity: Mapping[str, Any]
    fingerprint: str
    images: int
    shard_images: int
    array: ArrayLayout | None = None
    zarr_sha256: str | None = None
    sources: tuple[tuple[str, str], ...] | None = None
    holder: str | None = None
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
    """The record in a shard's file that says: this shard of this column is done.

    Args:
        place: ``<dataset>/<column>/<split>`` (``means/<mean>/<proposer>/<encoder>`` for a mean), so that a shard cannot be moved.
        upstream: column -> :attr:`content` of the shard (for the index: source file -> sha256) it was computed from.
        counts, status: one entry per image. Arrays also have crc32c, computed over each image's chunk checksums.
        errors: position in the shard (as text) -> reason.
        omitted: vectors left out by K_max or G_max, over the shard.
        content: digest of what downstream shards are computed from: the values, counts, status and errors.
        seal: sha256 of the file, with the digits of this field and of the record's own checksum zeroed.
        file, size, token: where it was read, how large the file is, and what tells that version from others; not stored.
    """

    place: str
    shard: int
    fingerprint: str
    upstream: Mapping[str, str]
    counts: tuple[int, ...]
    status: tuple[str, ...]
    crc32c: tuple[int, ...] | None = None
    errors: Mapping[str, str] = field(default_factory=dict)
    omitted: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    content: str = ""
    seal: str = ""
    file: str = field(default="", compare=False)
    size: int = field(default=0, compare=False)
    token: str = field(default="", compare=False)

    def same_inputs(self, other: Commit) -> bool:
        """Whether both were computed from the same parameters and the same upstream bytes."""
        return self.fingerprint == other.fingerprint and dict(self.upstream) == dict(other.upstream)


NOT_STORED = ("file", "size", "token")
"""Fields of a commit that describe the file it was read from."""


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Digest of all that decides a column's bytes."""
    return digest(identity)


def parse_column(value: dict[str, Any], path: Path) -> ColumnMeta:
    """A ``column.json`` from its JSON; raises DamagedStoreError when it holds impossible values."""
    _known(ColumnMeta, value, path)
    if value["array"] is not None:
        value["array"] = _parse_layout(value["array"], path)
    if value["sources"] is not None:
        pairs = value["sources"]
        is_list = isinstance(pairs, list) and set(map(type, pairs)) <= {list} and set(map(len, pairs)) <= {2}
        if not is_list or not set(map(type, chain.from_iterable(pairs))) <= {str}:
            _wrong(path, "sources", "pairs of image_id and path")
        # One string object per name: splits that borrow images have the same names as the split that holds them.
        value["sources"] = tuple((intern(image_id), intern(path)) for image_id, path in pairs)
    _require(isinstance(value["identity"], dict), path, "identity", "an object")
    for name, least in (("images", 0), ("shard_images", 1)):
        _require(_whole(value[name], least, MAX_IMAGES), path, name, f"{least} to {MAX_IMAGES}")
    _require(isinstance(value["column"], str), path, "column", "a name")
    holder = value["holder"]
    _require(
        holder is None or (_is_text(holder) and is_name(holder)), path, "holder", "the name of a data set, or null"
    )
    meta = ColumnMeta(**value)
    _require(meta.sources is None or len(meta.sources) == meta.images, path, "sources", "one per image")
    if fingerprint(meta.identity) != meta.fingerprint:
        _wrong(path, "fingerprint", "that of the parameters next to it")
    return meta


def parse_commit(value: dict[str, Any], path: Path, shard: int) -> Commit:
    """A commit from its JSON; raises DamagedStoreError when it holds impossible values."""
    _known(Commit, value, path)
    for name, (holds, expected) in _OF_COMMITS.items():
        if not holds(value[name]):
            _wrong(path, name, expected)
    counts, status, crc32c, errors = (value[name] for name in ("counts", "status", "crc32c", "errors"))
    if value["shard"] != shard:
        _wrong(path, "shard", str(shard))
    if len(status) != len(counts) or not set(status) <= _STATUS:
        _wrong(path, "status", "one per image")
    if crc32c is not None and len(crc32c) != len(counts):
        _wrong(path, "crc32c", "one per image")
    if errors and not errors.keys() <= {str(position) for position in range(len(counts))}:
        _wrong(path, "errors", "positions in the shard")
    lists = {
        "counts": tuple(counts),
        "status": tuple(map(intern, status)),
        "crc32c": None if crc32c is None else tuple(crc32c),
    }
    return Commit(**{**value, **lists})


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
    _require(size <= MAX_ROW_BYTES, path, "array.row_shape", f"at most {MAX_ROW_BYTES} bytes per image")
    names_of_axes = array["dimension_names"]
    _require(isinstance(names_of_axes, list), path, "array.dimension_names", "a list")
    return ArrayLayout(**{**array, "row_shape": tuple(shape), "dimension_names": tuple(names_of_axes)})


def _known(kind: type, value: dict[str, Any], path: Path) -> None:
    if value.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: found format version {value.get('format_version')!r}, expected {FORMAT_VERSION}; "
            "read it with a newer elisa-store",
            path=path,
            found=value.get("format_version"),
            expected=FORMAT_VERSION,
        )
    names = _names_of(kind)
    if value.keys() != names:
        _wrong(path, f"the fields {sorted(value)}", str(sorted(names)))


@cache
def _names_of(kind: type) -> frozenset[str]:
    return frozenset(item.name for item in fields(kind)) - set(NOT_STORED)


def _whole(value: Any, least: int = 0, most: int = 2**63) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _all_whole(values: Any) -> bool:
    """:func:`_whole` for each value of a list, in a tenth of the time: a split of 100 000 images has a million values."""
    whole = isinstance(values, list) and set(map(type, values)) <= {int}
    return whole and (not values or (min(values) >= 0 and max(values) <= 2**63))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _all_text(values: Any) -> bool:
    return isinstance(values, list) and set(map(type, values)) <= {str}


_OF_COMMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("place", "fingerprint", "content", "seal"), (_is_text, "a string")),
    **dict.fromkeys(("errors", "extra"), (_is_object, "an object")),
    "upstream": (lambda value: isinstance(value, dict) and _all_text([*value.values()]), "an object of digests"),
    **dict.fromkeys(("shard", "omitted"), (_whole, "a whole number")),
    "counts": (_all_whole, "a list of whole numbers"),
    "crc32c": (lambda value: value is None or _all_whole(value), "a list of whole numbers, or null"),
    "status": (_all_text, "a list of strings"),
}
"""Field -> a check of its value, and the words for what is expected."""


def _require(holds: bool, path: Path, what: str, expected: str) -> None:
    if not holds:
        _wrong(path, what, expected)


def _wrong(path: Path, what: str, expected: str) -> NoReturn:
    raise DamagedStoreError(f"{path}: {what} is not right, expected {expected}", path=path, expected=expected)


def load_column(folder: Path) -> ColumnMeta | None:
    """Read ``column.json`` from the disk; None if it is missing.

    Raises:
        DamagedStoreError: it does not hold what was written.
        StoreError: it is of a format version that this reader does not know.
    """
    path = folder / COLUMN_JSON
    try:
        return parse_column(read_json(path), path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_column(folder: Path) -> ColumnMeta | None:
    """As :func:`load_column`, but the file is parsed again only after it was replaced: for ``images`` it has a line per image."""
    state = state_of(folder / COLUMN_JSON)
    return None if state is None else _column_of_version(folder, state.token)


@lru_cache(maxsize=256)
def _column_of_version(folder: Path, token: str) -> ColumnMeta | None:
    return load_column(folder)
