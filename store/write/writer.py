"""Writes columns. A shard is one object, put under its name when it is whole and only over the version that its writer saw.

Under the fingerprint in ``column.json``, nothing committed is ever lost or changed, and nothing uncommitted is visible.
That rests on :meth:`store.storage.protocol.Storage.put` alone; locks only keep writers from doing the same work twice.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import ConflictError, DamagedStoreError
from ..format.arrays import AnyArray, ShardEncoder, zarr_json
from ..format.column import ColumnMeta, Commit, read_column
from ..format.layout import COLUMN_JSON, UNUSED, ZARR_JSON
from ..format.lineage import FILE, Lineage, upstream_place
from ..format.shard import left_beyond, read_commit, shard_path, write_log
from ..format.summary import remove_summary, write_summary
from ..format.tables import encode_table
from ..storage.files import TEMPORARY
from ..storage.leftovers import is_left
from ..storage.listing import files_below, is_plain_file
from ..storage.mounts import storage_of
from ..storage.objects import read_object, replace_object, sealed
from ..storage.protocol import LostAnswerError, RefusedError, Staged
from ..storage.requests import call_all

ANY = "any"
"""For :func:`begin_column`: the column may have had any fingerprint before."""
_TRIES = 8
"""How often another writer may come between a look at a shard and the write that follows."""


@dataclass(frozen=True)
class ShardData:
    """What a stage computed for one shard of one column.

    Args:
        rows: for a table, its rows; for an array, one ``[count, ...]`` array per image.
        counts, status: one per image. ``errors``: position in the shard -> reason.
        omitted: vectors left out by K_max or G_max.
    """

    rows: Sequence[dict[str, Any]] | Sequence[AnyArray]
    counts: Sequence[int]
    status: Sequence[str]
    errors: Mapping[int, str] = field(default_factory=dict)
    omitted: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Seen:
    """What a shard was when its inputs were read: the token of its file, and its commit unless that is damaged."""

    token: str
    commit: Commit | None


def seen_commit(folder: Path, shard: int, meta: ColumnMeta | None = None) -> Seen | None:
    """What a shard is now, for ``before`` of :func:`write_shard`; None if it is missing."""
    meta = meta or _current(folder)
    path = shard_path(folder, shard, meta)
    try:
        commit = read_commit(folder, shard, meta)
        return None if commit is None else Seen(commit.token, commit)
    except DamagedStoreError:
        state = storage_of(path).stat(path)
        return None if state is None else Seen(state.token, None)


def begin_column(folder: Path, meta: ColumnMeta, instead_of: str | None = ANY) -> ColumnMeta:
    """Make ``column.json`` (and ``zarr.json``) say ``meta`` before the first new shard; sweep what a kill left.

    Shards of another fingerprint become stale by this; their files stay until replaced.

    Args:
        instead_of: the only other fingerprint that ``column.json`` may have now (None: no other one); default: any.

    Returns:
        The meta as written.

    Raises:
        ConflictError: another run began the column with other parameters, or with more images, meanwhile.
    """
    text = None if meta.array is None else zarr_json(meta)
    meta = _sealed(meta)
    storage, path = storage_of(folder), folder / COLUMN_JSON
    with storage.stage(path, [sealed(asdict(meta))]) as staged, storage.lock(folder):
        for _ in range(_TRIES):
            now, current = storage.stat(path), _current(folder)
            _require_ours_to_begin(folder, meta, current, instead_of)
            if current == meta and _zarr_intact(folder, meta):
                break
            if text is not None and not _zarr_intact(folder, meta):
                replace_object(folder / ZARR_JSON, text)
            if current == meta:
                break
            try:
                storage.put(staged, path, None if now is None else now.token)
                break
            except RefusedError:
                continue
        else:
            raise ConflictError(f"{folder.name}: other runs begin it all the time; stop them, then run this again")
        storage.sweep(folder)
        beyond = left_beyond(folder, meta.shards)
        if beyond or current != meta:
            remove_summary(folder, durable=False)
        for left in [*beyond, folder / UNUSED]:
            storage.delete(left)
    return meta


def _require_ours_to_begin(folder: Path, meta: ColumnMeta, current: ColumnMeta | None, instead_of: str | None) -> None:
    found = None if current is None else current.fingerprint
    if found not in (meta.fingerprint, instead_of) and instead_of is not ANY:
        raise ConflictError(f"{folder.name}: another run began it with other parameters; stop it, then run this again")
    if current is not None and current.fingerprint == meta.fingerprint and current.images > meta.images:
        raise ConflictError(
            f"{folder.name}: another run made it grow from {meta.images} to {current.images} images; run this again"
        )
    first = current.sources if current is not None and found == meta.fingerprint else None
    if first and [name for name, _ in first] != [name for name, _ in (meta.sources or ())[: len(first)]]:
        raise ConflictError(f"{folder.name}: another run numbered the images first; run this again")


def is_begun(folder: Path, meta: ColumnMeta) -> bool:
    """Whether ``column.json`` and ``zarr.json`` already say ``meta``, and nothing is left for :func:`begin_column` to sweep."""
    meta = _sealed(meta)
    if _current(folder) != meta or not _zarr_intact(folder, meta):
        return False
    files = files_below(folder)
    return (
        not left_beyond(folder, meta.shards, files)
        and folder / UNUSED not in files
        and not any(is_left(path) for path in files if path.name.startswith(TEMPORARY))
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
    before: Seen | None = None,
    again: bool = False,
    begin: Callable[[], object] = lambda: None,
) -> Commit:
    """Write one shard; an intact one from the same inputs is kept unless ``again``.

    Killed at any moment, it leaves the shard that was there before, or this one.

    Args:
        place: ``<dataset>/<column>/<split>``.
        upstream: what the data was computed from, see :class:`Commit`.
        run: how it was made, for the log.
        before: what the shard was when its inputs were read (:func:`seen_commit`): anything else means another writer.
        begin: begins the column; called when the data is safe in the storage, so that work that fails changes nothing.

    Raises:
        ConflictError: the column was begun with other parameters meanwhile, what the data was computed from was computed
            again, or another writer finished this shard from other inputs while ours was computed.
    """
    count = len(meta.shard_range(shard))
    if len(data.counts) != count or len(data.status) != count:
        raise ValueError(
            f"{place}: shard {shard} has {count} images, found {len(data.counts)} counts, {len(data.status)} status"
        )
    path, storage = shard_path(folder, shard, meta), storage_of(folder)
    commit = Commit(
        place=place,
        shard=shard,
        fingerprint=meta.fingerprint,
        upstream=dict(upstream),
        counts=tuple(int(value) for value in data.counts),
        status=tuple(data.status),
        errors={str(position): reason for position, reason in sorted(data.errors.items())},
        omitted=data.omitted,
        extra=dict(data.extra),
        file=path.relative_to(folder).as_posix(),
    )
    blocks: Iterable[bytes]
    encoder = None
    if meta.array is not None:
        encoder = ShardEncoder(meta, commit)
        blocks = encoder.blocks(data.rows)  # type: ignore[arg-type]
    else:
        text, commit = encode_table(data.rows, schema, commit)  # type: ignore[arg-type]
        blocks = [text]
    with storage.stage(path, blocks, None if encoder is None else encoder.seal) as staged:
        commit = replace(commit if encoder is None else encoder.commit, size=staged.size)
        begin()
        with storage.lock(folder):
            done = _publish(folder, meta, commit, staged, before, again)
            if done is commit:
                # A reader of the shard that was there before may have written the summary meanwhile.
                log = partial(write_log, folder, done, dict(run))
                call_all(folder, [partial(remove_summary, folder), log])
    return done


def _publish(folder: Path, meta: ColumnMeta, ours: Commit, staged: Staged, before: Seen | None, again: bool) -> Commit:
    """Put a shard in place of what its writer saw; return the commit that is there then: ours, or another writer's equal one."""
    storage, path = storage_of(folder), folder / ours.file
    _require_same_inputs(folder, ours)
    for _ in range(_TRIES):
        now = seen_commit(folder, ours.shard, meta)
        if now is not None and (theirs := _theirs(now, ours, before, again)) is not None:
            return theirs
        try:
            if now is not None:
                remove_summary(folder)
            storage.put(staged, path, None if now is None else now.token)
        except RefusedError:  # somebody came between: look again
            continue
        except LostAnswerError:
            if not _is_ours(folder, ours, meta):
                raise
        return ours
    raise _conflict(ours, "other writers replace it all the time")


