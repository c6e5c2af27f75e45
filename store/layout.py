"""Every path of the store, and nothing else. Paths are relative, POSIX, and made of checked names."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .errors import StoreError

FORMAT_VERSION = 1
"""Version of the format on disk (docs/format.md)."""

COLUMN_JSON = "column.json"
ZARR_JSON = "zarr.json"
COMMITS = "commits"
TEMPORARY = ".tmp-"
"""Prefix of files that are being written; never part of the store."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_name(name: str) -> str:
    """Return ``name`` (of a data set, split, column part) or raise: names become folder names."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"found the name {name!r}, expected letters, digits, '_', '-', '.', starting with a letter or digit"
        )
    return name


def split_dir(store: Path, dataset: str, split: str) -> Path:
    """Folder of a split: ``<store>/<dataset>/<split>``."""
    return store / check_name(dataset) / check_name(split)


def column_dir(base: Path, column: str) -> Path:
    """Folder of a column below a split (or below the store, for ``means/...``)."""
    return base.joinpath(*(check_name(part) for part in column.split("/")))


def table_file(shard: int) -> str:
    """Data file of a table's shard, relative to its column."""
    return f"{shard:05d}.parquet"


def array_file(shard: int, ndim: int) -> str:
    """Data file of an array's shard (Zarr v3 default chunk key), relative to its column."""
    return "/".join(["c", str(shard)] + ["0"] * (ndim - 1))


def commit_file(shard: int) -> str:
    """Commit of a shard, relative to its column."""
    return f"{COMMITS}/{shard:05d}.json"


def mean_column(name: str, encoder: str) -> str:
    """Column of a train mean, relative to the store."""
    return f"means/{check_name(name)}/{check_name(encoder)}"


def find_columns(base: Path) -> list[str]:
    """Names of all columns below a split folder, sorted: every folder that holds a ``column.json``. A column holds no other."""
    found = []
    for folder, folders, files in os.walk(base):
        if COLUMN_JSON in files or COLUMN_JSON in folders:
            found.append(Path(folder).relative_to(base).as_posix())
            folders.clear()
    return sorted(found)
