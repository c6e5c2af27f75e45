"""What the shards that are left will take, from what the store's commits say of those that are done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import Settings
from pipeline.plan import ColumnPlan, place_of
from stages.names import SplitRef
from store.errors import DamagedStoreError
from store.format.column import Commit, committed_shards, read_commit
from store.format.layout import column_dir

PLACE_OF_WORK = ("device", "threads", "points_per_batch", "masks_per_batch", "images_per_batch", "prefetch")
"""Fields of section run that decide how fast one worker is."""


@dataclass(frozen=True)
class Estimate:
    """For one worker, measured on ``measured`` images: seconds (loading once, and a slow first image), bytes on disk, GPU memory.

    ``gpu_bytes`` is None where no shard was computed on a GPU.
    """

    seconds: float
    seconds_per_image: float
    bytes: int
    gpu_bytes: int | None
    measured: int


def estimate(settings: Settings, plans: Sequence[ColumnPlan], todo: Mapping[int, Sequence[str]]) -> Estimate | None:
    """Time and bytes of the shards in ``todo`` (shard -> columns); None where nothing like it was computed yet.

    Evidence are shards of any split with the same fingerprints, computed under the same settings of work.
    """
    done = _evidence(settings, plans)
    wanted = {name for names in todo.values() for name in names}
    timed = _same_work(done, wanted)
    sizes = {name: [commits[name] for commits in done if name in commits] for name in wanted}
    if not timed or not all(sizes.values()):
        return None
    rates = [second for commit in timed for second in commit.run["image_seconds"][1:] or commit.run["image_seconds"]]
    rate = sum(rates) / len(rates)
    start = max(commit.run["load_seconds"] + commit.run["image_seconds"][0] for commit in timed)  # once a worker
    spans = {shard: len(plans[0].meta.shard_range(shard)) for shard in todo}
    size = 0.0
    for name, commits in sizes.items():
        images = sum(spans[shard] for shard, names in todo.items() if name in names)
        size += images * sum(commit.size for commit in commits) / sum(len(commit.counts) for commit in commits)
    memory = [int(commit.run["gpu_peak_bytes"]) for commit in timed if "gpu_peak_bytes" in commit.run]
    return Estimate(
        seconds=start + rate * sum(spans.values()),
        seconds_per_image=rate,
        bytes=round(size),
        gpu_bytes=max(memory, default=None),
        measured=len(rates),
    )


def _evidence(settings: Settings, plans: Sequence[ColumnPlan]) -> list[dict[str, Commit]]:
    """Commits of these columns, in any split, that were computed as it would be done now; for each shard column -> commit."""
    now = settings.run.model_dump(include=set(PLACE_OF_WORK))
    found: dict[tuple[SplitRef, int], dict[str, Commit]] = {}
    for split in settings.splits:
        for plan in plans:
            folder = column_dir(settings.store_path, place_of(settings, split, plan.spec.name))
            for shard in committed_shards(folder):
                try:
                    commit = read_commit(folder, shard)
                except DamagedStoreError:  # verify names it; here it is no evidence
                    continue
                if commit is None or commit.fingerprint != plan.meta.fingerprint:
                    continue
                how: Mapping[str, Any] = commit.run.get("run", {})
                if commit.counts and {name: how.get(name) for name in PLACE_OF_WORK} == now:
                    found.setdefault((split, commit.shard), {})[plan.spec.name] = commit
    return list(found.values())


def _same_work(done: Sequence[Mapping[str, Commit]], wanted: set[str]) -> list[Commit]:
    """A commit of each shard whose columns were computed in one go, just those that are wanted."""
    return [
        commits[0]
        for commits in (list(each.values()) for each in done)
        if wanted == set(commits[0].run.get("columns", ()))
        and commits[0].run.get("image_seconds")
        and all(commit.run.get("seconds") == commits[0].run["seconds"] for commit in commits)
    ]
