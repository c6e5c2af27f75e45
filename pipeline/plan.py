"""Which shards of which columns are done, missing or stale, and why. Nothing is written here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import ROOT, InputError, Settings
from pipeline.graph import STAGES, differences, identities, specs, stage_specs
from stages.base import ColumnSpec, Entry
from stages.datasets import DATASETS
from stages.datasets.base import DatasetError, Source
from stages.index import order, reading, source_files, source_sha256
from stages.names import did_you_mean
from store.columns import ColumnMeta, fingerprint, read_column, read_commit
from store.errors import DamagedStoreError
from store.layout import COMMITS, column_dir
from store.lineage import FILE, Lineage, upstream_place
from store.tables import read_table
from store.writer import is_begun

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
    """

    spec: ColumnSpec
    place: str
    folder: Path
    meta: ColumnMeta
    shards: tuple[ShardState, ...]
    begun: bool
    entries: tuple[Entry, ...] = ()

    @property
    def todo(self) -> list[int]:
        """Shards that are not done."""
        return [number for number, shard in enumerate(self.shards) if shard.state != DONE]


def place_of(settings: Settings, split: str, column: str) -> str:
    """``<dataset>/<split>/<column>``; a column ``/means/...`` is a place already."""
    return column[1:] if column.startswith("/") else f"{settings.dataset}/{split}/{column}"


def known_sources(settings: Settings, split: str) -> tuple[tuple[str, str], ...]:
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
    for path in sorted((folder / COMMITS).glob("*.json")):
        with contextlib.suppress(DamagedStoreError):
            commit = read_commit(folder, int(path.stem))
            if commit is not None and commit.place == place:
                table = read_table(folder, commit).to_pylist()
                rows |= {row["image_index"]: (row["image_id"], row["path"]) for row in table}
    if sorted(rows) != list(range(len(rows))):
        raise DamagedStoreError(
            f"{folder}: column.json is lost, and the committed shards do not hold every image: found {len(rows)} of "
            f"{max(rows) + 1}; restore the folder (dvc checkout), or remove the split to number its images anew"
        )
    return tuple(rows[number] for number in range(len(rows)))


def listed_entries(settings: Settings, split: str) -> tuple[Entry, ...]:
    """The images of a split in their order for life: those the store knows, then the new ones of the data set."""
    loader = DATASETS[settings.index.format]
    listed = loader.list_sources(ROOT / settings.index.root, split, **reading(settings))
    return tuple(order(known_sources(settings, split), listed))


def expected_meta(settings: Settings, spec: ColumnSpec, images: int, entries: Sequence[Entry] = ()) -> ColumnMeta:
    """What ``column.json`` has to say."""
    identity = identities(settings)[spec.name]
    layout = None if spec.layout is None else replace(spec.layout, compression=settings.compression)
    sources = tuple((entry.source.image_id, entry.source.path) for entry in entries) if spec.name == "images" else None
    name = spec.name.lstrip("/")
    return ColumnMeta(name, identity, fingerprint(identity), images, settings.shard_images, layout, None, sources)


def plan_stage(settings: Settings, stage: str, split: str) -> list[ColumnPlan]:
    """The plan of every column of a stage in a split, as a run of that stage alone sees it.

    Raises:
        InputError: the split is not indexed yet (for stages after the index).
        DatasetError: the data set cannot be listed (for the index).
    """
    entries: tuple[Entry, ...] | None = None
    if stage == "index":
        entries = listed_entries(settings, split)
        count = len(entries)
    else:
        count = len(known_sources(settings, split))
        if not count:
            raise InputError(f"{_not_indexed(settings, split)}; run: python cli.py index --split {split}")
    return _plan(settings, (stage,), split, count, entries, files_matter=True)


def _not_indexed(settings: Settings, split: str) -> str:
    """That a split has no images yet; and which data sets there are, where this one may be misspelt."""
    found = [path.parent.name for path in settings.store_path.glob(f"*/{split}/") if path.parent.name != "means"]
    others = sorted({*found} - {settings.dataset}) if settings.dataset not in found else []
    meant = did_you_mean(settings.dataset, others)
    named = f" for data set {settings.dataset}, found {', '.join(others)}{meant}" if others else ""
    return f"split {split} is not indexed{named}"


