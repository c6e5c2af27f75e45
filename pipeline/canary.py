"""Embeds a stored image again before shards are added to a column, and compares the vectors.

Code, a library or a device that changes numbers without a changed VERSION would give a column vectors of two kinds. The golden
tests catch that in our code; this catches it on the machine that does the work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from pipeline.config import InputError, Settings
from pipeline.executors import Executor
from pipeline.inputs import ShardSource
from pipeline.plan import DONE, ColumnPlan
from pipeline.shard import ShardTask, runner, settings_of
from pipeline.upstream import place_of
from stages.base import ShardInput
from stages.names import SplitRef
from store.format.schema import OK

LEAST_COSINE = 0.99
"""Least cosine of a vector with its stored value: it allows for float16 and another device, but not for another transform or
checkpoint."""


def compare_with_stored(
    settings: Settings,
    stage: str,
    split: SplitRef,
    plans: Sequence[ColumnPlan],
    todo: Mapping[int, list[str]],
    started: tuple[str, ...],
    executor: Executor,
) -> None:
    """Check that a column which has shards already is continued with the same numbers (:func:`check_stored`)."""
    names = next(iter(todo.values()), [])
    done = {
        shard: tuple(plan.spec.name for plan in plans if plan.spec.name in names and plan.shards[shard].state == DONE)
        for shard in range(plans[0].meta.shards if stage == "embed" and plans else 0)
        if shard not in todo
    }
    shard = max((shard for shard, columns in done.items() if columns), default=None)
    if shard is not None:
        count = len(plans[0].meta.shard_range(shard))
        task = ShardTask(settings.model_dump_json(), stage, split, shard, count, done[shard], started)
        for _ in executor.map(check_stored, [task]):
            pass


def check_stored(task: ShardTask) -> None:
    """Embed an image of a done shard with today's code and device, into the columns of ``task``.

    Raises:
        InputError: the vectors are not those that are stored.
    """
    settings = settings_of(task.settings)
    source = ShardSource(settings, task.split, task.shard)
    commits = {column: source.commit(column, task.split, task.shard) for column in task.columns}
    position = next((p for p in reversed(range(task.count)) if any(c.counts[p] for c in commits.values())), None)
    if position is None:
        return
    index, one = task.shard * settings.shard_images + position, slice(position, position + 1)
    shard = ShardInput(
        range(index, index + 1),
        lambda table: source.rows(table)[one],
        lambda column, _: source.array(column, position),
        lambda column, _: source.trouble(column, position),
        lambda: islice(source.pixels(), position, position + 1),
        lambda images: None,
        columns=task.columns,
    )
    for column, data in runner(task)(shard).items():
        if commits[column].status[position] != OK:
            continue
        stored, found = source.array(column, position), np.asarray(data.rows[0])
        cosine = least_cosine(stored, found) if stored.shape == found.shape else 0.0
        if cosine < LEAST_COSINE:
            raise InputError(
                f"{place_of(settings, task.split, column)}: image {index} embedded now is not what is stored "
                f"(cosine {cosine:.3f}, at least {LEAST_COSINE} expected): code, a library or the device changed the "
                "numbers. Restore what made the column, or raise VERSION of the stage or the encoder, so that all of it "
                "is computed again"
            )


def least_cosine(a: Any, b: Any) -> float:
    """The least cosine of two arrays' vectors, row by row ``[..., dim]``; two zero vectors agree."""
    a, b = np.float64(a).reshape(len(a), -1), np.float64(b).reshape(len(b), -1)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = (a == 0).all(axis=1) & (b == 0).all(axis=1)
    cosine = np.where(same, 1.0, (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
    return float(cosine.min(initial=1.0))
