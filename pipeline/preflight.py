"""What a command needs, looked for before it changes the store: upstream, consent, permission, weights, device."""

from __future__ import annotations

import errno
import math
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import ROOT, InputError, Settings
from pipeline.executors import Executor
from pipeline.graph import all_specs, wanted_fingerprint
from pipeline.listed import not_indexed
from pipeline.look import Look
from pipeline.plan import MISSING, STALE, ColumnPlan
from pipeline.shard import require_device
from pipeline.upstream import Upstream, known_sources, place_of, upstream_shards
from stages.names import SplitRef
from stages.weights import locate, why_missing
from store.addresses import is_remote
from store.storage.listing import is_there
from store.storage.mounts import storage_of

ON_A_DEVICE = ("masks", "embed")
"""Stages that compute with torch."""


@dataclass(frozen=True)
class Needs:
    """What a worker has to have: weights by name and, where ``device`` is set, the device of section run."""

    settings: str
    weights: tuple[str, ...]
    device: bool


def find_needs(needs: Needs) -> None:
    """Look for the weights and the device, where the work will be done.

    Raises:
        WeightsError: a checkpoint is missing, or is not the expected one.
        InputError: the device cannot be had.
    """
    settings = Settings.model_validate_json(needs.settings)
    for name in needs.weights:
        locate(name, ROOT / settings.run.weights_dir, settings.weights_lock)
    if needs.device:
        require_device(settings)


def require_needs(settings: Settings, columns: Collection[str], executor: Executor) -> None:
    """:func:`find_needs` of the columns that are to be computed, wherever the executor computes. Raises as it does; on a Dask
    worker, InputError that names the worker.
    """
    known = all_specs(settings)
    weights = sorted({name for column in columns for name in known[column].weights})
    device = any(known[column].stage in ON_A_DEVICE for column in columns)
    if columns and (weights or device):
        executor.require(find_needs, Needs(settings.model_dump_json(), tuple(weights), device))


def missing_weights(settings: Settings, columns: Collection[str]) -> tuple[str, ...]:
    """A line for every checkpoint of the columns that is not here, with the command that gets it; nothing is digested."""
    names = sorted({name for column in columns for name in all_specs(settings)[column].weights})
    reasons = (why_missing(name, ROOT / settings.run.weights_dir, settings.weights_lock) for name in names)
    return tuple(reason for reason in reasons if reason)


def require_writable(*folders: Path) -> None:
    """Raise PermissionError, naming the folder, where this user may not write or the file system is read-only."""
    for folder in folders:
        if is_remote(folder):
            with storage_of(folder).stage(folder / "probe", ()):  # which tries the storage out first
                continue
        existing = next(path for path in (folder, *folder.parents) if is_there(path))
        if not os.access(existing, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(existing).f_flag & os.ST_RDONLY else errno.EACCES
            raise PermissionError(
                number, f"{os.strerror(number)}: this user may not write there, and nothing was changed", str(existing)
            )


def require_consent(plans: Sequence[ColumnPlan], split: SplitRef, command: str) -> None:
    """Refuse to replace columns that a reader can read now with those of other parameters, unless it was asked for.

    Raises:
        InputError: names columns, shards, what differs, and the command.
    """
    lines = [replacement(plan) for plan in plans if plan.replaces]
    if lines:
        raise InputError(
            f"split {split}: this would replace finished shards, which other parameters made:\n"
            + "".join(f"  {line}\n" for line in lines)
            + f"nothing was changed; to replace them: python cli.py {command} --replace"
        )


def replacement(plan: ColumnPlan) -> str:
    """Which finished shards of a column would be replaced, and why."""
    why = "; ".join(plan.changes) or "computed with other parameters"
    return f"{plan.spec.name}: {len(plan.replaces)} finished shards ({why})"


def require_upstream(
    look: Look,
    plans: Sequence[ColumnPlan],
    split: SplitRef | None,
    todo: Mapping[int, Collection[str]],
    meanwhile: Collection[Upstream] = (),
) -> None:
    """Raise InputError, naming the command, where an upstream column of another stage is not done for these shards.

    Args:
        split: None where the plans are of columns that are reduced over splits.
        meanwhile: shards of other columns that the same command computes before.
    """
    settings = look.settings
    own = {(plan.spec.name, split) for plan in plans}
    gaps = [
        gap
        for plan in plans
        for gap in _gaps(look, plan, split, [n for n, names in todo.items() if plan.spec.name in names], own, meanwhile)
    ]
    if gaps:
        from pipeline.advice import to_complete

        column, where, reason = gaps[0]
        more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
        of = "" if where is None else f"split {where}: "
        raise InputError(f"{of}{column} {reason}{more}; run: {to_complete(settings, where, column)}")


def _gaps(
    look: Look,
    plan: ColumnPlan,
    split: SplitRef | None,
    shards: Sequence[int],
    own: Collection[tuple[str, SplitRef | None]],
    meanwhile: Collection[Upstream],
) -> Iterator[tuple[str, SplitRef | None, str]]:
    """(column, split, what is wrong) for all that the shards read that is not in ``own`` or ``meanwhile`` and is not done."""
    settings, records = look.settings, look.records
    for train in map(SplitRef.of, plan.spec.over or ()) if shards else ():
        if not known_sources(settings, train):
            from pipeline.advice import to_complete

            raise not_indexed(settings, train, to_complete(settings, train, plan.spec.reads[0]))
    want: dict[tuple[str | None, str], str] = {}
    read = [
        one
        for shard in shards
        for one in upstream_shards(settings, records, plan.spec.name, split, shard, plan.links(shard))
    ]
    for name, where, number in dict.fromkeys(read):
        if (name, where) in own or (name, where, number) in meanwhile:
            continue
        place, stage = place_of(settings, where, name), all_specs(settings)[name].stage
        dataset = None if where is None else where.dataset
        if (dataset, name) not in want:
            want[dataset, name] = wanted_fingerprint(settings, dataset, name)
        commit = records.commit(place, number)
        if commit is None:
            yield name, where, f"shard {number} is {MISSING} (stage {stage})"
        elif commit.fingerprint != want[dataset, name] or records.why_not_current(place, number):
            yield name, where, f"shard {number} is {STALE} (stage {stage})"


def warn_of_a_full_disk(settings: Settings, plans: Sequence[ColumnPlan], todo: Mapping[int, list[str]]) -> None:
    """Say beforehand when the arrays of these shards may not fit."""
    need = 0
    if is_remote(settings.store_path):
        return
    for plan in plans:
        if plan.meta.array is not None:
            shape, dtype = plan.meta.array.row_shape, plan.meta.array.dtype
            images = sum(len(plan.meta.shard_range(shard)) for shard, names in todo.items() if plan.spec.name in names)
            need += images * math.prod(shape) * np.dtype(dtype).itemsize
    free = shutil.disk_usage(
        next(path for path in (settings.store_path, *settings.store_path.parents) if path.exists())
    ).free
    if need > free:
        print(
            f"warning: {settings.store_path} has {free / 1e9:.1f} GB left, these shards may take up to {need / 1e9:.1f} GB; what "
            "is finished when the disk is full is kept",
            file=sys.stderr,
        )
