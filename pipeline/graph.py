"""The columns that the settings ask for, in the order they are made, each with its fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from types import ModuleType
from typing import Any

from pipeline.config import InputError, Settings
from stages import embed, index, masks, match, normalize
from stages.base import ColumnSpec
from stages.checkpoints import WeightsError
from stages.weights import WEIGHTS, expected_sha256
from store.format.column import fingerprint
from store.format.layout import FORMAT_VERSION
from store.storage.files import canonical_json

STAGES: dict[str, ModuleType] = {"index": index, "masks": masks, "embed": embed, "match": match, "normalize": normalize}
"""Stage name = section of params.yaml = DVC stage = value of --stage, in the order they run."""


@lru_cache(maxsize=8)
def specs(settings: Settings) -> Mapping[str, ColumnSpec]:
    """Every column of a split by name, upstream first; means are ``/means/...``."""
    try:
        return {spec.name: spec for stage in STAGES.values() for spec in stage.columns(settings)}
    except ValueError as error:
        raise InputError(str(error)) from error


class Identities(Mapping[str, Mapping[str, Any]]):
    """Column -> all that decides its bytes, in clear; worked out when asked for, so that a stage needs no other's weights.

    Args:
        lenient: let weights without a known digest be :data:`UNKNOWN`, which no stored column has, instead of raising.
    """

    def __init__(self, settings: Settings, lenient: bool = False) -> None:
        self._settings = settings
        self._lenient = lenient
        self._found: dict[str, Mapping[str, Any]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(specs(self._settings))

    def __len__(self) -> int:
        return len(specs(self._settings))

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in self._found:
            settings, spec = self._settings, specs(self._settings)[name]
            identity = {
                "format_version": FORMAT_VERSION,
                "shard_images": settings.shard_images,
                "stage": spec.stage,
                "version": spec.version,
                "params": dict(spec.params),
                "weights": {item: self._sha256(item) for item in spec.weights},
                "reads": {item: fingerprint(self[item]) for item in spec.reads},
                "array": None if spec.layout is None else {**asdict(spec.layout), "compression": settings.compression},
            }
            self._found[name] = json.loads(canonical_json(identity))  # as it comes back from column.json
        return self._found[name]

    def _sha256(self, weights: str) -> str:
        try:
            return expected_sha256(weights, self._settings.weights_lock)
        except WeightsError:
            if not self._lenient or weights not in WEIGHTS:
                raise
            return UNKNOWN


UNKNOWN = "no digest yet"
"""Stands for the digest of weights that nobody has adopted."""


def identities(settings: Settings, lenient: bool = False) -> Identities:
    """The identities of the settings, worked out once for as long as ``weights.lock`` stays."""
    lock = settings.weights_lock
    state = lock.stat() if lock.is_file() else None
    return _identities(settings, lenient, (state.st_mtime_ns, state.st_size, state.st_ino) if state else None)


@lru_cache(maxsize=8)
def _identities(settings: Settings, lenient: bool, lock_version: object) -> Identities:
    return Identities(settings, lenient)


def stage_specs(settings: Settings, stage: str) -> list[ColumnSpec]:
    """The columns of one stage."""
    return [spec for spec in specs(settings).values() if spec.stage == stage]


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, as ``masks.points_per_side: 16 -> 32``."""
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
