"""What the shards that are left will take, estimated from those that are done and the logs of how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.look import Look
from pipeline.plan import ColumnPlan
from pipeline.upstream import place_of
from stages.names import SplitRef
from store.errors import DamagedStoreError
from store.format.column import Commit
from store.format.layout import column_dir
from store.format.shard import committed_shards, read_log

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


def estimate(look: Look, plans: Sequence[ColumnPlan], todo: Mapping[int, Sequence[str]]) -> Estimate | None:
    """Time and bytes of the shards in ``todo`` (shard -> columns); None where nothing like it was computed yet.

    The evidence is shards of any split with the same fingerprints, computed under the same settings of work.
    """
    done = _evidence(look, plans)
    wanted = {name for names in todo.values() for name in names}
    timed = _same_work(done, wanted)
    sizes = {name: [made.commit for shard in done for made in shard if made.column == name] for name in wanted}
    if not timed or not all(sizes.values()):
        return None
    rates = [second for run in timed for second in run["image_seconds"][1:] or run["image_seconds"]]
    rate = sum(rates) / len(rates)
    start = max(run["load_seconds"] + run["image_seconds"][0] for run in timed)  # once per worker
    spans = {shard: len(plans[0].meta.shard_range(shard)) for shard in todo}
    size = 0.0
    for name, commits in sizes.items():
        images = sum(spans[shard] for shard, names in todo.items() if name in names)
        size += images * sum(commit.size for commit in commits) / sum(len(commit.counts) for commit in commits)
    memory = [int(run["gpu_peak_bytes"]) for run in timed if "gpu_peak_bytes" in run]
    return Estimate(
        seconds=start + rate * sum(spans.values()),
        seconds_per_image=rate,
        bytes=round(size),
        gpu_bytes=max(memory, default=None),
        measured=len(rates),
    )


@dataclass(frozen=True)
class Made:
    """A shard of a column, and the log of how it was made."""

    column: str
    commit: Commit
    run: Mapping[str, Any]


def _evidence(look: Look, plans: Sequence[ColumnPlan]) -> list[list[Made]]:
    """Shards of these columns, in any split, that were computed as they would be now; a list for each shard number of a split."""
    settings = look.settings
    now = settings.run.model_dump(include=set(PLACE_OF_WORK))
    found: dict[tuple[SplitRef, int], list[Made]] = {}
    for split in settings.splits:
        for plan in plans:
            place = place_of(settings, split, plan.spec.name)
            folder = column_dir(settings.store_path, place)
            for shard in committed_shards(folder):
                try:
                    commit = look.records.commit(place, shard)
                except DamagedStoreError:  # verify names it; it cannot serve as evidence
                    continue
                if commit is None or commit.fingerprint != plan.meta.fingerprint:
                    continue
                run = read_log(folder, commit)
                how: Mapping[str, Any] = run.get("run", {})
                if commit.counts and {name: how.get(name) for name in PLACE_OF_WORK} == now:
                    found.setdefault((split, shard), []).append(Made(plan.spec.name, commit, run))
    return list(found.values())


def _same_work(done: Sequence[Sequence[Made]], wanted: set[str]) -> list[Mapping[str, Any]]:
    """The log of each shard for which just the wanted columns were computed in one go."""
    return [
        shard[0].run
        for shard in done
        if wanted == set(shard[0].run.get("columns", ()))
        and shard[0].run.get("image_seconds")
        and all(made.run.get("seconds") == shard[0].run["seconds"] for made in shard)
    ]
