"""Reads and writes ``column.json``: what a column is, and ``commits/*.json``: which of its shards are done."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from .errors import DamagedStoreError, StoreError
from .files import cached_sha256, canonical_json, read_json, write_json
from .layout import COLUMN_JSON, COMMITS, commit_file
from .listing import entries, files_below, is_plain_file, is_there
from .meta import ArrayLayout, ColumnMeta, Commit, fingerprint, parse_column, parse_commit

__all__ = [
    "ArrayLayout",
    "ColumnMeta",
    "Commit",
    "announce_commit",
    "committed_shards",
    "fingerprint",
    "left_beyond",
    "load_column",
    "read_column",
    "read_commit",
    "settle",
    "write_commit",
]


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
