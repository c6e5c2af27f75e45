"""``summary.json``: the commits of a finished column in one object. It is a cache: what counts is the shard's own file.

It is removed before a shard is replaced, and again after that, so it is out of date only if a process died in between. A reader
of a shard compares its commit with the summary's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DamagedStoreError, StoreError
from ..storage.mounts import storage_of
from ..storage.objects import read_json, read_object, sealed
from ..storage.protocol import RefusedError
from ..storage.requests import call_all
from .column import NOT_STORED, ColumnMeta, Commit, parse_commit
from .layout import FORMAT_VERSION, SUMMARY_JSON
from .shard import read_commit

_distrusted: set[tuple[Path, str]] = set()
"""Summaries that this process found to be out of date, by their tokens."""


def read_summary(folder: Path, place: str, meta: ColumnMeta) -> Sequence[Commit]:
    """A finished column's commits, by shard; empty where there is no summary, or none that can be used."""
    path = folder / SUMMARY_JSON
    try:
        state = storage_of(path).stat(path)
        if state is None or (path, state.token) in _distrusted:
            return ()
        commits = parse_summary(read_json(path), path, meta)
    except (FileNotFoundError, StoreError):
        return ()
    return commits if all(commit.place == place for commit in commits) else ()


def parse_summary(value: dict[str, Any], path: Path, meta: ColumnMeta) -> list[Commit]:
    """The commits in a summary; none when it was made with other parameters or for fewer images.

    Raises:
        DamagedStoreError: it does not hold what was written.
    """
    if value.keys() != {"format_version", "fingerprint", "images", "shards"} or not isinstance(value["shards"], list):
        raise DamagedStoreError(f"{path}: found no summary of a column")
    of_column = (value["format_version"], value["fingerprint"], value["images"], len(value["shards"]))
    if of_column != (FORMAT_VERSION, meta.fingerprint, meta.images, meta.shards):
        return []
    return [_commit(record, path, shard) for shard, record in enumerate(value["shards"])]


def _commit(record: Any, path: Path, shard: int) -> Commit:
    if not isinstance(record, dict):
        raise DamagedStoreError(f"{path}: found no record of shard {shard}")
    return parse_commit(record, path, shard)


def distrust_summary(folder: Path) -> None:
    """Take no commits from the summary that a column has now: it was found to be out of date."""
    path = folder / SUMMARY_JSON
    state = storage_of(path).stat(path)
    if state is not None:
        _distrusted.add((path, state.token))


def remove_summary(folder: Path, durable: bool = True) -> None:
    """Remove the summary of a column, if there is one: a shard is about to change, or did.

    ``durable``: a power loss does not bring it back. A summary made with other parameters may come back, since it is ignored.
    """
    path = folder / SUMMARY_JSON
    storage_of(path).delete(path, durable=durable)


def _is_now(path: Path, data: bytes) -> bool:
    try:
        return read_object(path) == data
    except (FileNotFoundError, DamagedStoreError):
        return False


def write_summary(folder: Path, meta: ColumnMeta, commits: Sequence[Commit]) -> bool:
    """Write the summary of a finished column; return whether there is one that fits now.

    Args:
        commits: of every shard, each read from its file.
    """
    path, storage = folder / SUMMARY_JSON, storage_of(folder)
    records = [{name: value for name, value in asdict(commit).items() if name not in NOT_STORED} for commit in commits]
    value = {
        "format_version": FORMAT_VERSION,
        "fingerprint": meta.fingerprint,
        "images": meta.images,
        "shards": records,
    }
    data = sealed(value)
    if _is_now(path, data):
        return True  # whoever replaces a shard removes it first
    with storage.stage(path, [data]) as staged:
        try:
            storage.delete(path)
            storage.put(staged, path, None, durable=False)
        except RefusedError:  # another writer finished the column just now
            return False
    # If a shard was replaced since its commit was read, its writer found no summary to remove.
    if not all(call_all(folder, [partial(_is_still, folder, meta, commit) for commit in commits])):
        storage.delete(path)
        return False
    return True


def _is_still(folder: Path, meta: ColumnMeta, commit: Commit) -> bool:
    try:
        now = read_commit(folder, commit.shard, meta)
    except StoreError:
        return False
    return now is not None and now.seal == commit.seal
