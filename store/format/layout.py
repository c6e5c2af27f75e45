"""Every path of the store, and what there is below it. Paths are relative, POSIX, and made of checked names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..addresses import SCHEMES, is_remote, is_web
from ..errors import StoreError
from ..storage.listing import entries, entries_of, is_folder, is_plain_file, is_there, state_of, walk
from ..storage.protocol import Entry
from ..storage.requests import at_once
from .names import meant

FORMAT_VERSION = 2
"""Version of the format on disk (docs/format.md)."""

COLUMN_JSON = "column.json"
ZARR_JSON = "zarr.json"
SUMMARY_JSON = "summary.json"
LOG = "log"
"""Name of a folder in a column's folder, with how each shard was made. It is not part of what the column holds."""
UNUSED = "unused"
"""Empty file that marks a column as not current, and as not named by the parameters that were last used."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TABLE, _CHUNK = (re.compile(rf"[0-9]+{ending}") for ending in (r"\.parquet", ""))
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # also as pathlib leaves it, with one slash; C:/ is a drive


def is_name(name: str) -> bool:
    """Whether a text can be the name of a data set, a split or a part of a column: names become folder names."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return ``name`` (of a data set, split, column part), or raise StoreError where it cannot be a name."""
    if not is_name(name):
        raise StoreError(
            f"found the name {name!r}, expected letters, digits, '_', '-', '.', starting with a letter or digit"
        )
    return name


def place_of(dataset: str, column: str, split: str) -> str:
    """Place of a column of a split: ``<dataset>/<column>/<split>``. Records name it, and it is the path below the store."""
    return f"{dataset}/{column}/{split}"


def parts_of(place: str) -> tuple[str, str, str]:
    """Data set, column and split of a place; raises StoreError for any other text."""
    dataset, _, rest = place.partition("/")
    column, _, split = rest.rpartition("/")
    if not column:
        raise StoreError(f"found the place {place!r}, expected <dataset>/<column>/<split>", place=place)
    return dataset, column, split


def column_dir(store: Path, place: str) -> Path:
    """Folder of a place; raises StoreError where a part of the place cannot be the name of a folder."""
    return store.joinpath(*(check_name(part) for part in place.split("/")))


def table_file(shard: int) -> str:
    """Data file of a table's shard, relative to its column."""
    return f"{shard:05d}.parquet"


def array_file(shard: int, ndim: int) -> str:
    """Data file of an array's shard (Zarr v3 default chunk key), relative to its column."""
    return "/".join(["c", str(shard)] + ["0"] * (ndim - 1))


def log_file(shard: int) -> str:
    """How a shard was made, relative to its column."""
    return f"{LOG}/{shard:05d}.json"


def store_dir(store: str | Path) -> Path:
    """The path of a store, a folder or an address such as ``s3://bucket/store``; StoreError for other addresses."""
    if _ADDRESS.match(str(store)) and not is_remote(store):
        known = ", ".join((*(f"{scheme}://bucket/prefix" for scheme in SCHEMES), "https://host/path"))
        raise StoreError(f"found the store {str(store)!r}, expected a folder or an address: {known}")
    return Path(store)


def find_columns(store: Path, dataset: str, split: str, asked: Sequence[str] | None = None) -> list[str]:
    """Names of all columns of a split, sorted: every folder that holds a ``column.json``. No column lies inside another.

    A folder with shards but without a ``column.json`` is one, too: the file was lost, or is not copied yet.

    Args:
        asked: the columns to look for at a web server, which cannot list what it has.

    Raises:
        OSError: a folder cannot be listed, so that columns might be left out.
        StoreError: nothing can be listed, and no columns were asked for.
    """
    if is_web(store):
        return _those_there(store, dataset, split, asked)
    base, split, found = store / check_name(dataset), check_name(split), []
    level = [base]
    while level:
        below = []
        for folder, inside in zip(level, entries_of(level), strict=True):
            if any(entry.name == COLUMN_JSON for entry in inside) or _has_shards(folder, inside):
                if folder.name == split and folder.parent != base:
                    found.append(folder.parent.relative_to(base).as_posix())
            else:
                below += [folder / entry.name for entry in inside if entry.folder]
        level = below
    return sorted(found)


def _those_there(store: Path, dataset: str, split: str, asked: Sequence[str] | None) -> list[str]:
    if asked is None:
        raise StoreError(f"{store}: a web server does not list what it holds: name the columns to open, columns=[...]")
    names = sorted(set(asked))
    states = at_once(state_of, [column_dir(store, place_of(dataset, name, split)) / COLUMN_JSON for name in names])
    return [name for name, state in zip(names, states, strict=True) if state is not None]


