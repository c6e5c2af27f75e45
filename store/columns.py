"""Reads and writes ``column.json``: what a column is, and ``commits/*.json``: which of its shards are done."""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from .files import read_json, write_json
from .layout import COLUMN_JSON, COMMITS, commit_file
from .meta import ArrayLayout, ColumnMeta, Commit, fingerprint, parse_column, parse_commit

__all__ = [
    "ArrayLayout",
    "ColumnMeta",
    "Commit",
    "fingerprint",
    "left_beyond",
    "load_column",
    "read_column",
    "read_commit",
    "write_column",
    "write_commit",
]


def write_column(folder: Path, meta: ColumnMeta) -> None:
    """Replace ``column.json``."""
    write_json(folder / COLUMN_JSON, asdict(meta))


def load_column(folder: Path) -> ColumnMeta | None:
    """Read ``column.json`` from the disk; None when there is none.

    Raises:
        DamagedStoreError: it does not hold what was written.
        StoreError: it is of a format version that this reader does not know.
    """
    path = folder / COLUMN_JSON
    if not path.is_symlink() and not path.exists():
        return None
    return parse_column(read_json(path), path)


def read_column(folder: Path) -> ColumnMeta | None:
    """:func:`load_column`, parsed once for as long as the file is not replaced: that of ``images`` has a line an image."""
    try:
        state = (folder / COLUMN_JSON).lstat()
    except FileNotFoundError:
        return None
    return _column_of_version(folder, state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)


@lru_cache(maxsize=256)
def _column_of_version(folder: Path, inode: int, mtime_ns: int, ctime_ns: int, size: int) -> ColumnMeta | None:
    return load_column(folder)


def write_commit(folder: Path, commit: Commit) -> None:
    """Write a shard's commit; from now on the shard is done."""
    write_json(folder / commit_file(commit.shard), asdict(commit))


def read_commit(folder: Path, shard: int) -> Commit | None:
    """Read a shard's commit; None when the shard is not computed. Raises as :func:`read_column`."""
    path = folder / commit_file(shard)
    try:
        return parse_commit(read_json(path), path, shard)
    except (FileNotFoundError, NotADirectoryError):
        return None


def left_beyond(folder: Path, shards: int) -> list[Path]:
    """Commits and data files of shards past the last one, commits first: shards were smaller under other parameters.

    What lies behind the link of a folder is not ours.
    """
    numbers = {path: path.stem for path in [*(folder / COMMITS).glob("*.json"), *folder.glob("*.parquet")]}
    numbers |= {path: path.relative_to(folder).parts[1] for path in folder.glob("c/**/*") if path.is_file()}
    beyond = [path for path, number in numbers.items() if number.isdigit() and int(number) >= shards]
    return [path for path in beyond if path.parent.resolve().is_relative_to(folder.resolve())]
