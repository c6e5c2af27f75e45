"""The columns that the settings ask for, in the order they are made, each with its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from pipeline.config import InputError, Settings
from stages import center, embed, index, masks, match, means
from stages.base import ColumnSpec, Reduction, Stage
from stages.checkpoints import WeightsError
from stages.weights import WEIGHTS, expected_sha256
from store.format.column import fingerprint
from store.format.layout import FORMAT_VERSION
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


@lru_cache(maxsize=8)
def specs(settings: Settings) -> Mapping[str, ColumnSpec]:
    """Every column by name, upstream first: those of each split, and those that are reduced over splits."""
    try:
        return {spec.name: spec for stage in STAGES.values() for spec in stage.columns(settings)}
    except ValueError as error:
        raise InputError(str(error)) from error


UNKNOWN = "no digest yet"
"""Stands for the digest of weights that nobody has adopted."""


def column_identity(settings: Settings, column: str, lenient: bool = False) -> dict[str, Any]:
    """All that decides a column's bytes, in clear, as it comes back from ``column.json``.

    Only the weights of the column, and of what it is computed from, need a digest.

    Args:
        lenient: let weights without a known digest be :data:`UNKNOWN`, which no stored column has, instead of raising.
    """
    spec = specs(settings)[column]
    found = {
        "format_version": FORMAT_VERSION,
        "shard_images": settings.shard_images,
        "stage": spec.stage,
        "version": spec.version,
        "params": dict(spec.params),
        "weights": {name: _digest(settings, name, lenient) for name in spec.weights},
        "reads": {name: wanted_fingerprint(settings, name, lenient) for name in spec.reads},
        "array": None if spec.layout is None else asdict(spec.layout),
    }
    return json.loads(canonical_json(found))  # type: ignore[no-any-return]


def wanted_fingerprint(settings: Settings, column: str, lenient: bool = False) -> str:
    """The fingerprint that a column has to have; ``lenient`` as in :func:`column_identity`."""
    return fingerprint(column_identity(settings, column, lenient))


def _digest(settings: Settings, weights: str, lenient: bool) -> str:
    try:
        return expected_sha256(weights, settings.weights_lock)
    except WeightsError:
        if not lenient or weights not in WEIGHTS:
            raise
        return UNKNOWN


def is_reduced(settings: Settings, column: str) -> bool:
    """Whether a column is reduced over splits: it belongs to none of them, and has one shard."""
    spec = specs(settings).get(column)
    return spec is not None and spec.over is not None


def upstream_columns(settings: Settings, column: str, split: str | None) -> list[tuple[str, str | None]]:
    """(column, split) of what a column of a split is computed from. The split of a reduced column is None, here and there."""
    spec = specs(settings)[column]
    if spec.over is not None:
        return [(read, where) for where in spec.over for read in spec.reads]
    return [(read, None if is_reduced(settings, read) else split) for read in spec.reads]


def stage_specs(settings: Settings, stage: str) -> list[ColumnSpec]:
    """The columns of one stage."""
    return [spec for spec in specs(settings).values() if spec.stage == stage]


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
