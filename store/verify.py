"""Checks that every byte below a split (or the means) is what a commit or ``column.json`` says it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .columns import ColumnMeta, Commit, left_beyond, load_column, read_commit
from .errors import DamagedStoreError, StoreError
from .files import file_sha256, is_being_written
from .layout import (
    COLUMN_JSON,
    COMMITS,
    TEMPORARY,
    ZARR_JSON,
    array_file,
    column_dir,
    commit_file,
    table_file,
)
from .lineage import Lineage, own_meta

_COMMIT_NAME = re.compile(rf"{COMMITS}/(\d{{5,}})\.json")


@dataclass(frozen=True)
class Problem:
    """Damage: where, what was found, and the files that repair may remove so that the shard is computed again."""

    place: str
    shard: int | None
    what: str
    files: tuple[Path, ...] = ()

    def __str__(self) -> str:
        shard = "" if self.shard is None else f" shard {self.shard}"
        return f"{self.place}{shard}: {self.what}"


@dataclass
class Report:
    """What verify saw of ``store``."""

    store: Path
    problems: list[Problem] = field(default_factory=list)
    columns: int = 0
    done: int = 0
    missing: int = 0
    stale: int = 0
    files: int = 0
    bytes: int = 0


def verify(store: Path, places: list[str], deep: bool = False) -> Report:
    """Check folders of the store, e.g. ``demo/val`` or ``means``.

    Args:
        deep: digest every byte; else sizes, commits and identities alone.
    """
    report = Report(store)
    lineage = Lineage(store)
    for base in places:
        known: set[Path] = set()
        folder = column_dir(store, base)
        if not folder.is_dir():
            continue
        for column in _columns(folder):
            name = column.relative_to(folder).as_posix()
            try:
                column_dir(folder, name)
            except StoreError as error:
                report.problems.append(Problem(f"{base}/{name}", None, f"no column can be here: {error}"))
                known |= {column / COLUMN_JSON}
                continue
            report.columns += 1
            _verify_column(lineage, f"{base}/{name}", deep, report, known)
        report.problems += list(_unknown(store, folder, known))
    above = {folder for base in places for folder in column_dir(store, base).parents if folder.is_relative_to(store)}
    report.problems += [
        Problem(path.relative_to(store).as_posix(), None, "unknown file; remove it")
        for folder in sorted(above)
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_symlink() or not path.is_dir()
    ]
    return report


def repair(report: Report) -> list[Path]:
    """Remove what is damaged or unfinished, so that running the pipeline computes just those shards again."""
    removed = []
    root = report.store.resolve()
    for problem in report.problems:
        for path in problem.files:
            if not path.parent.resolve().is_relative_to(root):
                continue  # behind the link of a folder: not ours
            if path.is_symlink() or path.exists():
                path.unlink()
                removed.append(path)
    return removed


def _columns(folder: Path) -> list[Path]:
    """Every folder that is a column, also one that lost its ``column.json`` or never got so far."""
    found = {path.parent for name in (COLUMN_JSON, ZARR_JSON) for path in folder.rglob(name)}
    found |= {path.parent for path in folder.rglob(COMMITS) if any(map(_is_commit, path.glob("*.json")))}
    return sorted(found)


def _is_commit(path: Path) -> bool:
    return bool(_COMMIT_NAME.fullmatch(f"{path.parent.name}/{path.name}"))


def _verify_column(lineage: Lineage, place: str, deep: bool, report: Report, known: set[Path]) -> None:
    folder = column_dir(lineage.store, place)
    known |= {folder / COLUMN_JSON, folder / ZARR_JSON}
    try:
        meta = own_meta(place, load_column(folder))
    except StoreError as error:
        # A format version that is only newer is no damage to be removed.
        files = (folder / COLUMN_JSON,) if isinstance(error, DamagedStoreError) else ()
        report.problems.append(Problem(place, None, str(error), files))
        known |= {path for path in folder.rglob("*") if path.is_file()}
        return
    if meta is None:  # the commits are judged by themselves as soon as the next run has written it anew
        lost = Problem(place, None, "column.json is missing", (folder / COLUMN_JSON, folder / ZARR_JSON))
        report.problems.append(lost)
        known |= {path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(TEMPORARY)}
        return
    report.files += 1
    report.bytes += (folder / COLUMN_JSON).stat().st_size
    _verify_zarr_json(folder, place, meta, report)
    for shard in range(meta.shards):
        _verify_shard(lineage, place, folder, meta, shard, deep, report, known)
    beyond = left_beyond(folder, meta.shards)
    known |= set(beyond)
    report.problems += [
        Problem(place, None, f"{path.relative_to(folder).as_posix()} is of no shard (left by a killed run)", (path,))
        for path in beyond
    ]


def _verify_zarr_json(folder: Path, place: str, meta: ColumnMeta, report: Report) -> None:
    path = folder / ZARR_JSON
    if meta.array is None:
        if path.exists():
            report.problems.append(Problem(place, None, "a table has a zarr.json", (path,)))
        return
    if not path.is_file() or path.is_symlink():
        report.problems.append(Problem(place, None, "zarr.json is missing", (path,)))
    elif hashlib.sha256(path.read_bytes()).hexdigest() != meta.zarr_sha256:
        report.problems.append(Problem(place, None, "zarr.json is not what column.json says", (path,)))
    else:
        report.files += 1
        report.bytes += path.stat().st_size


def _verify_shard(
    lineage: Lineage,
    place: str,
    folder: Path,
    meta: ColumnMeta,
    shard: int,
    deep: bool,
    report: Report,
    known: set[Path],
) -> None:
    file = table_file(shard) if meta.array is None else array_file(shard, 1 + len(meta.array.row_shape))
    data, receipt = folder / file, folder / commit_file(shard)
    known |= {data, receipt}
    try:
        commit = read_commit(folder, shard)
    except StoreError as error:
        files = (receipt, data) if isinstance(error, DamagedStoreError) else ()
        report.problems.append(Problem(place, shard, str(error), files))
        return
    if commit is None:
        report.missing += 1
        if data.is_symlink() or data.exists():
            report.problems.append(
                Problem(place, shard, f"{file} has no commit (a run was killed, or the commit was lost)", (data,))
            )
        return
    trouble = _trouble(place, data, file, commit, deep)
    if trouble:
        report.problems.append(Problem(place, shard, trouble, (receipt, data)))
        return
    report.files += 2
    report.bytes += commit.size + receipt.stat().st_size
    try:
        current = lineage.why_not_current(place, shard) is None
    except StoreError:  # upstream is damaged, and is reported where it is
        current = False
    if current:
        report.done += 1
    else:
        report.stale += 1


def _trouble(place: str, data: Path, file: str, commit: Commit, deep: bool) -> str | None:
    if commit.place != place or commit.file != file:
        return f"the commit is that of {commit.place}, file {commit.file}"
    if data.is_symlink() or not data.is_file():
        return f"{file} is missing"
    if data.stat().st_size != commit.size:
        return f"{file} has {data.stat().st_size} bytes, expected {commit.size}"
    if deep and file_sha256(data) != commit.sha256:
        return f"{file} has other bytes than were committed"
    return None


def _unknown(store: Path, folder: Path, known: set[Path]) -> Iterator[Problem]:
    """Every file that no column accounts for. Only what our own writer can have left is offered for removal."""
    for path in sorted(folder.rglob("*")):
        if path in known or (path.is_dir() and not path.is_symlink()):
            continue
        if path.name.startswith(TEMPORARY) and is_being_written(path):
            continue  # a run is at work
        if path.name == ".gitignore":
            continue  # DVC's, where the store's folder is not ignored as a whole
        place = path.relative_to(store).as_posix()
        ours = path.name.startswith(TEMPORARY)
        yield Problem(
            place, None, "unknown file" + (" left by a killed run" if ours else "; remove it"), (path,) if ours else ()
        )
