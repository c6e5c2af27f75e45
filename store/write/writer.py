"""Writes columns by the commit protocol: data file durable under its final name first, then its commit.

Under the fingerprint in ``column.json``, nothing committed is ever lost or changed, and nothing uncommitted is visible.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import ConflictError, DamagedStoreError
from ..format.arrays import AnyArray, ShardEncoder, zarr_json
from ..format.column import (
    ColumnMeta,
    Commit,
    announce_commit,
    left_beyond,
    read_column,
    read_commit,
    settle,
    write_commit,
)
from ..format.layout import COLUMN_JSON, COMMITS, UNUSED, ZARR_JSON, array_file, commit_file, table_file
from ..format.tables import encode_table
from ..storage.files import (
    is_being_written,
    locked,
    make_folder,
    publish,
    remove_empty,
    sealed,
    sweep_temporaries,
    sync_folder,
    temporaries,
    temporary_file,
)
from ..storage.listing import is_plain_file, is_there

ANY = "any"
"""For :func:`begin_column`: whatever the column was before."""


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


def begin_column(folder: Path, meta: ColumnMeta, instead_of: str | None = ANY) -> ColumnMeta:
    """Make ``column.json`` (and ``zarr.json``) say ``meta`` before the first new shard; sweep what a kill left.

    Commits of another fingerprint become stale by this; their files stay until replaced.

    Args:
        instead_of: the only other fingerprint that ``column.json`` may have now (None: there is none); default: any.

    Returns:
        The meta as written.

    Raises:
        ConflictError: another run began the column with other parameters, or with more images, meanwhile.
    """
    text = b"" if meta.array is None else zarr_json(meta)
    meta = _sealed(meta)
    made = make_folder(folder / COMMITS)
    try:
        with locked(folder):
            current = _current(folder)
            found = None if current is None else current.fingerprint
            if found not in (meta.fingerprint, instead_of) and instead_of is not ANY:
                raise ConflictError(
                    f"{folder.name}: another run began it with other parameters; stop it, then run this again"
                )
            if current is not None and current.fingerprint == meta.fingerprint and current.images > meta.images:
                raise ConflictError(
                    f"{folder.name}: another run made it grow from {meta.images} to {current.images} images; run this again"
                )
            first = current.sources if current is not None and found == meta.fingerprint else None
            if first and first != (meta.sources or ())[: len(first)]:
                raise ConflictError(f"{folder.name}: another run numbered the images first; run this again")
            settle(folder)
            sweep_temporaries(folder)
            if current != meta or not _zarr_intact(folder, meta):
                records = {ZARR_JSON: text} if text else {}
                _publish_together(folder, records | {COLUMN_JSON: sealed(asdict(meta))})
            for path in [*left_beyond(folder, meta.shards), folder / UNUSED]:
                path.unlink(missing_ok=True)
    except BaseException:
        remove_empty(made)
        raise
    return meta


def _publish_together(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace files in this order, when all of them are safe on the disk."""
    with contextlib.ExitStack() as stack:
        ready = [
            (stack.enter_context(temporary_file(folder, [data]))[0], folder / name) for name, data in files.items()
        ]
        for temporary, final in ready:
            publish(temporary, final)


def is_begun(folder: Path, meta: ColumnMeta) -> bool:
    """Whether ``column.json`` and ``zarr.json`` already say ``meta``, and nothing is left for :func:`begin_column` to sweep."""
    meta = _sealed(meta)
    return (
        _current(folder) == meta
        and _zarr_intact(folder, meta)
        and not left_beyond(folder, meta.shards)
        and not is_there(folder / UNUSED)
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
    begin: Callable[[], object] = lambda: None,
) -> Commit:
    """Write one shard and commit it; an intact one from the same inputs is kept unless ``anew``.

    Killed at any moment, it leaves the shard that was committed before, or this one.

    Args:
        place: ``<dataset>/<column>/<split>``.
        upstream: what the data was computed from, see :class:`Commit`.
        before: the shard's commit when its inputs were read (:func:`seen_commit`): another one means another writer.
        begin: begins the column; called when the data is safe on the disk, so that work that fails changes nothing.

    Raises:
        ConflictError: the column was begun with other parameters meanwhile, or another writer committed this
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
    made = make_folder((folder / file).parent)
    try:
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
            begin()
            with locked(folder):
                winner = _settle(folder, meta, commit, before, anew)
                if winner is not None:
                    if winner.replacing:  # a kill left it so
                        write_commit(folder, winner)
                    return winner
                _make_room(folder, commit)
                publish(temporary, folder / file)
                write_commit(folder, commit)
    except BaseException:
        remove_empty(made)
        raise
    return commit


def seen_commit(folder: Path, shard: int) -> Commit | None:
    """The commit that a shard has now, for ``before`` of :func:`write_shard`; None also for a damaged one, to be replaced."""
    try:
        return read_commit(folder, shard)
    except DamagedStoreError:
        return None


def _make_room(folder: Path, commit: Commit) -> None:
    """Before a data file is replaced: its commit is made to name both versions, or goes if it is damaged."""
    old = seen_commit(folder, commit.shard)
    if old is not None:
        announce_commit(folder, old, commit)
        return
    receipt = folder / commit_file(commit.shard)
    if is_there(receipt):
        receipt.unlink()
        sync_folder(receipt.parent)


def _settle(folder: Path, meta: ColumnMeta, ours: Commit, before: Commit | None, anew: bool) -> Commit | None:
    """Under the lock: the commit another writer made if it stands for ours, else None."""
    current = _current(folder)
    if current is None or current.fingerprint != meta.fingerprint:
        raise ConflictError(
            f"{ours.place}: begun with other parameters while shard {ours.shard} was computed; run it again",
            place=ours.place,
            shard=ours.shard,
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
            "stop the other run, then run it again",
            place=ours.place,
            shard=ours.shard,
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
    return is_plain_file(path) and path.stat().st_size == size


def _zarr_intact(folder: Path, meta: ColumnMeta) -> bool:
    path = folder / ZARR_JSON
    if meta.array is None:
        return True
    return is_plain_file(path) and hashlib.sha256(path.read_bytes()).hexdigest() == meta.zarr_sha256