def plan_split(settings: Settings, split: str) -> tuple[list[ColumnPlan], str]:
    """The plan of every column of a split, a shard being stale with what it reads; and a remark for a person.

    A store without its pictures is planned as it is; then nothing is said about the source files.

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
            raise InputError(f"{_not_indexed(settings, split)}, and cannot be: {error}") from error
        entries = tuple(Entry(Source(image_id, path, ())) for image_id, path in sources)
        remark = f"source files not checked: {error}"
    if not known_sources(settings, split):
        raise InputError(f"{_not_indexed(settings, split)}; run: python cli.py index --split {split}")
    return _plan(settings, tuple(STAGES), split, len(entries), entries, files_matter=not remark), remark


def _plan(
    settings: Settings,
    stages: Sequence[str],
    split: str,
    images: int,
    entries: tuple[Entry, ...] | None,
    files_matter: bool,
) -> list[ColumnPlan]:
    look = Lineage(settings.store_path)
    plans: dict[str, ColumnPlan] = {}
    for spec in (spec for stage in stages for spec in stage_specs(settings, stage)):
        if not spec.name.startswith("/"):
            plan = _plan_column(settings, look, spec, split, images, entries, files_matter)
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
    split: str,
    images: int,
    entries: tuple[Entry, ...] | None,
    files_matter: bool,
) -> ColumnPlan:
    """Compare a column on disk with what the settings want; its commits count even where ``column.json`` is lost."""
    meta = expected_meta(settings, spec, images, entries or ())
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
            files = file_digests(settings, spec, own) if files_matter else None
        states.append(_shard_state(look, spec, place, folder, meta, found, shard, files))
    return ColumnPlan(spec, place, folder, meta, tuple(states), is_begun(folder, meta), entries or ())


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
    data = folder / commit.file
    if not data.is_file() or data.stat().st_size != commit.size:
        return ShardState(DAMAGED, f"{commit.file} is missing or has another size")
    had = {name: value for name, value in commit.upstream.items() if files is not None or not name.startswith(FILE)}
    now = upstream_digests(spec, lambda name: look.content(*upstream_place(place, name, shard)), files or {})
    changed = [name for name in dict.fromkeys([*now, *had]) if now.get(name) != had.get(name)]
    if changed:
        names = [name.removeprefix(FILE) for name in changed]
        return ShardState(STALE, f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} changed")
    return ShardState(DONE)


def file_digests(settings: Settings, spec: ColumnSpec, entries: Sequence[Entry]) -> dict[str, str]:
    """sha256 of the source files that a shard of the index is made from, as they are now."""
    root = ROOT / settings.index.root
    paths = dict.fromkeys(path for entry in entries for path in source_files(entry, spec.files or ""))
    return {path: source_sha256(root, path) for path in paths}


def upstream_digests(spec: ColumnSpec, content_of: Callable[[str], str], files: Mapping[str, str]) -> dict[str, str]:
    """Digests of everything a shard is computed from: upstream shards and source files."""
    return {
        **{name: content_of(name) for name in spec.reads},
        **{f"{FILE}{path}": sha256 for path, sha256 in files.items()},
    }


def upstream_gaps(settings: Settings, plan: ColumnPlan, split: str, shards: Sequence[int]) -> list[str]:
    """Upstream columns that are not done for the shards, as a reason each."""
    look = Lineage(settings.store_path)
    gaps = []
    for name in plan.spec.reads:
        if name.startswith("/"):
            continue
        place, stage = place_of(settings, split, name), specs(settings)[name].stage
        want = fingerprint(identities(settings)[name])
        for shard in shards:
            commit = look.commit(place, shard)
            if commit is None:
                gaps.append(f"{name} shard {shard} is {MISSING} (stage {stage})")
            elif commit.fingerprint != want or look.why_not_current(place, shard):
                gaps.append(f"{name} shard {shard} is {STALE} (stage {stage})")
    return gaps
