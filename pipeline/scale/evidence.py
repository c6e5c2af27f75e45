"""What the store itself says: the images of its splits, and how long shards took on a card."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pipeline.config import InputError, Settings
from pipeline.graph import specs, stage_specs, wanted_fingerprint
from pipeline.listed import not_indexed
from pipeline.scale.amounts import Workload
from pipeline.upstream import known_sources, place_of
from stages.checkpoints import WeightsError
from stages.names import SplitRef
from store.errors import DamagedStoreError
from store.format.column import Commit
from store.format.layout import column_dir
from store.format.lineage import Lineage
from store.format.shard import committed_shards, read_log
from store.format.tables import read_table

SHARDS = 20
"""How many shards of a split are looked at, spread evenly."""


def workload(settings: Settings, split: SplitRef, masks: float, size_px: tuple[float, float]) -> Workload:
    """The images of an indexed split: how many, their mean size, annotated regions and questions.

    Args:
        masks: of an image, where none were computed yet.
        size_px: width and height where no image could be read.

    Raises:
        InputError: the split is not indexed.
    """
    images = len(known_sources(settings, split))
    if not images:
        raise InputError(f"{not_indexed(settings, split)}; or say how many images there are: --images N --size 640x480")
    look = Lineage(settings.store_path)
    width, height = _size(settings, look, split) or size_px
    tables = specs(settings, split.dataset)
    found = {name: _mean_count(settings, look, split, name) for name in ("instances", "targets") if name in tables}
    proposed = [_mean_count(settings, look, split, f"masks/{name}") for name in settings.proposers]
    known = [count for count in proposed if count is not None]
    return Workload(
        split.dataset,
        images,
        height,
        width,
        sum(known) / len(known) if known else masks,
        found.get("instances") or 0.0,
        found.get("targets") or 0.0,
        -(-images // settings.shard_images),
    )


def seconds_on(settings: Settings, splits: Sequence[SplitRef], stage: str, titles: Sequence[str]) -> tuple[float, int]:
    """Seconds of an image in a stage, over shards that were computed with these parameters on a card, and how many images.

    Args:
        titles: how the card's name may begin in the shards' logs; empty: shards without a card.

    Returns:
        (0, 0) where there are no such shards.
    """
    look, seconds, images = Lineage(settings.store_path), 0.0, 0
    for split in splits:
        columns = sorted(spec.name for spec in stage_specs(settings, split.dataset, stage))
        for name in columns[:1]:
            try:
                wanted = wanted_fingerprint(settings, split.dataset, name)
            except WeightsError:
                continue
            folder = column_dir(settings.store_path, place_of(settings, split, name))
            for commit in _commits(settings, look, split, name):
                run = read_log(folder, commit) if commit.fingerprint == wanted else {}
                if run.get("columns") == columns and _is_on(str(run.get("card", "")), titles):
                    times = run["image_seconds"][1:]  # the first one is slow
                    seconds, images = seconds + sum(times), images + len(times)
    return (seconds / images, images) if images else (0.0, 0)


def _is_on(card: str, titles: Sequence[str]) -> bool:
    return any(card.startswith(title) for title in titles) if titles else not card


def _mean_count(settings: Settings, look: Lineage, split: SplitRef, column: str) -> float | None:
    """Mean entries of an image, over some shards; None without a shard."""
    counts = [count for commit in _commits(settings, look, split, column) for count in commit.counts]
    return sum(counts) / len(counts) if counts else None


def _size(settings: Settings, look: Lineage, split: SplitRef) -> tuple[float, float] | None:
    """Mean width and height, px, of images that could be read; None if no image could."""
    folder, sizes = column_dir(settings.store_path, place_of(settings, split, "images")), []
    for commit in _commits(settings, look, split, "images"):
        rows = read_table(folder, commit).select(["width_px", "height_px"]).to_pylist()
        sizes += [(row["width_px"], row["height_px"]) for row in rows if row["width_px"]]
    if not sizes:
        return None
    return sum(width for width, _ in sizes) / len(sizes), sum(height for _, height in sizes) / len(sizes)


def _commits(settings: Settings, look: Lineage, split: SplitRef, column: str) -> Iterator[Commit]:
    """The commits of some shards of a column, evenly spread; damaged ones are left out, because verify reports them."""
    place = place_of(settings, split, column)
    shards = committed_shards(column_dir(settings.store_path, place))
    for shard in shards[:: max(1, -(-len(shards) // SHARDS))]:
        with contextlib.suppress(DamagedStoreError):
            if (commit := look.commit(place, shard)) is not None:
                yield commit
