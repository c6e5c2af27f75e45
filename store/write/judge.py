"""What is wrong in one column at this moment: :mod:`store.write.verify` asks, and asks again under the column's lock."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DamagedStoreError, StoreError
from ..format.column import ColumnMeta, Commit, load_column
from ..format.layout import COLUMN_JSON, SUMMARY_JSON, UNUSED, ZARR_JSON, column_dir, holds_shards, log_file
from ..format.lineage import Lineage, own_meta
from ..format.links import link_arrays
from ..format.shard import is_whole, left_beyond, read_commit, shard_path
from ..format.summary import parse_summary
from ..storage.files import TEMPORARY
from ..storage.leftovers import is_certainly_left
from ..storage.listing import entries, files_below, is_plain_file, is_there, state_of, walk
from ..storage.objects import read_json, read_object


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
    absent: list[str] = field(default_factory=list)
    """Folders that were to be checked and are not there."""
    deep: bool = False


def columns_below(folder: Path) -> list[Path]:
    """Every folder that is a column, also one that lost its ``column.json`` or never had one."""
    return [path for path, folders, files in walk(folder) if _is_column(path, {*folders, *files})]


def is_column(folder: Path) -> bool:
    """Whether a folder is a column, as :func:`columns_below` has it."""
    return _is_column(folder, {entry.name for entry in entries(folder)})


def _is_column(folder: Path, names: set[str]) -> bool:
    return COLUMN_JSON in names or ZARR_JSON in names or holds_shards(folder)


def judge(lineage: Lineage, place: str, report: Report) -> list[Problem]:
    """Everything that is wrong in a column at this moment."""
    folder = column_dir(lineage.store, place)
    report.columns = 1
    known = {folder / name for name in (COLUMN_JSON, ZARR_JSON, UNUSED, SUMMARY_JSON)}
    try:
        meta = own_meta(place, load_column(folder))
    except StoreError as error:
        # A newer format version is not damage, and must not be removed.
        files = (folder / COLUMN_JSON,) if isinstance(error, DamagedStoreError) else ()
        return [Problem(place, None, str(error), files)]
    except FileNotFoundError:
        meta = None
    if meta is None:  # the shards are judged by themselves as soon as the next run has written it again
        lost = Problem(place, None, "column.json is missing", (folder / COLUMN_JSON, folder / ZARR_JSON))
        left = [path for path in files_below(folder) if path.name.startswith(TEMPORARY)]
        return [lost, *(problem for path in left for problem in unknown_file(lineage.store, path))]
    report.files += 1
    report.bytes += _size(folder / COLUMN_JSON)
    problems = _judge_zarr_json(folder, place, meta, report)
    commits: list[Commit | None] = []
    for shard in range(meta.shards):
        found, commit = _judge_shard(lineage, place, folder, meta, shard, report, known)
        problems += found
        commits.append(commit)
    problems += _judge_summary(folder, place, meta, commits, report)
    beyond = left_beyond(folder, meta.shards)
    known |= set(beyond)
    problems += [
        Problem(
            place, None, f"{path.relative_to(folder).as_posix()} belongs to no shard (left by a killed run)", (path,)
        )
        for path in beyond
    ]
    unknown = (path for path in _own_files(folder) if path not in known)
    return problems + [problem for path in unknown for problem in unknown_file(lineage.store, path)]


def _own_files(folder: Path) -> list[Path]:
    """The files below a column that are in no other column."""
    found = []
    for path, folders, files in walk(folder):
        if path != folder and _is_column(path, {*folders, *files}):
            folders.clear()
        else:
            found += [path / name for name in files]
    return found


def _judge_zarr_json(folder: Path, place: str, meta: ColumnMeta, report: Report) -> list[Problem]:
    path = folder / ZARR_JSON
    if meta.array is None:
        return [Problem(place, None, "a table has a zarr.json", (path,))] if is_there(path) else []
    if not is_plain_file(path):
        return [Problem(place, None, "zarr.json is missing", (path,))]
    if _sha256(path) != meta.zarr_sha256:
        return [Problem(place, None, "zarr.json is not what column.json says", (path,))]
    report.files += 1
    report.bytes += _size(path)
    return []


def _judge_shard(
    lineage: Lineage, place: str, folder: Path, meta: ColumnMeta, shard: int, report: Report, known: set[Path]
) -> tuple[list[Problem], Commit | None]:
    path = shard_path(folder, shard, meta)
    known |= {path, folder / log_file(shard)}
    try:
        commit = read_commit(folder, shard, meta)
        trouble = None if commit is None else _trouble(place, folder, commit, report.deep)
        if commit is not None and meta.holder is not None and commit.fingerprint == meta.fingerprint:
            link_arrays(commit)
    except FileNotFoundError:  # gone since it was looked at
        commit, trouble = None, None
    except StoreError as error:
        return [Problem(place, shard, str(error), (path,) if isinstance(error, DamagedStoreError) else ())], None
    if commit is None:
        report.missing += 1
        return [], None
    if trouble:
        return [Problem(place, shard, trouble, (path,))], None
    report.files += 1
    report.bytes += commit.size
    try:
        current = lineage.why_not_current(place, shard) is None
    except StoreError:  # upstream is damaged, and is reported where it is
        current = False
    if current:
        report.done += 1
    else:
        report.stale += 1
    return [], commit


def _trouble(place: str, folder: Path, commit: Commit, deep: bool) -> str | None:
    if commit.place != place:
        return f"{commit.file} is that of {commit.place}"
    if deep and not is_whole(folder, commit):
        return f"{commit.file} has other bytes than were committed"
    return None


def _judge_summary(
    folder: Path, place: str, meta: ColumnMeta, commits: Sequence[Commit | None], report: Report
) -> list[Problem]:
    """The problem of a summary whose entries are not its shards' commits. One of other parameters or fewer images is ignored."""
    path = folder / SUMMARY_JSON
    if not is_there(path):
        return []
    try:
        summarised = parse_summary(read_json(path), path, meta)
    except FileNotFoundError:
        return []
    except StoreError as error:
        return [Problem(place, None, str(error), (path,))]
    if summarised and list(commits) != summarised:
        return [Problem(place, None, "summary.json is not that of its shards (left by a killed run)", (path,))]
    report.files += 1
    report.bytes += _size(path)
    return []


def _size(path: Path) -> int:
    state = state_of(path)
    return 0 if state is None else state.size


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(read_object(path)).hexdigest()
    except FileNotFoundError:
        return ""


def unknown_file(store: Path, path: Path) -> Sequence[Problem]:
    """What a file that no column accounts for is. Only what our own writer can have left is offered for removal."""
    if path.name == ".gitignore":
        return ()  # DVC's, where the store's folder is not ignored as a whole
    ours = path.name.startswith(TEMPORARY)
    if ours and not is_certainly_left(path):
        return ()  # a run is at work
    what = "unknown file" + (" left by a killed run" if ours else "; remove it")
    return (Problem(path.relative_to(store).as_posix(), None, what, (path,) if ours else ()),)
