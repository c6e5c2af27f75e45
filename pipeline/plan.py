"""Which shards of which columns are done, missing or stale, and why. Nothing is written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config import ROOT, InputError, Settings
from pipeline.graph import differences, identities, specs, stage_specs
from stages.base import ColumnSpec, Entry
from stages.datasets import DATASETS
from stages.index import order, source_files, source_sha256
from store.columns import ColumnMeta, fingerprint, read_column, read_commit
from store.errors import DamagedStoreError
from store.layout import column_dir
from store.reader import upstream_sha256, why_not_current

DONE, MISSING, STALE = "done", "missing", "stale"


@dataclass(frozen=True)
class ShardState:
    """done, missing, or stale with the reason."""

    state: str
    reason: str = ""


@dataclass(frozen=True)
class ColumnPlan:
    """A column of a split as the settings want it, beside what is on disk."""

    spec: ColumnSpec
    place: str
    folder: Path
    meta: ColumnMeta
    shards: tuple[ShardState, ...]

    @property
    def todo(self) -> list[int]:
        """Shards that are not done."""
        return [number for number, shard in enumerate(self.shards) if shard.state != DONE]


def place_of(settings: Settings, split: str, column: str) -> str:
    """``<dataset>/<split>/<column>``; a column ``/means/...`` is a place already."""
    return column[1:] if column.startswith("/") else f"{settings.dataset}/{split}/{column}"


def listed_entries(settings: Settings, split: str) -> list[Entry]:
    """The images of a split in their order for life: those the store knows, then the new ones of the data set."""
    images = read_images_meta(settings, split)
    root = ROOT / settings.index.root
    listed = DATASETS[settings.index.format].list_sources(root, split)
    entries = order((images.sources if images else None) or (), listed)
    if not entries:
        raise InputError(f"{root / split}: found no image, expected at least one")
    return entries


def read_images_meta(settings: Settings, split: str) -> ColumnMeta | None:
    """``column.json`` of a split's images; None when the split was never indexed."""
    return read_column(column_dir(settings.store_path, place_of(settings, split, "images")))


def expected_meta(settings: Settings, spec: ColumnSpec, images: int, entries: Sequence[Entry] = ()) -> ColumnMeta:
    """What ``column.json`` has to say."""
    identity = identities(settings)[spec.name]
    layout = None if spec.layout is None else replace(spec.layout, compression=settings.compression)
    sources = tuple((entry.source.image_id, entry.source.path) for entry in entries) if spec.name == "images" else None
    return ColumnMeta(
        spec.name.lstrip("/"), identity, fingerprint(identity), images, settings.shard_images, layout, None, sources
    )


def plan_stage(settings: Settings, stage: str, split: str) -> list[ColumnPlan]:
    """The plan of every column of a stage in a split.

    Raises:
        InputError: the split is not indexed yet (for stages after the index).
    """
    entries = listed_entries(settings, split) if stage == "index" else []
    if stage == "index":
        count = len(entries)
    else:
        images = read_images_meta(settings, split)
        if images is None:
            raise InputError(f"split {split} is not indexed; run: python cli.py index --split {split}")
        count = images.images
    plans: dict[str, ColumnPlan] = {}
    for spec in stage_specs(settings, stage):
        if not spec.name.startswith("/"):
            plan = plan_column(settings, spec, split, count, entries)
            plans[spec.name] = _behind(plan, [plans[name] for name in spec.reads if name in plans])
    return list(plans.values())


def _behind(plan: ColumnPlan, upstream: Sequence[ColumnPlan]) -> ColumnPlan:
    """A shard that reads a column of its own stage is stale with it: that one is about to be computed again."""
    shards = list(plan.shards)
    for other in upstream:
        for number in other.todo:
            if shards[number].state == DONE:
                shards[number] = ShardState(STALE, f"{other.spec.name} changed")
    return replace(plan, shards=tuple(shards))


