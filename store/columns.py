"""``column.json``: what a column is, and ``commits/*.json``: which of its shards are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import DamagedStoreError, StoreError
from .files import digest, read_json, write_json
from .layout import COLUMN_JSON, FORMAT_VERSION, commit_file


@dataclass(frozen=True)
class ArrayLayout:
    """Shape of an array column ``[N, *row_shape]``; the first axis of a row is cut into chunks of ``chunk_rows``.

    Embeddings: row_shape (K_max, D), chunk_rows 16. Everything else: one chunk an image.
    """

    row_shape: tuple[int, ...]
    chunk_rows: int
    dtype: str
    compression: str = "none"
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
        place: ``<dataset>/<split>/<column>`` (``means/<name>/<encoder>`` for a mean), so that a commit cannot be moved.
        file: data file relative to the column; size in bytes and sha256 of it follow.
        upstream: column -> :attr:`content` of the shard (for the index: source file -> sha256) it was computed from.
        counts, status: one entry an image. Arrays also have crc32c: that of the image's chunk checksums.
        errors: position in the shard (as text) -> reason.
        omitted: vectors left out by K_max or G_max, over the shard.
        run: how it was computed (device, versions, seconds); no part of the content.
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


def write_column(folder: Path, meta: ColumnMeta) -> None:
    """Replace ``column.json``."""
    write_json(folder / COLUMN_JSON, asdict(meta))


def read_column(folder: Path) -> ColumnMeta | None:
    """Read ``column.json``; None when there is none.

    Raises:
        DamagedStoreError: it does not hold what was written.
        StoreError: it is of a format version that this reader does not know.
    """
    path = folder / COLUMN_JSON
    if not path.exists():
        return None
    value = _known(ColumnMeta, read_json(path), path)
    if value["array"] is not None:
        array = value["array"]
        value["array"] = ArrayLayout(
            **{**array, "row_shape": tuple(array["row_shape"]), "dimension_names": tuple(array["dimension_names"])}
        )
    if value["sources"] is not None:
        value["sources"] = tuple((image_id, path) for image_id, path in value["sources"])
    meta = ColumnMeta(**value)
    if fingerprint(meta.identity) != meta.fingerprint:
        raise DamagedStoreError(
            f"{path}: the fingerprint is not that of the parameters beside it; run: python cli.py verify --repair"
        )
    return meta


def write_commit(folder: Path, commit: Commit) -> None:
    """Write a shard's commit; from now on the shard is done."""
    write_json(folder / commit_file(commit.shard), asdict(commit))


def read_commit(folder: Path, shard: int) -> Commit | None:
    """Read a shard's commit; None when the shard is not computed. Raises as :func:`read_column`."""
    path = folder / commit_file(shard)
    if not path.exists():
        return None
    value = _known(Commit, read_json(path), path)
    for name in ("counts", "status", "crc32c"):
        value[name] = None if value[name] is None else tuple(value[name])
    commit = Commit(**value)
    if commit.shard != shard:
        raise DamagedStoreError(f"{path}: found the commit of shard {commit.shard}, expected {shard}")
    return commit


def _known(kind: type, value: dict[str, Any], path: Path) -> dict[str, Any]:
    if value.get("format_version") != FORMAT_VERSION:
        raise StoreError(
            f"{path}: found format version {value.get('format_version')!r}, this reader knows {FORMAT_VERSION}; "
            "read it with a newer elisa-store"
        )
    names = {item.name for item in fields(kind)}
    if set(value) != names:
        raise DamagedStoreError(f"{path}: found the fields {sorted(value)}, expected {sorted(names)}")
    return value
