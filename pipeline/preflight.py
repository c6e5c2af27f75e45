"""What a command needs, looked for before it changes the store: upstream, consent, permission, weights, device."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ROOT, InputError, Settings
from pipeline.executors import Executor
from pipeline.graph import all_specs, specs, wanted_fingerprint
from pipeline.plan import MISSING, STALE, ColumnPlan, place_of
from pipeline.shard import require_device
from stages.names import SplitRef
from stages.weights import locate, why_missing
from store.format.lineage import Lineage
from store.storage.listing import is_there

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
        WeightsError: a checkpoint is missing or is another one.
        InputError: the device cannot be had.
    """
    settings = Settings.model_validate_json(needs.settings)
    for name in needs.weights:
        locate(name, ROOT / settings.run.weights_dir, settings.weights_lock)
    if needs.device:
        require_device(settings)


def require_needs(settings: Settings, columns: Collection[str], executor: Executor) -> None:
    """:func:`find_needs` of the columns that are to be computed, on a worker of the executor. Raises as it does."""
    known = all_specs(settings)
    weights = sorted({name for column in columns for name in known[column].weights})
    device = any(known[column].stage in ON_A_DEVICE for column in columns)
    if columns and (weights or device):
        for _ in executor.map(find_needs, [Needs(settings.model_dump_json(), tuple(weights), device)]):
            pass


def missing_weights(settings: Settings, columns: Collection[str]) -> tuple[str, ...]:
    """A line for every checkpoint of the columns that is not here, with the command that gets it; nothing is digested."""
    names = sorted({name for column in columns for name in all_specs(settings)[column].weights})
    reasons = (why_missing(name, ROOT / settings.run.weights_dir, settings.weights_lock) for name in names)
    return tuple(reason for reason in reasons if reason)


def require_writable(*folders: Path) -> None:
    """Raise PermissionError, naming the folder, where this user may not write or the file system is read-only."""
    for folder in folders:
        existing = next(path for path in (folder, *folder.parents) if is_there(path))
        if not os.access(existing, os.W_OK | os.X_OK):
            number = errno.EROFS if os.statvfs(existing).f_flag & os.ST_RDONLY else errno.EACCES
            raise PermissionError(number, f"{os.strerror(number)}: nothing was changed; to be written", str(existing))


def require_consent(plans: Sequence[ColumnPlan], split: SplitRef, command: str) -> None:
    """Refuse to replace what a reader can read now by what other parameters make, unless it was asked for.

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
    settings: Settings, plans: Sequence[ColumnPlan], split: SplitRef, todo: Mapping[int, Collection[str]]
) -> None:
    """Raise InputError, naming the command, where an upstream column of another stage is not done for these shards."""
    gaps: list[str] = []
    for plan in plans:
        shards = [shard for shard, names in todo.items() if plan.spec.name in names]
        own = {other.spec.name for other in plans}
        if shards and not set(plan.spec.reads) <= own:
            gaps += upstream_gaps(settings, plan, split, shards)
    if gaps:
        from pipeline.advice import to_complete

        column = gaps[0].split(" ", 1)[0]
        more = f" and {len(gaps) - 1} more" if len(gaps) > 1 else ""
        raise InputError(f"split {split}: {gaps[0]}{more}; run: {to_complete(settings, split, column)}")


def upstream_gaps(settings: Settings, plan: ColumnPlan, split: SplitRef, shards: Sequence[int]) -> list[str]:
    """Upstream columns that are not done for the shards, as a reason each."""
    look = Lineage(settings.store_path)
    gaps = []
    for name in plan.spec.reads:
        if name.startswith("/"):
            continue
        place, stage = place_of(settings, split, name), specs(settings, split.dataset)[name].stage
        want = wanted_fingerprint(settings, split.dataset, name)
        for shard in shards:
            commit = look.commit(place, shard)
            if commit is None:
                gaps.append(f"{name} shard {shard} is {MISSING} (stage {stage})")
            elif commit.fingerprint != want or look.why_not_current(place, shard):
                gaps.append(f"{name} shard {shard} is {STALE} (stage {stage})")
    return gaps