def plan_column(
    settings: Settings, spec: ColumnSpec, split: str, images: int, entries: Sequence[Entry] = ()
) -> ColumnPlan:
    """Compare a column on disk with what the settings want."""
    meta = expected_meta(settings, spec, images, entries)
    place = place_of(settings, split, spec.name)
    folder = column_dir(settings.store_path, place)
    try:
        found = read_column(folder)
        broken = ""
    except DamagedStoreError as error:
        found, broken = None, str(error)
    files: Mapping[str, str] = {}
    if spec.files:
        files = _digests(settings, entries, spec.files)
    states = []
    for shard in range(meta.shards):
        if broken:
            states.append(ShardState(STALE, f"damaged: {broken}"))
        elif found is None:
            states.append(ShardState(MISSING))
        else:
            states.append(_shard_state(settings, spec, place, folder, meta, found, shard, entries, files))
    return ColumnPlan(spec, place, folder, meta, tuple(states))


def _digests(settings: Settings, entries: Sequence[Entry], files: str) -> dict[str, str]:
    root = ROOT / settings.index.root
    return {path: source_sha256(root, path) for entry in entries for path in source_files(entry, files)}


def _shard_state(
    settings: Settings,
    spec: ColumnSpec,
    place: str,
    folder: Path,
    meta: ColumnMeta,
    found: ColumnMeta,
    shard: int,
    entries: Sequence[Entry],
    files: Mapping[str, str],
) -> ShardState:
    try:
        commit = read_commit(folder, shard)
    except DamagedStoreError as error:
        return ShardState(STALE, f"damaged: {error}")
    if commit is None:
        return ShardState(MISSING)
    if commit.fingerprint != meta.fingerprint:
        changes = differences(found.identity, meta.identity)
        return ShardState(STALE, "; ".join(changes) or "computed with other parameters")
    if len(commit.counts) != len(meta.shard_range(shard)):
        return ShardState(STALE, f"{len(meta.shard_range(shard)) - len(commit.counts)} images were added")
    if not (folder / commit.file).is_file():
        return ShardState(STALE, f"damaged: {commit.file} is missing")
    own = shard_files(spec, [entries[number] for number in meta.shard_range(shard)] if entries else ())
    expected = upstream_digests(
        spec,
        lambda name: upstream_sha256(settings.store_path, place, name, shard) or "missing",
        {path: files[path] for path in own},
    )
    changed = [name for name, sha256 in expected.items() if commit.upstream.get(name) != sha256]
    gone = sorted(set(commit.upstream) - set(expected))
    if changed or gone:
        names = [name.removeprefix("file:") for name in changed + gone]
        return ShardState(STALE, f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} changed")
    return ShardState(DONE)


def shard_files(spec: ColumnSpec, entries: Sequence[Entry]) -> tuple[str, ...]:
    """The source files that a shard of the index is made from."""
    if spec.files is None:
        return ()
    return tuple(dict.fromkeys(path for entry in entries for path in source_files(entry, spec.files)))


def upstream_digests(spec: ColumnSpec, sha256_of: Callable[[str], str], files: Mapping[str, str]) -> dict[str, str]:
    """sha256 of everything a shard is computed from: upstream shards and source files."""
    return {
        **{name: sha256_of(name) for name in spec.reads},
        **{f"file:{path}": sha256 for path, sha256 in files.items()},
    }


def upstream_gaps(settings: Settings, plan: ColumnPlan, split: str, shards: Sequence[int]) -> list[str]:
    """Upstream columns that are not done for the shards, as a reason each."""
    gaps = []
    for name in plan.spec.reads:
        spec = specs(settings)[name]
        if name.startswith("/"):
            continue
        place = place_of(settings, split, name)
        folder = column_dir(settings.store_path, place)
        found = read_column(folder)
        want = fingerprint(identities(settings)[name])
        for shard in shards:
            commit = read_commit(folder, shard)
            if found is None or commit is None:
                gaps.append(f"{name} shard {shard} is {MISSING} (stage {spec.stage})")
            elif commit.fingerprint != want or why_not_current(settings.store_path, place, found, commit):
                gaps.append(f"{name} shard {shard} is {STALE} (stage {spec.stage})")
    return gaps
