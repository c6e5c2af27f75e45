"""Checks that what is below a split (or the means) is what was committed: the records, and with ``deep`` every byte.

Writers may be at work meanwhile. Whatever looks damaged is looked at again under the column's lock, when nothing is half
done: only what is wrong then is damage, and only that is ever removed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..errors import StoreError
from ..format.layout import COLUMN_JSON, column_dir, parts_of, what_exists
from ..format.lineage import Lineage
from ..format.summary import remove_summary
from ..storage.files import TEMPORARY
from ..storage.leftovers import remove_left
from ..storage.listing import entries, files_below, is_folder, walk
from ..storage.mounts import storage_of
from .judge import Problem, Report, columns_below, is_column, judge, unknown_file

__all__ = ["Problem", "Report", "repair", "verify"]


def verify(store: Path, places: list[str], deep: bool = False) -> Report:
    """Check parts of a store: data sets (``demo``), splits of them (``demo/val``), or ``means``.

    Args:
        deep: digest every byte; else check only records and identities.

    Raises:
        StoreError: they are missing, or hold no column: nothing was checked.
        OSError: a folder cannot be listed, or a file cannot be read.
    """
    report = Report(store, deep=deep)
    for dataset in dict.fromkeys(place.partition("/")[0] for place in places):
        splits = [place.partition("/")[2] for place in places if place.partition("/")[0] == dataset]
        _verify_folder(store, dataset, splits, report)
    if not report.columns and not report.problems:
        raise StoreError(f"nothing to check in {', '.join(places)}: {what_exists(store)}")
    loose = [unknown_file(store, store / entry.name) for entry in entries(store) if not entry.folder]
    report.problems += [problem for problems in loose for problem in problems]
    return report


def repair(report: Report, wanted: Callable[[Problem], bool] = lambda problem: True) -> list[Path]:
    """Remove what is damaged or unfinished, so that running the pipeline computes just those shards again.

    Everything is judged again under its column's lock first: what a running writer has made good stays.

    Args:
        wanted: which problems to deal with.
    """
    removed: list[Path] = []
    columns = dict.fromkeys(problem.place for problem in report.problems if problem.files)
    for place in columns:
        folder = column_dir(report.store, place) if _is_a_place(report.store, place) else None
        if folder is not None and is_folder(folder) and is_column(folder):
            with storage_of(folder).lock(folder):
                problems = judge(Lineage(report.store), place, Report(report.store, deep=report.deep))
                mine = [problem for problem in problems if problem.files and wanted(problem)]
                if any(problem.shard is not None for problem in mine):
                    remove_summary(folder)
                removed += _remove(report.store, mine)
        else:
            removed += _remove(report.store, (item for item in report.problems if item.place == place and wanted(item)))
    return removed


def _is_a_place(store: Path, place: str) -> bool:
    with contextlib.suppress(StoreError):
        column_dir(store, place)
        return True
    return False


def _remove(store: Path, problems: Iterable[Problem]) -> list[Path]:
    removed, root = [], store.resolve()
    for path in dict.fromkeys(path for problem in problems for path in problem.files):
        if not path.parent.resolve().is_relative_to(root):
            continue  # reached through the link of a folder: not ours
        if path.name.startswith(TEMPORARY):
            removed += [path] if remove_left(path) else []
        elif storage_of(path).delete(path):
            removed.append(path)
    return removed


def _verify_folder(store: Path, dataset: str, splits: list[str], report: Report) -> None:
    """A data set or the means: the columns of the splits (an empty name: of all), and the files that belong to none."""
    folder = column_dir(store, dataset)
    lineage = Lineage(store)
    columns = columns_below(folder)
    chosen = [path for path in columns if "" in splits or path.name in splits]
    report.absent += [
        f"{dataset}/{split}".rstrip("/") for split in splits if not any(split in ("", path.name) for path in chosen)
    ]
    judged = {path: _verify_column(lineage, path.relative_to(store).as_posix(), report) for path in chosen}
    unknown = [problem for path in _outside(folder, set(columns)) for problem in unknown_file(store, path)]
    if unknown:  # also the files of columns that a writer began since they were listed: these are newer than this look
        born = set(columns_below(folder)) - set(columns)
        unknown = [item for item in unknown if born.isdisjoint((store / item.place).parents)]
    report.problems += [problem for problems in judged.values() for problem in problems] + unknown


def _outside(folder: Path, columns: set[Path]) -> Iterator[Path]:
    """Files below a folder that are in no column."""
    for path, folders, files in walk(folder):
        if path in columns:
            folders.clear()
        else:
            yield from (path / name for name in files)


def _verify_column(lineage: Lineage, place: str, report: Report) -> list[Problem]:
    """The problems of a column, each still there under its lock; counts what was seen."""
    store = lineage.store
    folder = store / place
    try:
        column_dir(store, place)
        parts_of(place)
    except StoreError as error:
        others = [path for path in files_below(folder) if path != folder / COLUMN_JSON]
        here = Problem(place, None, f"no column can be here: {error}")
        return [here, *(problem for path in others for problem in unknown_file(store, path))]
    counted = Report(store, deep=report.deep)
    problems = judge(lineage, place, counted)
    if problems:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(StoreError):  # where there are no locks, nobody writes either
                stack.enter_context(storage_of(folder).lock(folder))
            counted = Report(store, deep=report.deep)
            problems = judge(Lineage(store), place, counted)
    for name in ("columns", "done", "missing", "stale", "files", "bytes"):
        setattr(report, name, getattr(report, name) + getattr(counted, name))
    return problems