def _theirs(now: Seen, ours: Commit, before: Seen | None, again: bool) -> Commit | None:
    """The commit that is there, if it stays; None if ours may replace it."""
    theirs = now.commit
    if theirs is None or theirs.seal == ours.seal:
        return theirs
    known = before is not None and (
        now.token == before.token or (before.commit is not None and before.commit.seal == theirs.seal)
    )
    same = theirs.same_inputs(ours)
    if known and (again or not same):
        return None
    if not same:
        raise _conflict(ours, f"another writer committed {theirs.seal} from other inputs, ours is {ours.seal}")
    warnings.warn(
        f"{ours.place}: shard {ours.shard}: another writer committed {theirs.seal} from the same inputs, ours would be "
        f"{ours.seal}; theirs is kept",
        stacklevel=5,
    )
    return theirs


def _conflict(ours: Commit, why: str) -> ConflictError:
    return ConflictError(
        f"{ours.place}: shard {ours.shard}: {why}; stop the other run, then run it again",
        place=ours.place,
        shard=ours.shard,
    )


def _is_ours(folder: Path, ours: Commit, meta: ColumnMeta) -> bool:
    now = seen_commit(folder, ours.shard, meta)
    return now is not None and now.commit is not None and now.commit.seal == ours.seal


def _require_same_inputs(folder: Path, ours: Commit) -> None:
    """Raise ConflictError where the column's parameters, or what the shard was computed from, are not what they were."""
    look = Lineage(folder.parents[ours.place.count("/")])
    checks = [partial(_require_same_upstream, look, ours, *read) for read in ours.upstream.items()]
    call_all(folder, [partial(_require_same_column, folder, ours), *checks])


