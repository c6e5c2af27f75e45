"""Which shards of which columns are done, missing or stale, and why. Nothing is written here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import InputError, Settings
from pipeline.graph import (
    STAGES,
    column_identity,
    differences,
    is_reduced,
    reduced,
    specs,
    stage_specs,
    upstream_columns,
)
from pipeline.look import Look
from stages.base import ColumnSpec, Entry
from stages.datasets import DATASETS
from stages.datasets.base import DatasetError, Source
from stages.index import order, reading, source_files
from stages.names import SplitRef, did_you_mean
from store.errors import DamagedStoreError
from store.format import layout
from store.format.column import ColumnMeta, fingerprint, read_column
from store.format.layout import column_dir, find_splits, what_exists
from store.format.lineage import FILE, Lineage
from store.format.shard import committed_shards, read_commit
from store.format.tables import read_table
from store.storage.listing import folders, is_folder

DONE, MISSING, STALE, DAMAGED = "done", "missing", "stale", "damaged"


@dataclass(frozen=True)
class ShardState:
    """done, missing, or stale or damaged with the reason."""

    state: str
    reason: str = ""


@dataclass(frozen=True)
class ColumnPlan:
    """A column of a split as the settings want it, beside what is on disk.

    ``begun``: ``column.json`` and ``zarr.json`` say what they have to. ``entries``: the images' order, for the index.
    ``found``: the fingerprint that ``column.json`` has now; None without one. ``replaces``: shards of another fingerprint
    that a reader can read now, and could not once the column is begun; ``changes``: what differs.
    """

    spec: ColumnSpec
    place: str
    folder: Path
    meta: ColumnMeta
    shards: tuple[ShardState, ...]
    begun: bool
    entries: tuple[Entry, ...] = ()
    found: str | None = None
    replaces: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def todo(self) -> list[int]:
        """Shards that are not done."""
        return [number for number, shard in enumerate(self.shards) if shard.state != DONE]


def place_of(settings: Settings, split: SplitRef | None, column: str) -> str:
    """``<dataset>/<column>/<split>``; for a column that is reduced over splits, its name alone."""
    if split is None or is_reduced(settings, column):
        return column
    return layout.place_of(split.dataset, column, split.split)


def split_of(settings: Settings, place: str) -> tuple[SplitRef, str] | None:
    """The split and the column of a place, the column empty for a split as a whole; None where it is of no split of the params."""
    if place.count("/") > 1:
        dataset, column, split = layout.parts_of(place)
    else:
        (dataset, _, split), column = place.partition("/"), ""
    found = SplitRef(dataset, split)
    return (found, column) if found in settings.splits else None


def wanted_columns(settings: Settings) -> dict[str, tuple[str, SplitRef | None]]:
    """Place -> (column, split) of every column that the settings ask for; the split of a reduced column is None."""
    found: dict[str, tuple[str, SplitRef | None]] = {name: (name, None) for name in reduced(settings)}
    for split in settings.splits:
        for column, spec in specs(settings, split.dataset).items():
            if spec.over is None:
                found[place_of(settings, split, column)] = (column, split)
    return found


def upstream_shards(
    settings: Settings, column: str, split: SplitRef | None, shard: int
) -> list[tuple[str, SplitRef | None, int]]:
    """(column, split, shard) of all that a shard is computed from, in the order in which a reduction takes them.

    That of a column of a split: the same shard of each column that it reads, or the only one of a reduced column. That of a
    reduced column: every shard of the columns that it reads, split by split.
    """
    reads = upstream_columns(settings, column, split)
    if not is_reduced(settings, column):
        return [(read, where, 0 if where is None else shard) for read, where in reads]
    counts = {where: shard_count(settings, where) for where in {where for _, where in reads if where is not None}}
    return [(read, where, number) for read, where in reads for number in range(1 if where is None else counts[where])]


def shard_count(settings: Settings, split: SplitRef) -> int:
    """How many shards the columns of a split have."""
    return -(-len(known_sources(settings, split)) // settings.shard_images)


def upstream_name(settings: Settings, column: str, read: str, split: SplitRef | None, shard: int) -> str:
    """What a record of ``column`` calls a shard that it was computed from."""
    if is_reduced(settings, column):
        return f"/{place_of(settings, split, read)}#{shard}"
    return f"/{read}" if split is None else read


def known_sources(settings: Settings, split: SplitRef) -> tuple[tuple[str, str], ...]:
    """(image_id, path) of a split's images in their permanent order; empty when it was never indexed.

    Where ``column.json`` of ``images`` is lost, the committed tables give the order back.
    """
    place = place_of(settings, split, "images")
    folder = column_dir(settings.store_path, place)
    with contextlib.suppress(DamagedStoreError):
        meta = read_column(folder)
        if meta is not None:
            return meta.sources or ()
    rows: dict[int, tuple[str, str]] = {}
    for shard in committed_shards(folder):
        with contextlib.suppress(DamagedStoreError):
            commit = read_commit(folder, shard)
            if commit is not None and commit.place == place:
                table = read_table(folder, commit).to_pylist()
                rows |= {row["image_index"]: (row["image_id"], row["path"]) for row in table}
    if sorted(rows) != list(range(len(rows))):
        raise DamagedStoreError(
            f"{folder}: column.json is lost, and the committed shards do not hold every image: found {len(rows)} of "
            f"{max(rows) + 1}; restore the folder (dvc checkout), or remove the split to number its images anew"
        )
    return tuple(rows[number] for number in range(len(rows)))


def listed_entries(settings: Settings, split: SplitRef) -> tuple[Entry, ...]:
    """The images of a split in their permanent order: those the store knows, then the new ones of the data set."""
    data = settings.data[split.dataset]
    listed = DATASETS[data.format].list_sources(settings.root(split.dataset), split.split, **reading(data))
    return tuple(order(known_sources(settings, split), listed))


def seen_entries(look: Look, split: SplitRef) -> tuple[Entry, ...]:
    """:func:`listed_entries`, listed once in a look."""
    if split not in look.entries:
        look.entries[split] = listed_entries(look.settings, split)
    return look.entries[split]


def expected_meta(
    settings: Settings,
    dataset: str | None,
    spec: ColumnSpec,
    images: int,
    entries: Sequence[Entry] = (),
    lenient: bool = False,
) -> ColumnMeta:
    """What ``column.json`` has to say; ``dataset`` as in :func:`pipeline.graph.column_identity`."""
    identity = column_identity(settings, dataset, spec.name, lenient)
    sources = tuple((entry.source.image_id, entry.source.path) for entry in entries) if spec.name == "images" else None
    return ColumnMeta(
        spec.name, identity, fingerprint(identity), images, settings.shard_images, spec.layout, None, sources
    )


def plan_stage(settings: Settings, stage: str, split: SplitRef, look: Look | None = None) -> list[ColumnPlan]:
    """The plan of every column of a stage in a split, as a run of that stage alone sees it.

    Raises:
        InputError: the split is not indexed yet (for stages after the index).
        DatasetError: the data set cannot be listed (for the index).
    """
    if stage != "index":
        return plan_stages(settings, (stage,), split, look)
    look = look or Look(settings)
    entries = seen_entries(look, split)
    return _plan(look, (stage,), split, len(entries), entries, files_matter=True)


def plan_stages(
    settings: Settings, stages: Sequence[str], split: SplitRef, look: Look | None = None
) -> list[ColumnPlan]:
    """The plan of stages after the index, a shard being stale with what it reads; source files are not looked at.

    Raises:
        InputError: the split is not indexed yet.
    """
    count = len(known_sources(settings, split))
    if not count:
        raise not_indexed(settings, split)
    return _plan(look or Look(settings), stages, split, count, None, files_matter=False)


def not_indexed(settings: Settings, split: SplitRef, command: str = "") -> InputError:
    """The error for a split that the store does not hold. Where it, or a folder next to it, holds others, it says which.

    Args:
        command: what to type; default: the index of the split.
    """
    store = settings.store_path
    beside = [store] if is_folder(store) else folders(store.parent)
    there = f": {what_exists(store, split.dataset)}" if any(map(find_splits, beside)) else ""
    others = sorted(find_splits(store))
    if others and split.dataset not in others:
        there = f" for data set {split.dataset}, found {', '.join(others)}{did_you_mean(split.dataset, others)}{there}"
    command = command or f"python cli.py index {settings.options(split)}"
    return InputError(f"split {split} is not indexed{there}; run: {command}")


def plan_split(
    settings: Settings, split: SplitRef, lenient: bool = False, look: Look | None = None
) -> tuple[list[ColumnPlan], str]:
    """The plan of every column of a split, a shard being stale with what it reads; and a remark for a person.

    A store without its pictures is planned as it is; then nothing is said about the source files.

    Args:
        lenient: plan also columns whose weights have no known digest yet.

    Raises:
        InputError: the split is not indexed.
    """
    remark, look = "", look or Look(settings)
    entries: tuple[Entry, ...] | None
    try:
        entries = seen_entries(look, split)
    except DatasetError as error:
        sources = known_sources(settings, split)
        if not sources:
            raise InputError(f"split {split} is not indexed, and cannot be: {error}") from error
        entries = tuple(Entry(Source(image_id, path, ())) for image_id, path in sources)
        remark = f"source files not checked: {error}"
    if not known_sources(settings, split):
        raise not_indexed(settings, split)
    return _plan(look, tuple(STAGES), split, len(entries), entries, not remark, lenient), remark


def _plan(
    look: Look,
    stages: Sequence[str],
    split: SplitRef,
    images: int,
    entries: tuple[Entry, ...] | None,
    files_matter: bool,
    lenient: bool = False,
) -> list[ColumnPlan]:
    plans: dict[str, ColumnPlan] = {}
    for spec in (spec for stage in stages for spec in stage_specs(look.settings, split.dataset, stage)):
        if spec.over is None:
            plan = _plan_column(look, spec, split, images, entries, files_matter, lenient)
            plans[spec.name] = _behind(plan, [plans[name] for name in spec.reads if name in plans])
        else:
            plans[spec.name] = _plan_column(look, spec, None, 1, None, False, lenient)
    return [plan for plan in plans.values() if plan.spec.over is None]


def plan_reduction(settings: Settings, stage: str, lenient: bool = False, look: Look | None = None) -> list[ColumnPlan]:
    """The plan of every column of a stage that reduces, each of one shard; ``lenient`` as in :func:`plan_split`."""
    look = look or Look(settings)
    return [
        _plan_column(look, spec, None, 1, None, False, lenient)
        for spec in reduced(settings).values()
        if spec.stage == stage
    ]


def _behind(plan: ColumnPlan, upstream: Sequence[ColumnPlan]) -> ColumnPlan:
    """A shard that reads what is about to be computed again is stale with it."""
    shards = list(plan.shards)
    for other in upstream:
        for number in range(len(shards)) if other.spec.over is not None and other.todo else other.todo:
            if shards[number].state == DONE:
                shards[number] = ShardState(STALE, f"{other.spec.name} changed")
    return replace(plan, shards=tuple(shards))


def _plan_column(
    look: Look,
    spec: ColumnSpec,
    split: SplitRef | None,
    images: int,
    entries: tuple[Entry, ...] | None,
    files_matter: bool,
    lenient: bool,
) -> ColumnPlan:
    """Compare a column on disk with what the settings want; its commits count even where ``column.json`` is lost."""
    settings, records = look.settings, look.records
    dataset = None if split is None else split.dataset
    meta = expected_meta(settings, dataset, spec, images, entries or (), lenient)
    place = place_of(settings, split, spec.name)
    folder = column_dir(settings.store_path, place)
    try:
        found = records.meta(place)
    except DamagedStoreError:
        found = None
    states, now_of = [], _upstream_digests(settings, records, spec, split)
    for shard in range(meta.shards):
        files: Mapping[str, str] | None = {}
        if split is not None and spec.files and entries is not None:
            own = [entries[number] for number in meta.shard_range(shard)]
            files = look.file_digests(split.dataset, files_of(spec, own)) if files_matter else None
        states.append(_shard_state(records, place, meta, found, shard, now_of(shard), files))
    begun = look.is_begun(folder, meta)
    replaces = _readable(records, place, found) if found and found.fingerprint != meta.fingerprint else ()
    changes = tuple(differences(found.identity, meta.identity)) if found and replaces else ()
    known = None if found is None else found.fingerprint
    return ColumnPlan(spec, place, folder, meta, tuple(states), begun, entries or (), known, replaces, changes)


def _upstream_digests(
    settings: Settings, look: Lineage, spec: ColumnSpec, split: SplitRef | None
) -> Callable[[int], dict[str, str]]:
    """A function that gives the digests of what a shard is computed from, as they are now, by their names in a record."""
    if spec.over is None:
        reads = [
            (upstream_name(settings, spec.name, read, where, 0), place_of(settings, where, read), where is None)
            for read, where in upstream_columns(settings, spec.name, split)
        ]
        return lambda shard: {name: look.content(place, 0 if alone else shard) for name, place, alone in reads}
    return lambda shard: {
        upstream_name(settings, spec.name, read, where, number): look.content(place_of(settings, where, read), number)
        for read, where, number in upstream_shards(settings, spec.name, split, shard)
    }


def _readable(look: Lineage, place: str, meta: ColumnMeta) -> tuple[int, ...]:
    """The shards that a reader can read now."""
    found = []
    for shard in range(meta.shards):
        with contextlib.suppress(DamagedStoreError):
            if look.why_not_current(place, shard) is None:
                found.append(shard)
    return tuple(found)


def _shard_state(
    look: Lineage,
    place: str,
    meta: ColumnMeta,
    found: ColumnMeta | None,
    shard: int,
    upstream: Mapping[str, str],
    files: Mapping[str, str] | None,
) -> ShardState:
    """``upstream``, ``files``: digests of shards and of source files as they are now; None: files are not looked at."""
    try:
        commit = look.commit(place, shard)
    except DamagedStoreError as error:
        return ShardState(DAMAGED, str(error))
    if commit is None:
        return ShardState(MISSING)
    if commit.place != place:
        return ShardState(DAMAGED, f"its file is that of {commit.place}")
    if commit.fingerprint != meta.fingerprint:
        changes = differences(found.identity, meta.identity) if found else []
        return ShardState(STALE, "; ".join(changes) or "computed with other parameters")
    if len(commit.counts) != len(meta.shard_range(shard)):
        return ShardState(STALE, f"{len(meta.shard_range(shard)) - len(commit.counts)} images were added")
    had = {name: value for name, value in commit.upstream.items() if files is not None or not name.startswith(FILE)}
    now = {**upstream, **of_files(files or {})}
    changed = [name for name in dict.fromkeys([*now, *had]) if now.get(name) != had.get(name)]
    if changed:
        names = [name.removeprefix(FILE) for name in changed]
        return ShardState(STALE, f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} changed")
    return ShardState(DONE)


def files_of(spec: ColumnSpec, entries: Sequence[Entry]) -> list[str]:
    """The source files that a shard of the index is made from."""
    return list(dict.fromkeys(path for entry in entries for path in source_files(entry, spec.files or "")))


def of_files(files: Mapping[str, str]) -> dict[str, str]:
    """Digests of source files, by the names that they have in a record."""
    return {f"{FILE}{path}": sha256 for path, sha256 in files.items()}
