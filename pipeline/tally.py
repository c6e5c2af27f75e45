"""What a stage did in a split and what it holds now, summed over its commits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.estimate import Estimate
from pipeline.graph import lies_at
from pipeline.look import Look
from pipeline.plan import DONE, ColumnPlan
from pipeline.sources import unread_files
from pipeline.upstream import known_links, place_of
from stages.names import SplitRef
from store.format.column import Commit
from store.format.links import Link
from store.format.schema import ABSENT, FAILED, OK
from store.storage.files import digest


@dataclass(frozen=True)
class StageSummary:
    """What a stage did in a split (None: it reduces splits), and what it holds now.

    ``vectors``: column -> vectors or entries; for a reduced column, those that were reduced. ``failed``: ``column: reason`` ->
    images, and ``failed_images`` how many images that is, each counted once. Images that failed in an upstream column were
    counted there. ``first``: such a reason -> image_index of the first image. ``absent``: images without annotation.
    ``notes``: ``column: note`` -> how often. ``columns``: column -> digest of what its shards hold. ``unread``: of the index,
    kind of file in the split's folder that it does not read -> how many. ``replaces`` and ``missing``: of a dry run, which
    finished shards would be replaced, and which weights are not here.
    """

    stage: str
    split: SplitRef | None
    images: int
    shards: int
    computed: int
    vectors: Mapping[str, int]
    omitted: Mapping[str, int]
    failed: Mapping[str, int]
    failed_images: int
    columns: Mapping[str, str] = field(default_factory=dict)
    absent: int = 0
    unlisted: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    estimate: Estimate | None = None
    todo: Mapping[str, list[int]] = field(default_factory=dict)
    replaces: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    first: Mapping[str, int] = field(default_factory=dict)


def tally(
    look: Look,
    stage: str,
    split: SplitRef | None,
    plans: Sequence[ColumnPlan],
    reach: int,
    todo: Mapping[int, list[str]],
) -> StageSummary:
    """Sums over the commits of the first ``reach`` shards."""
    vectors: Counter[str] = Counter()
    omitted: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    first: dict[str, int] = {}
    images_failed: set[tuple[int, int]] = set()
    images_absent: set[tuple[int, int]] = set()
    images_unlisted: set[tuple[int, int]] = set()
    notes: Counter[str] = Counter()
    contents: dict[str, list[str]] = {}
    for plan in plans:
        contents[plan.spec.name] = [plan.meta.fingerprint]
        for shard in range(reach):
            commit = look.records.commit(plan.place, shard)
            if commit is None or commit.fingerprint != plan.meta.fingerprint:
                continue
            contents[plan.spec.name].append(commit.content)
            vectors[plan.spec.name] += vectors_of(plan, commit)
            omitted[plan.spec.name] += commit.omitted
            own = own_failures(look, plan, split, commit) if commit.errors else {}
            failed.update(f"{plan.spec.name}: {reason}" for reason in own.values())
            for position, reason in own.items():
                first.setdefault(f"{plan.spec.name}: {reason}", shard * plan.meta.shard_images + position)
            images_failed |= {(shard, position) for position in own}
            if stage == "index":  # where it begins; images are absent where their holder does not list them
                found = images_unlisted if plan.spec.name == "images" else images_absent
                found |= {(shard, n) for n, status in enumerate(commit.status) if status == ABSENT}
            notes.update({f"{plan.spec.name}: {note}": count for note, count in commit.extra.get("notes", {}).items()})
    left = {
        plan.spec.name: [shard for shard, names in sorted(todo.items()) if plan.spec.name in names] for plan in plans
    }
    images = plans[0].meta.images if plans else 0
    return StageSummary(
        stage,
        split,
        images,
        reach,
        len(todo),
        dict(vectors),
        {name: count for name, count in omitted.items() if count},
        dict(failed),
        len(images_failed),
        {name: digest(found) for name, found in contents.items()},
        len(images_absent),
        len(images_unlisted),
        dict(notes),
        unread_files(look.settings, split, plans[0].entries) if stage == "index" and split and plans else {},
        todo={name: shards for name, shards in left.items() if shards},
        first=first,
    )


def vectors_of(plan: ColumnPlan, commit: Commit) -> int:
    """Vectors or entries of a shard; for a reduced column, those that were reduced to it."""
    return sum(commit.counts) if plan.spec.over is None else int(commit.extra["count"])


def own_failures(look: Look, plan: ColumnPlan, split: SplitRef | None, commit: Commit) -> dict[int, str]:
    """Position in the shard -> reason, of the images that failed in this column and in none that it reads."""
    upstream = set() if split is None else failed_upstream(look, plan, split, commit)
    return {
        int(position): reason
        for position, reason in commit.errors.items()
        if commit.status[int(position)] == FAILED and int(position) not in upstream
    }


def failed_upstream(look: Look, plan: ColumnPlan, split: SplitRef, commit: Commit) -> set[int]:
    """Positions in a shard of the images that are not ok in a column that it is computed from.

    An image that the holder lacks is not among them.
    """
    settings, found = look.settings, set[int]()
    for name in plan.spec.reads:
        dataset, column = lies_at(settings, split.dataset, name)
        if dataset is None:
            continue
        first = commit.shard * settings.shard_images
        places: list[Link | None] = [(split.split, first + number) for number in range(len(commit.status))]
        if dataset != split.dataset:
            places = plan.links(commit.shard) or known_links(settings, look.records, split, commit.shard)
        for number, place in enumerate(places):
            if place is not None:
                shard, at = divmod(place[1], settings.shard_images)
                read = look.records.commit(place_of(settings, SplitRef(dataset, place[0]), column), shard)
                if read is not None and at < len(read.status) and read.status[at] != OK:
                    found.add(number)
    return found


def has_failures(look: Look, plan: ColumnPlan, split: SplitRef, shard: int) -> bool:
    """Whether a done shard holds images that failed in this column itself."""
    if plan.shards[shard].state != DONE:
        return False
    commit = look.records.commit(plan.place, shard)
    return commit is not None and bool(own_failures(look, plan, split, commit))