def _require_same_column(folder: Path, ours: Commit) -> None:
    current = _current(folder)
    if current is None or current.fingerprint != ours.fingerprint:
        raise ConflictError(
            f"{ours.place}: begun with other parameters while shard {ours.shard} was computed; run it again",
            place=ours.place,
            shard=ours.shard,
        )
    if len(current.shard_range(ours.shard)) != len(ours.counts):
        raise ConflictError(
            f"{ours.place}: another run added images to the split while shard {ours.shard} was computed; run it again",
            place=ours.place,
            shard=ours.shard,
        )


def _require_same_upstream(look: Lineage, ours: Commit, name: str, content: str) -> None:
    if name.startswith(FILE):
        return
    upstream, number = upstream_place(ours.place, name, ours.shard)
    try:
        now = look.commit(upstream, number)
    except DamagedStoreError:
        return  # the damage is reported elsewhere; ours was computed from what was there before
    if now is not None and now.content != content:
        raise ConflictError(
            f"{ours.place}: shard {ours.shard}: {upstream} was computed again meanwhile; run it again",
            place=ours.place,
            shard=ours.shard,
        )


def finish_column(folder: Path, place: str, look: Lineage | None = None) -> bool:
    """Write the summary of a column that is finished, so that opening it takes two reads; return whether it is there now.

    ``look``: what was seen of the store, where nothing was written since; default: every record is read again.
    """
    look = look or Lineage(folder.parents[place.count("/")])
    try:
        meta = look.meta(place)
        look.read_shards(place)
        if meta is None or any(look.why_not_readable(place, shard) for shard in range(meta.shards)):
            return False
        commits = [commit for shard in range(meta.shards) if (commit := look.commit(place, shard)) is not None]
        return write_summary(folder, meta, commits)
    except DamagedStoreError:
        return False


def _current(folder: Path) -> ColumnMeta | None:
    try:
        return read_column(folder)
    except DamagedStoreError:
        return None  # it is replaced, which repairs it


def _zarr_intact(folder: Path, meta: ColumnMeta) -> bool:
    path = folder / ZARR_JSON
    if meta.array is None:
        return True
    return is_plain_file(path) and hashlib.sha256(read_object(path)).hexdigest() == meta.zarr_sha256