def holds_shards(folder: Path) -> bool:
    """Whether a folder itself holds shards, under their final names. Raises as :func:`find_columns`."""
    return _has_shards(folder, entries(folder))


def _has_shards(folder: Path, inside: Sequence[Entry]) -> bool:
    """As :func:`holds_shards`, for a folder whose entries are known."""
    if any(_TABLE.fullmatch(entry.name) for entry in inside):
        return True
    return any(entry.name == "c" for entry in inside) and any(
        _CHUNK.fullmatch(each.name) for each in entries(folder / "c")
    )


def find_links(store: Path, dataset: str, split: str) -> list[Path]:
    """Links, which are not followed, in the place of a column or a folder of columns. Links of other splits are left out."""
    found: list[Path] = []
    if is_remote(store):  # an object store has no links
        return found
    for folder, folders, files in walk(store / check_name(dataset)):
        if COLUMN_JSON in files:
            folders.clear()
        else:
            found += [folder / name for name in files if not is_plain_file(folder / name)]
    links = [path for path in found if path.is_symlink() and not path.is_file()]
    return [path for path in links if path.name == split or not is_there(path / COLUMN_JSON)]


def find_splits(store: Path) -> dict[str, list[str]]:
    """Data set -> its splits, sorted: those that have a column ``images``.

    Raises:
        OSError: a folder cannot be listed.
    """
    found: dict[str, list[str]] = {}
    for dataset in entries(store):
        images = store / dataset.name / "images"
        for split in entries(images) if is_folder(images) else ():
            if is_there(images / split.name / COLUMN_JSON) or holds_shards(images / split.name):
                found.setdefault(dataset.name, []).append(split.name)
    return found


def what_exists(store: Path, dataset: str | None = None, split: str | None = None) -> str:
    """For a message: what a store (or one of its data sets) holds, or what is next to it where it is not a store.

    Raises:
        OSError: a folder cannot be listed.
    """
    if is_web(store):
        return f"there is no such file at {store}, or it is the address of another store"
    if not is_folder(store):
        parent = next((folder for folder in store.parents if is_folder(folder)), store)
        names = [entry.name for entry in entries(parent) if is_folder(parent / entry.name)]
        hint = _with_folder(meant(store.relative_to(parent).parts[0], names) if store != parent else "", parent, names)
        return f"there is no folder {store} (folders in {parent}: {', '.join(_few(names)) or 'none'}){hint}"
    found = find_splits(store)
    if not found and (above := find_splits(store.parent).get(store.name)):
        return f"{store} is the folder of a data set, with the splits {', '.join(above)}; the store is {store.parent}"
    if dataset in found:
        hint = meant(split, found[dataset]) if split is not None else ""
        return f"the data set {dataset} has the splits {', '.join(_few(found[dataset]))}{_at_the_end(hint)}"
    sets = [f"{name} ({', '.join(_few(splits))})" for name, splits in found.items()]
    if not sets:
        inside = [store / entry.name for entry in entries(store) if is_folder(store / entry.name)]
        stores = [each for each in inside[:_LOOKED_INTO] if find_splits(each)]
        return f"the store {store} holds no data set" + (f"; did you mean {str(stores[0])!r}?" if stores else "")
    return f"the store {store} holds {'; '.join(_few(sets))}{_at_the_end(meant(dataset, found) if dataset else '')}"


_LOOKED_INTO = 20
"""How many folders below one that is not a store are searched for a store."""


def _at_the_end(hint: str) -> str:
    return f"; {hint.strip()}" if hint else ""


def _with_folder(hint: str, parent: Path, names: Sequence[str]) -> str:
    """The hint of :func:`meant` about names of folders, with the whole path of the folder."""
    name = next((name for name in names if repr(name) in hint), None)
    return "" if name is None else _at_the_end(hint.replace(repr(name), repr(str(parent / name))))


def missing_split(store: Path, dataset: str, split: str) -> StoreError:
    """The error for a split that is not there; it names what is there."""
    folder, known = column_dir(store, place_of(dataset, "images", split)), not is_web(store) and is_folder(store)
    return StoreError(
        f"{folder} holds no indexed split; {what_exists(store, dataset, split)}",
        place=f"{dataset}/{split}",
        path=folder,
        reason="not indexed",
        found=find_splits(store) if known else None,
        expected=f"{dataset}/{split}",
    )


def _few(names: list[str]) -> list[str]:
    return names if len(names) <= 12 else [*names[:12], f"and {len(names) - 12} more"]
