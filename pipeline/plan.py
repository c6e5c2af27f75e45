"""Which shards of which columns are done, missing or stale, and why. Nothing is written here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.config import InputError, Settings
from pipeline.entries import files_of, linked, of_files, seen_entries
from pipeline.graph import (
    STAGES,
    column_identity,
    differences,
    is_borrowed,
    reduced,
    stage_specs,
    upstream_columns,
)
from pipeline.listed import not_indexed
from pipeline.look import Look
from pipeline.upstream import Upstream, known_sources, place_of, upstream_name, upstream_shards
from stages.base import ColumnSpec, Entry
from stages.datasets.base import DatasetError, Source
from stages.names import SplitRef
from store.errors import DamagedStoreError
from store.format.column import ColumnMeta, fingerprint
from store.format.layout import column_dir
from store.format.lineage import FILE, Lineage
from store.format.links import Link

DONE, MISSING, STALE, DAMAGED = "done", "missing", "stale", "damaged"


@dataclass(frozen=True)
class ShardState:
    """done, missing, or stale or damaged with the reason."""

    state: str
    reason: str = ""


@dataclass(frozen=True)
class ColumnPlan:
    """A column of a split as the settings want it, next to what is on disk.

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

    def links(self, shard: int) -> list[Link | None] | None:
        """Where the images of a shard lie, if this is the column that records it; else None."""
        if self.spec.name != "images" or not self.entries:
            return None
        span = self.meta.shard_range(shard)
        return [entry.link for entry in self.entries[span.start : span.stop]]


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
    sources = holder = None
    if spec.name == "images" and dataset is not None:
        sources = tuple((entry.source.image_id, entry.path) for entry in entries)
        holder = settings.holder(dataset)
    size = settings.shard_images
    return ColumnMeta(spec.name, identity, fingerprint(identity), images, size, spec.layout, None, sources, holder)


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
    """The plan of stages after the index. A shard is stale if one that it reads is; source files are not looked at.

    Raises:
        InputError: the split is not indexed yet.
    """
    count = len(known_sources(settings, split))
    if not count:
        raise not_indexed(settings, split)
    look = look or Look(settings)
    plans = _plan(look, stages, split, count, None, files_matter=False)
    if settings.holder(split.dataset) is None:
        return plans
    place, size = place_of(settings, split, "images"), settings.shard_images
    index = {number for number in range(-(-count // size)) if _is_behind(look.records, place, number)}
    return [_stale(plan, index, "images") for plan in plans]


def plan_split(
    settings: Settings, split: SplitRef, lenient: bool = False, look: Look | None = None
) -> tuple[list[ColumnPlan], str]:
    """The plan of every column of a split, in which a shard is stale if one that it reads is; and a remark for a person.

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
        entries = linked(look, split, [Entry(Source(image_id, path, ())) for image_id, path in sources])
        remark = f"source files not checked: {error}"
    if not known_sources(settings, split):
        raise not_indexed(settings, split)
    plans = _plan(look, tuple(STAGES), split, len(entries), entries, not remark, lenient)
    return _behind_holder(look, split, plans, lenient), remark


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
    """The plan in which a shard that reads one about to be computed again is stale, too."""
    for other in upstream:
        every = other.spec.over is not None and other.todo
        plan = _stale(plan, range(len(plan.shards)) if every else other.todo, other.spec.name)
    return plan


def _stale(plan: ColumnPlan, shards: Collection[int], because: str) -> ColumnPlan:
    """The plan, in which those of these shards that were done are stale."""
    stale = ShardState(STALE, f"{because} changed")
    found = (stale if state.state == DONE and number in shards else state for number, state in enumerate(plan.shards))
    return replace(plan, shards=tuple(found))


def _is_behind(look: Lineage, place: str, shard: int) -> bool:
    """Whether a shard of a borrower's images was made from other rows than the holder has now."""
    try:
        return look.why_not_current(place, shard) is not None
    except DamagedStoreError:
        return True


def _behind_holder(look: Look, split: SplitRef, plans: Sequence[ColumnPlan], lenient: bool) -> list[ColumnPlan]:
    """The plans in which a shard that reads a shard of the holder about to be computed again is stale, too."""
    settings = look.settings
    if settings.holder(split.dataset) is None:
        return list(plans)
    todo: set[Upstream] = set()
    for where in settings.held(split.dataset):
        if where not in look.todo:
            every = plan_split(settings, where, lenient, look)[0] if known_sources(settings, where) else []
            look.todo[where] = {(plan.spec.name, where, number) for plan in every for number in plan.todo}
        todo |= look.todo[where]
    found = []
    for plan in plans:
        shards = list(plan.shards)
        for number, state in enumerate(shards):
            if state.state == DONE:
                read = upstream_shards(settings, look.records, plan.spec.name, split, number)
                again = next((each for each in read if each in todo), None)
                if again is not None:
                    shards[number] = ShardState(STALE, f"{place_of(settings, again[1], again[0])} changed")
        found.append(replace(plan, shards=tuple(shards)))
        todo |= {(plan.spec.name, split, number) for number in found[-1].todo}
    return found


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
    reads = [] if split is None else upstream_columns(settings, spec.name, split)
    records.ask_ahead([place, *(place_of(settings, where, read) for read, where in reads)])
    try:
        found = records.meta(place)
    except DamagedStoreError:
        found = None
    states, now_of = [], _upstream_digests(settings, records, spec, split, entries)
    for shard in range(meta.shards):
        files: Mapping[str, str] | None = {}
        if split is not None and spec.stage == "index" and entries is not None:
            own = [entries[number] for number in meta.shard_range(shard)]
            digests = partial(look.file_digests, split.dataset)
            files = files_of(spec, own, digests) if files_matter else None
        states.append(_shard_state(records, place, meta, found, shard, now_of(shard), files))
    begun = look.is_begun(folder, meta)
    replaces = _readable(records, place, found) if found and found.fingerprint != meta.fingerprint else ()
    changes = tuple(differences(found.identity, meta.identity)) if found and replaces else ()
    known = None if found is None else found.fingerprint
    return ColumnPlan(spec, place, folder, meta, tuple(states), begun, entries or (), known, replaces, changes)


def _upstream_digests(
    settings: Settings, look: Lineage, spec: ColumnSpec, split: SplitRef | None, entries: Sequence[Entry] | None
) -> Callable[[int], dict[str, str]]:
    """A function that gives the digests of what a shard is computed from, as they are now, by their names in a record.

    ``entries``: the images of the split, for ``images``, whose record does not yet say where they lie.
    """
    if split is not None and not any(is_borrowed(settings, split.dataset, read) for read in spec.reads):
        reads = [  # the same for every shard
            (upstream_name(settings, split, read, where, 0), place_of(settings, where, read), where is None)
            for read, where in upstream_columns(settings, spec.name, split)
        ]
        return lambda shard: {name: look.content(place, 0 if alone else shard) for name, place, alone in reads}

    def now(shard: int) -> dict[str, str]:
        links = None
        if spec.name == "images" and entries is not None:
            links = [entry.link for entry in entries[shard * settings.shard_images :][: settings.shard_images]]
        return {
            upstream_name(settings, split, read, where, number): look.content(place_of(settings, where, read), number)
            for read, where, number in upstream_shards(settings, look, spec.name, split, shard, links)
        }

    return now


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
    """The state of a shard. ``upstream``, ``files``: digests of shards and of source files as they are now; None: files are not
    looked at."""
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
        names = [name.removeprefix(FILE) or "the list of images" for name in changed]
        return ShardState(STALE, f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''} changed")
    return ShardState(DONE)
