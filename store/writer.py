"""Writes columns by the commit protocol: data file durable under its final name first, then its commit.

Under the fingerprint in ``column.json``, nothing committed is ever lost or changed, and nothing uncommitted is visible.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from .columns import ColumnMeta, Commit, left_beyond, read_column, read_commit, write_column, write_commit
from .errors import ConflictError, DamagedStoreError
from .files import (
    is_being_written,
    locked,
    make_folder,
    publish,
    sweep_temporaries,
    sync_folder,
    temporaries,
    temporary_file,
)
from .layout import COMMITS, ZARR_JSON, array_file, commit_file, table_file
from .shards import AnyArray, ShardEncoder, zarr_json
from .tables import encode_table


@dataclass(frozen=True)
class ShardData:
    """What a stage computed for one shard of one column.

    Args:
        rows: for a table, its rows; for an array, one ``[count, ...]`` array an image.
        counts, status: one an image. ``errors``: position in the shard -> reason.
        omitted: vectors left out by K_max or G_max.
    """

    rows: Sequence[dict[str, Any]] | Sequence[AnyArray]
    counts: Sequence[int]
    status: Sequence[str]
    errors: Mapping[int, str] = field(default_factory=dict)
    omitted: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


def begin_column(folder: Path, meta: ColumnMeta) -> ColumnMeta:
    """Make ``column.json`` (and ``zarr.json``) say ``meta`` before the first new shard; sweep what a kill left.

    Returns the meta as written. Commits of another fingerprint become stale by this; their files stay until replaced.
    """
    make_folder(folder / COMMITS)
    text = b"" if meta.array is None else zarr_json(meta)
    meta = _sealed(meta)
    with locked(folder):
        sweep_temporaries(folder)
        current = _current(folder)
        if current is not None and current.fingerprint == meta.fingerprint and current.images > meta.images:
            raise ConflictError(
                f"{folder.name}: another run made it grow from {meta.images} to {current.images} images; run this again"
            )
        if current != meta or not _zarr_intact(folder, meta):
            if meta.array is not None:
                with temporary_file(folder, [text]) as (temporary, _, _):
                    publish(temporary, folder / ZARR_JSON)
            write_column(folder, meta)
        for path in left_beyond(folder, meta.shards):
            path.unlink(missing_ok=True)
    return meta


def is_begun(folder: Path, meta: ColumnMeta) -> bool:
    """Whether ``column.json`` and ``zarr.json`` already say ``meta``, and nothing is left for :func:`begin_column` to sweep."""
    sealed = _sealed(meta)
    return (
        _current(folder) == sealed
        and _zarr_intact(folder, sealed)
        and not left_beyond(folder, sealed.shards)
        and all(is_being_written(path) for path in temporaries(folder))
    )


def _sealed(meta: ColumnMeta) -> ColumnMeta:
    """The meta with the digest of its ``zarr.json``."""
    if meta.array is None:
        return meta
    return replace(meta, zarr_sha256=hashlib.sha256(zarr_json(meta)).hexdigest())


def write_shard(
    folder: Path,
    meta: ColumnMeta,
    place: str,
    shard: int,
    data: ShardData,
    upstream: Mapping[str, str],
    schema: pa.Schema | None,
    run: Mapping[str, Any],
    before: Commit | None = None,
    anew: bool = False,
) -> Commit:
    """Write one shard and commit it; an intact one from the same inputs is kept unless ``anew``.

    Args:
        place: ``<dataset>/<split>/<column>``.
        upstream: what the data was computed from, see :class:`Commit`.
        before: the shard's commit when its inputs were read (:func:`seen_commit`): another one means another writer.

    Raises:
        ConflictError: the column was begun anew with other parameters meanwhile, or another writer committed this
            shard from other inputs while ours was computed.
    """
    count = len(meta.shard_range(shard))
    if len(data.counts) != count or len(data.status) != count:
        raise ValueError(
            f"{place}: shard {shard} has {count} images, found {len(data.counts)} counts, {len(data.status)} status"
        )
    encoder = ShardEncoder(meta) if meta.array is not None else None
    blocks: Iterable[bytes]
    if encoder is not None:
        file = array_file(shard, 1 + len(encoder.layout.row_shape))
        blocks = encoder.blocks(data.rows)  # type: ignore[arg-type]
    else:
        file = table_file(shard)
        blocks = [encode_table(data.rows, schema)]  # type: ignore[arg-type]
    make_folder((folder / file).parent)
    with temporary_file((folder / file).parent, blocks) as (temporary, size, sha256):
        commit = Commit(
            place=place,
            shard=shard,
            fingerprint=meta.fingerprint,
            file=file,
            size=size,
            sha256=sha256,
            upstream=dict(upstream),
            counts=tuple(int(value) for value in data.counts),
            status=tuple(data.status),
            crc32c=None if encoder is None else tuple(encoder.crc32c),
            errors={str(position): reason for position, reason in sorted(data.errors.items())},
            omitted=data.omitted,
            extra=dict(data.extra),
            run=dict(run),
        )
        with locked(folder):
            winner = _settle(folder, meta, commit, before, anew)
            if winner is not None:
                return winner
            _withdraw(folder, shard)
            publish(temporary, folder / file)
            write_commit(folder, commit)
    return commit


def seen_commit(folder: Path, shard: int) -> Commit | None:
    """The commit that a shard has now, for ``before`` of :func:`write_shard`; None also for a damaged one, to be replaced."""
    try:
        return read_commit(folder, shard)
    except DamagedStoreError:
        return None


def _withdraw(folder: Path, shard: int) -> None:
    """Remove the commit of a shard that is about to be replaced: a kill must not leave it beside other bytes."""
    receipt = folder / commit_file(shard)
    if receipt.exists():
        receipt.unlink()
        sync_folder(receipt.parent)


def _settle(folder: Path, meta: ColumnMeta, ours: Commit, before: Commit | None, anew: bool) -> Commit | None:
    """Under the lock: the commit another writer made if it stands for ours, else None."""
    current = _current(folder)
    if current is None or current.fingerprint != meta.fingerprint:
        raise ConflictError(
            f"{ours.place}: begun anew with other parameters while shard {ours.shard} was computed; run it again"
        )
    theirs = seen_commit(folder, ours.shard)
    if theirs is None:
        return None
    same = theirs.same_inputs(ours)
    if theirs == before and (anew or not same or not _intact(folder / theirs.file, theirs.size)):
        return None
    if not same:
        raise ConflictError(
            f"{ours.place}: shard {ours.shard}: another writer committed {theirs.sha256} from other inputs, ours is {ours.sha256}; "
            "stop the other run, then run it again"
        )
    if theirs.sha256 != ours.sha256:
        warnings.warn(
            f"{ours.place}: shard {ours.shard}: another writer committed {theirs.sha256} from the same inputs, ours would be "
            f"{ours.sha256}; theirs is kept",
            stacklevel=3,
        )
    return theirs


def _current(folder: Path) -> ColumnMeta | None:
    try:
        return read_column(folder)
    except DamagedStoreError:
        return None  # it is replaced, which repairs it


def _intact(path: Path, size: int) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size == size


def _zarr_intact(folder: Path, meta: ColumnMeta) -> bool:
    path = folder / ZARR_JSON
    if meta.array is None:
        return True
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == meta.zarr_sha256
