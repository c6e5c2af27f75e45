"""The columns that the settings ask for, in the order they are made, each with its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from pipeline.config import InputError, Settings
from stages import center, embed, index, masks, match, means
from stages.base import HELD_IMAGES, ColumnSpec, Reduction, Stage
from stages.checkpoints import WeightsError
from stages.datasets import FORMATS
from stages.names import SplitRef
from stages.params import Sections
from stages.weights import expected_sha256, find
from store.format.column import fingerprint
from store.format.layout import FORMAT_VERSION
from store.format.names import is_of_pictures
from store.storage.files import canonical_json

MAPS: dict[str, Stage] = {"index": index, "masks": masks, "embed": embed, "match": match, "center": center}
"""Stages that compute a shard from the same shard of what they read."""
REDUCTIONS: dict[str, Reduction] = {"means": means}
"""Stages that compute one shard from all shards of several splits."""
STAGES: dict[str, Stage | Reduction] = {
    name: (MAPS | REDUCTIONS)[name] for name in ("index", "masks", "embed", "match", "means", "center")
}
"""Every stage in the order they run. Name = DVC stage = value of --stage = section of the params where it has parameters."""
EXTRACTED = ("masks", "embed", "match")
"""Stages of the verb ``extract``."""


@lru_cache(maxsize=32)
def specs(settings: Settings, dataset: str) -> Mapping[str, ColumnSpec]:
    """Every column of a data set's splits by name, upstream first, and those that are reduced over splits of any data set.

    What is made of pixels alone is made where the images are: a data set that borrows its images has no such column.
    """
    sections = settings.of(dataset)
    try:
        found = [spec for stage in STAGES.values() for spec in stage.columns(sections)]
    except ValueError as error:
        raise InputError(str(error)) from error
    return {
        spec.name: spec
        for spec in _that_can_be_read(found, sections)
        if sections.holder is None or not is_of_pictures(spec.name)
    }


def _that_can_be_read(specs: Sequence[ColumnSpec], sections: Sections) -> Iterator[ColumnSpec]:
    """The columns, without those made from annotations if the data set's format has none; upstream comes first."""
    absent = set() if FORMATS[sections.data.format].annotated else {"instances", "targets"}
    for spec in specs:
        if spec.over is None and not absent.isdisjoint(spec.reads):
            absent.add(spec.name)
        else:
            yield spec


def all_specs(settings: Settings) -> Mapping[str, ColumnSpec]:
    """The columns of all data sets: their names, stages, weights and layouts do not depend on the data set."""
    return {name: spec for dataset in settings.data for name, spec in specs(settings, dataset).items()}


UNKNOWN = "no digest yet"
"""Stands for the digest of weights that nobody has adopted."""


def column_identity(settings: Settings, dataset: str | None, column: str, lenient: bool = False) -> dict[str, Any]:
    """All that decides a column's bytes, as plain values, in the form in which it comes back from ``column.json``.

    Only the weights of the column, and of what it is computed from, need a digest.

    Args:
        dataset: whose column; None for a column that is reduced over splits.
        lenient: let weights without a known digest be :data:`UNKNOWN`, which no stored column has, instead of raising.
    """
    spec = specs(settings, dataset or next(iter(settings.data)))[column]
    found = {
        "format_version": FORMAT_VERSION,
        "shard_images": settings.shard_images,
        "stage": spec.stage,
        "version": spec.version,
        "params": dict(spec.params),
        "weights": {name: _digest(settings, name, lenient) for name in spec.weights},
        "reads": _reads(settings, dataset, spec, lenient),
        "array": None if spec.layout is None else asdict(spec.layout),
    }
    return json.loads(canonical_json(found))  # type: ignore[no-any-return]


def wanted_fingerprint(settings: Settings, dataset: str | None, column: str, lenient: bool = False) -> str:
    """The fingerprint that a column has to have; arguments as in :func:`column_identity`."""
    return fingerprint(column_identity(settings, dataset, column, lenient))


def _reads(settings: Settings, dataset: str | None, spec: ColumnSpec, lenient: bool) -> dict[str, str]:
    """Fingerprints of what a column reads; a reduced one reads columns of every data set that it is taken over."""
    if spec.over is None:
        dataset = dataset or next(iter(settings.data))
        return {name: wanted_fingerprint(settings, *lies_at(settings, dataset, name), lenient) for name in spec.reads}
    over = dict.fromkeys(SplitRef.of(split).dataset for split in spec.over)
    return {
        f"{each}/{name}": wanted_fingerprint(settings, *lies_at(settings, each, name), lenient)
        for each in over
        for name in spec.reads
        if has_column(settings, each, name)
    }


def lies_at(settings: Settings, dataset: str, read: str) -> tuple[str | None, str]:
    """Where a column of a data set finds what it reads as ``read``: data set (None: a reduced column) and column."""
    if read in reduced(settings):
        return None, read
    holder = settings.holder(dataset)
    if read == HELD_IMAGES:
        return holder, "images"
    return (holder if holder is not None and is_of_pictures(read) else dataset), read


def has_column(settings: Settings, dataset: str, read: str) -> bool:
    """Whether a data set has a column, its own or borrowed: one without annotations has none that is made of them."""
    where, column = lies_at(settings, dataset, read)
    return column in specs(settings, where or dataset)


def is_borrowed(settings: Settings, dataset: str, read: str) -> bool:
    """Whether a column of a data set reads, under this name, a column of the data set that holds its images."""
    return lies_at(settings, dataset, read)[0] not in (None, dataset)


def _digest(settings: Settings, weights: str, lenient: bool) -> str:
    try:
        return expected_sha256(weights, settings.weights_lock)
    except WeightsError:
        if not lenient:
            raise
        find(weights)  # an error where there is no such checkpoint
        return UNKNOWN


def reduced(settings: Settings) -> Mapping[str, ColumnSpec]:
    """The columns that are reduced over splits: they belong to no data set, and have one shard each."""
    every = specs(settings, next(iter(settings.data)))
    return {name: spec for name, spec in every.items() if spec.over is not None}


def is_reduced(settings: Settings, column: str) -> bool:
    """Whether a column is reduced over splits."""
    return column in reduced(settings)


def upstream_columns(settings: Settings, column: str, split: SplitRef | None) -> list[tuple[str, SplitRef | None]]:
    """(column, split) of what a column of a split may be computed from. The split of a reduced column is None throughout.

    What is borrowed may lie in any split of the holder: :func:`pipeline.upstream.upstream_shards` says where.
    """
    if split is None:
        spec = reduced(settings)[column]
        reads = [(read, SplitRef.of(where)) for where in spec.over or () for read in spec.reads]
    else:
        reads = [(read, split) for read in specs(settings, split.dataset)[column].reads]
    found: list[tuple[str, SplitRef | None]] = []
    for read, where in reads:
        dataset, name = lies_at(settings, where.dataset, read)
        if dataset is None:
            found.append((name, None))
        else:
            found += [(name, each) for each in ((where,) if dataset == where.dataset else settings.held(where.dataset))]
    return list(dict.fromkeys(found))


def stage_specs(settings: Settings, dataset: str, stage: str) -> list[ColumnSpec]:
    """The columns of one stage."""
    return [spec for spec in specs(settings, dataset).values() if spec.stage == stage]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, as ``params.points_per_side: 16 -> 32``."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if key == "reads" and not prefix:
            changed = sorted(
                name
                for name in {*(before or {}), *(after or {})}
                if (before or {}).get(name) != (after or {}).get(name)
            )
            lines += [f"{name} changed" for name in changed]
        elif isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {_short(before)} -> {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "..."
