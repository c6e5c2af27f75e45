"""What a stage did in a split and what it holds now, summed over its commits."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.config import Settings
from pipeline.estimate import Estimate
from pipeline.plan import DONE, ColumnPlan, place_of
from pipeline.sources import unread_files
from stages.names import SplitRef
from store.format.column import Commit, read_commit
from store.format.layout import column_dir
from store.format.schema import ABSENT, FAILED, OK
from store.storage.files import digest


@dataclass(frozen=True)
class StageSummary:
    """What a stage did in a split, and what it holds now.

    ``failed``: ``column: reason`` -> images, and ``failed_images`` how many images that is, each counted once. Images that
    failed in an upstream column were counted there. ``absent``: images without annotation. ``notes``: ``column: note`` -> how
    often. ``columns``: column -> digest of what its shards hold. ``unread``: of the index, kind of file in the split's folder
    that it does not read -> how many. ``replaces`` and ``missing``: of a dry run, which finished shards would be replaced, and
    which weights are not here.
    """

    stage: str
    split: SplitRef
    images: int
    shards: int
    computed: int
    vectors: Mapping[str, int]
    omitted: Mapping[str, int]
    failed: Mapping[str, int]
    failed_images: int
    seconds: float
    columns: Mapping[str, str] = field(default_factory=dict)
    absent: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)
    estimate: Estimate | None = None
    todo: Mapping[str, list[int]] = field(default_factory=dict)
    replaces: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def tally(
    settings: Settings,
    stage: str,
    split: SplitRef,
    plans: Sequence[ColumnPlan],
    reach: int,
    todo: Mapping[int, list[str]],
) -> StageSummary:
    """Sums over the commits of the first ``reach`` shards."""
    vectors: Counter[str] = Counter()
    omitted: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    images_failed: set[tuple[int, int]] = set()
    images_absent: set[tuple[int, int]] = set()
    notes: Counter[str] = Counter()
    seconds: dict[int, float] = defaultdict(float)
    contents: dict[str, list[str]] = {}
    for plan in plans:
        contents[plan.spec.name] = [plan.meta.fingerprint]
        for shard in range(reach):
            commit = read_commit(plan.folder, shard)
            if commit is None or commit.fingerprint != plan.meta.fingerprint:
                continue
            contents[plan.spec.name].append(commit.content)
            vectors[plan.spec.name] += sum(commit.counts)
            omitted[plan.spec.name] += commit.omitted
            seconds[shard] = max(seconds[shard], float(commit.run.get("seconds", 0)))
            own = own_failures(settings, plan, split, commit) if commit.errors else {}
            failed.update(f"{plan.spec.name}: {reason}" for reason in own.values())
            images_failed |= {(shard, position) for position in own}
            if stage == "index":  # where it begins
                images_absent |= {(shard, n) for n, status in enumerate(commit.status) if status == ABSENT}
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
        round(sum(seconds.values()), 1),
        {name: digest(found) for name, found in contents.items()},
        len(images_absent),
        dict(notes),
        unread_files(settings, split, plans[0].entries) if stage == "index" and plans else {},
        todo={name: shards for name, shards in left.items() if shards},
    )


def own_failures(settings: Settings, plan: ColumnPlan, split: SplitRef, commit: Commit) -> dict[int, str]:
    """Position in the shard -> reason, of the images that failed in this column and in none that it reads."""
    upstream = set()
    for name in plan.spec.reads:
        read = None
        if not name.startswith("/"):
            read = read_commit(column_dir(settings.store_path, place_of(settings, split, name)), commit.shard)
        upstream |= {number for number, status in enumerate(read.status if read else ()) if status != OK}
    return {
        int(position): reason
        for position, reason in commit.errors.items()
        if commit.status[int(position)] == FAILED and int(position) not in upstream
    }


def has_failures(settings: Settings, plan: ColumnPlan, split: SplitRef, shard: int) -> bool:
    """Whether a done shard holds images that failed in this column itself."""
    if plan.shards[shard].state != DONE:
        return False
    commit = read_commit(plan.folder, shard)
    return commit is not None and bool(own_failures(settings, plan, split, commit))
