"""Which shards of which columns are done, missing or stale, and why. Nothing is written here."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import InputError, Settings
from pipeline.graph import STAGES, column_identity, differences, stage_specs
from stages.base import ColumnSpec, Entry
from stages.datasets import DATASETS
from stages.datasets.base import DatasetError, Source
from stages.index import order, reading, source_files, source_sha256
from stages.names import SplitRef, did_you_mean
from store.errors import DamagedStoreError
from store.format import layout
from store.format.column import ColumnMeta, committed_shards, fingerprint, read_column, read_commit
from store.format.layout import column_dir, find_splits, what_exists
from store.format.lineage import FILE, Lineage, upstream_place
from store.format.tables import read_table
from store.storage.listing import folders, is_folder, state_of
from store.write.writer import is_begun

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


def place_of(settings: Settings, split: SplitRef, column: str) -> str:
    """``<dataset>/<column>/<split>``; a column ``/means/...`` is a place already."""
    return column[1:] if column.startswith("/") else layout.place_of(split.dataset, column, split.split)


def split_of(settings: Settings, place: str) -> tuple[SplitRef, str] | None:
    """The split and the column of a place, the column empty for a split as a whole; None where it is of no split of the params."""
    if place.count("/") > 1:
        dataset, column, split = layout.parts_of(place)
    else:
        (dataset, _, split), column = place.partition("/"), ""
    found = SplitRef(dataset, split)
    return (found, column) if found in settings.splits else None


def known_sources(settings: Settings, split: SplitRef) -> tuple[tuple[str, str], ...]:
    """(image_id, path) of a split's images in their order for life; empty when it was never indexed.

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
    """The images of a split in their order for life: those the store knows, then the new ones of the data set."""
    data = settings.data[split.dataset]
    listed = DATASETS[data.format].list_sources(settings.root(split.dataset), split.split, **reading(data))
    return tuple(order(known_sources(settings, split), listed))


def expected_meta(
    settings: Settings,
    dataset: str,
    spec: ColumnSpec,
    images: int,
    entries: Sequence[Entry] = (),
    lenient: bool = False,
) -> ColumnMeta:
    """What ``column.json`` has to say."""
    identity = column_identity(settings, dataset, spec.name, lenient)
    sources = tuple((entry.source.image_id, entry.source.path) for entry in entries) if spec.name == "images" else None
    name = spec.name.lstrip("/")
    return ColumnMeta(name, identity, fingerprint(identity), images, settings.shard_images, spec.layout, None, sources)


def plan_stage(settings: Settings, stage: str, split: SplitRef) -> list[ColumnPlan]:
    """The plan of every column of a stage in a split, as a run of that stage alone sees it.

    Raises:
        InputError: the split is not indexed yet (for stages after the index).
        DatasetError: the data set cannot be listed (for the index).
    """
    if stage != "index":
        return plan_stages(settings, (stage,), split)
    entries = listed_entries(settings, split)
    return _plan(settings, (stage,), split, len(entries), entries, files_matter=True)


def plan_stages(settings: Settings, stages: Sequence[str], split: SplitRef) -> list[ColumnPlan]:
    """The plan of stages after the index, a shard being stale with what it reads; source files are not looked at.

    Raises:
        InputError: the split is not indexed yet.
    """
    count = len(known_sources(settings, split))
    if not count:
        raise not_indexed(settings, split)
    return _plan(settings, stages, split, count, None, files_matter=False)


def not_indexed(settings: Settings, split: SplitRef) -> InputError:
    """The error for a split that the store does not hold. Where it, or a folder next to it, holds others, it says which."""
    store = settings.store_path
    beside = [store] if is_folder(store) else folders(store.parent)
    there = f": {what_exists(store, split.dataset)}" if any(map(find_splits, beside)) else ""
    others = sorted(find_splits(store))
    if others and split.dataset not in others:
        there = f" for data set {split.dataset}, found {', '.join(others)}{did_you_mean(split.dataset, others)}{there}"
    return InputError(f"split {split} is not indexed{there}; run: python cli.py index {settings.options(split)}")


def plan_split(settings: Settings, split: SplitRef, lenient: bool = False) -> tuple[list[ColumnPlan], str]:
    """The plan of every column of a split, a shard being stale with what it reads; and a remark for a person.

    A store without its pictures is planned as it is; then nothing is said about the source files.

    Args:
        lenient: plan also columns whose weights have no known digest yet.

    Raises:
        InputError: the split is not indexed.
    """
    remark = ""
    entries: tuple[Entry, ...] | None
    try:
        entries = listed_entries(settings, split)
    except DatasetError as error:
        sources = known_sources(settings, split)
        if not sources:
            raise InputError(f"split {split} is not indexed, and cannot be: {error}") from error
        entries = tuple(Entry(Source(image_id, path, ())) for image_id, path in sources)
        remark = f"source files not checked: {error}"
    if not known_sources(settings, split):
        raise not_indexed(settings, split)
    return _plan(settings, tuple(STAGES), split, len(entries), entries, not remark, lenient), remark


