"""Where columns are, and which shards a shard is computed from, even if its images belong to another data set."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence

from pipeline.config import Settings
from pipeline.graph import has_column, is_reduced, lies_at, reduced, specs
from stages.base import HELD_IMAGES
from stages.names import SplitRef
from store.errors import DamagedStoreError
from store.format import layout
from store.format.column import Commit, read_column
from store.format.layout import column_dir
from store.format.lineage import Lineage
from store.format.links import Link, links_of
from store.format.shard import committed_shards, read_commit
from store.format.tables import read_table


def place_of(settings: Settings, split: SplitRef | None, column: str) -> str:
    """``<dataset>/<column>/<split>``; for a column that is reduced over splits, just its name."""
    if split is None or is_reduced(settings, column):
        return column
    return layout.place_of(split.dataset, column, split.split)


def split_of(settings: Settings, place: str) -> tuple[SplitRef, str] | None:
    """The split and the column of a place, the column empty for a split as a whole; None where the params have no such split."""
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


Upstream = tuple[str, SplitRef | None, int]
"""Column, split (None: of a reduced column) and shard that another shard is computed from."""


def upstream_shards(
    settings: Settings,
    records: Lineage,
    column: str,
    split: SplitRef | None,
    shard: int,
    links: Sequence[Link | None] | None = None,
) -> list[Upstream]:
    """All that a shard is computed from, in the order in which a reduction takes them, each once.

    For a column of a split: the same shard of each column that it reads, or the only one of a reduced column; for what it
    borrows, the shards of the holder that its images lie in, and its own shard of ``images``, which says where they lie. For a
    reduced column: every such shard of the columns that it reads, split by split.

    Args:
        links: where the images of the shard lie; default: as the record of ``images`` says. Without that record the shards of
            the holder are left out, because the one of ``images`` is missing.
    """
    if split is None:
        over = [
            (SplitRef.of(name), read)
            for name in reduced(settings)[column].over or ()
            for read in reduced(settings)[column].reads
            if has_column(settings, SplitRef.of(name).dataset, read)
        ]
        counts = {where: range(shard_count(settings, where)) for where in dict.fromkeys(where for where, _ in over)}
        found = [_read_of(settings, records, where, read, number) for where, read in over for number in counts[where]]
    else:
        found = [
            _read_of(settings, records, split, read, shard, links)
            for read in specs(settings, split.dataset)[column].reads
        ]
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def _read_of(
    settings: Settings,
    records: Lineage,
    split: SplitRef,
    read: str,
    shard: int,
    links: Sequence[Link | None] | None = None,
) -> list[Upstream]:
    """What a shard of a split takes of one column that it reads."""
    dataset, name = lies_at(settings, split.dataset, read)
    if dataset is None:
        return [(name, None, 0)]
    if dataset == split.dataset:
        return [(name, split, shard)]
    own: list[Upstream] = [] if read == HELD_IMAGES else [("images", split, shard)]
    if links is None:
        links = known_links(settings, records, split, shard)
    return [(name, *where) for where in held_shards(settings, split, links)] + own


def held_shards(settings: Settings, split: SplitRef, links: Iterable[Link | None]) -> list[tuple[SplitRef, int]]:
    """The shards of the holder that borrowed images lie in, each once."""
    holder = settings.data[split.dataset].images
    return list(dict.fromkeys((SplitRef(holder, link[0]), link[1] // settings.shard_images) for link in links if link))


def known_links(settings: Settings, records: Lineage, split: SplitRef, shard: int) -> list[Link | None]:
    """Where the images of a shard lie, as its record of ``images`` says; empty where that is not computed, or not borrowed."""
    try:
        commit = records.commit(place_of(settings, split, "images"), shard)
        return [] if commit is None else links_of(commit)
    except DamagedStoreError:
        return []


def lenders(settings: Settings, records: Lineage, split: SplitRef) -> list[SplitRef]:
    """The splits of the holder that have any of the images that a split borrows, as far as its records can be read."""
    try:
        meta = records.meta(place_of(settings, split, "images"))
    except DamagedStoreError:
        meta = None
    if meta is None or settings.holder(split.dataset) is None:
        return []
    links = (link for shard in range(meta.shards) for link in known_links(settings, records, split, shard))
    return list(dict.fromkeys(where for where, _ in held_shards(settings, split, links)))


def commits_of(settings: Settings, split: SplitRef, column: str) -> list[Commit] | None:
    """The records of all shards of a column; None where one is not there. Raises DamagedStoreError."""
    records, place = Lineage(settings.store_path), place_of(settings, split, column)
    meta = records.meta(place)
    found = [] if meta is None else [records.commit(place, shard) for shard in range(meta.shards)]
    there = [commit for commit in found if commit is not None]
    return there if meta is not None and len(there) == len(found) else None


def shard_count(settings: Settings, split: SplitRef) -> int:
    """How many shards the columns of a split have."""
    return -(-len(known_sources(settings, split)) // settings.shard_images)


def upstream_name(settings: Settings, split: SplitRef | None, read: str, where: SplitRef | None, shard: int) -> str:
    """What the record of a shard of a split (None: of a reduced column) calls a shard that it was computed from."""
    if where is not None and where == split:
        return read
    place = place_of(settings, where, read)
    return f"/{place}" if where is None else f"/{place}#{shard}"


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
            f"{max(rows) + 1}; restore the folder (dvc checkout), or remove the split to number its images from scratch"
        )
    return tuple(rows[number] for number in range(len(rows)))