def _plan(
    settings: Settings,
    stages: Sequence[str],
    split: SplitRef,
    images: int,
    entries: tuple[Entry, ...] | None,
    files_matter: bool,
    lenient: bool = False,
) -> list[ColumnPlan]:
    look = Lineage(settings.store_path)
    plans: dict[str, ColumnPlan] = {}
    for spec in (spec for stage in stages for spec in stage_specs(settings, split.dataset, stage)):
        if not spec.name.startswith("/"):
            plan = _plan_column(settings, look, spec, split, images, entries, files_matter, lenient)
            plans[spec.name] = _behind(plan, [plans[name] for name in spec.reads if name in plans])
    return list(plans.values())


def _behind(plan: ColumnPlan, upstream: Sequence[ColumnPlan]) -> ColumnPlan:
    """A shard that reads a column which is about to be computed again is stale with it."""
    shards = list(plan.shards)
    for other in upstream:
        for number in other.todo:
            if shards[number].state == DONE:
                shards[number] = ShardState(STALE, f"{other.spec.name} changed")
    return replace(plan, shards=tuple(shards))


def _plan_column(
    settings: Settings,
    look: Lineage,
    spec: ColumnSpec,
    split: SplitRef,
    images: int,
    entries: tuple[Entry, ...] | None,
    files_matter: bool,
    lenient: bool,
) -> ColumnPlan:
    """Compare a column on disk with what the settings want; its commits count even where ``column.json`` is lost."""
    meta = expected_meta(settings, split.dataset, spec, images, entries or (), lenient)
    place = place_of(settings, split, spec.name)
    folder = column_dir(settings.store_path, place)
    try:
        found = look.meta(place)
    except DamagedStoreError:
        found = None
    states = []
    for shard in range(meta.shards):
        files: Mapping[str, str] | None = {}
        if spec.files and entries is not None:
            own = [entries[number] for number in meta.shard_range(shard)]
            files = file_digests(settings, split.dataset, spec, own) if files_matter else None
        states.append(_shard_state(look, spec, place, folder, meta, found, shard, files))
    begun = is_begun(folder, meta) and not _cut_short(look, place, meta.shards)
    replaces = _readable(look, place, found) if found and found.fingerprint != meta.fingerprint else ()
    changes = tuple(differences(found.identity, meta.identity)) if found and replaces else ()
    known = None if found is None else found.fingerprint
    return ColumnPlan(spec, place, folder, meta, tuple(states), begun, entries or (), known, replaces, changes)


def _cut_short(look: Lineage, place: str, shards: int) -> bool:
    """Whether a kill left a shard in the middle of being replaced."""
    for shard in range(shards):
        with contextlib.suppress(DamagedStoreError):
            commit = look.commit(place, shard)
            if commit is not None and commit.replacing:
                return True
    return False


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
    spec: ColumnSpec,
    place: str,
    folder: Path,
    meta: ColumnMeta,
    found: ColumnMeta | None,
    shard: int,
    files: Mapping[str, str] | None,
) -> ShardState:
    """``files``: digests of the source files as they are now; None: they are not looked at."""
    try:
        commit = look.commit(place, shard)
    except DamagedStoreError as error:
        return ShardState(DAMAGED, str(error))
    if commit is None:
        return ShardState(MISSING)
    if commit.place != place:
        return ShardState(DAMAGED, f"the commit is that of {commit.place}")
    if commit.fingerprint != meta.fingerprint:
        changes = differences(found.identity, meta.identity) if found else []
        return ShardState(STALE, "; ".join(changes) or "computed with other parameters")
    if len(commit.counts) != len(meta.shard_range(shard)):
        return ShardState(STALE, f"{len(meta.shard_range(shard)) - len(commit.counts)} images were added")
    data = state_of(folder / commit.file)
    if data is None or not stat.S_ISREG(data.st_mode) or data.st_size != commit.size:
        return ShardState(DAMAGED, f"{commit.file} is missing or has another size")
    had = {name: value for name, value in commit.upstream.items() if files is not None or not name.startswith(FILE)}
    now = upstream_digests(spec, lambda name: look.content(*upstream_place(place, name, shard)), files or {})
    changed = [name for name in dict.fromkeys([*now, *had]) if now.get(name) != had.get(name)]
    if changed:
        names = [name.removeprefix(FILE) for name in changed]
        return ShardState(STALE, f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} changed")
    return ShardState(DONE)


def file_digests(settings: Settings, dataset: str, spec: ColumnSpec, entries: Sequence[Entry]) -> dict[str, str]:
    """sha256 of the source files that a shard of the index is made from, as they are now."""
    root = settings.root(dataset)
    paths = dict.fromkeys(path for entry in entries for path in source_files(entry, spec.files or ""))
    return {path: source_sha256(root, path) for path in paths}


def upstream_digests(spec: ColumnSpec, content_of: Callable[[str], str], files: Mapping[str, str]) -> dict[str, str]:
    """Digests of everything a shard is computed from: upstream shards and source files."""
    return {
        **{name: content_of(name) for name in spec.reads},
        **{f"{FILE}{path}": sha256 for path, sha256 in files.items()},
    }
