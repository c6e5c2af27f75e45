"""Embeddings of masks and instances minus a train mean (stages/means.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.base import ColumnSpec, Runner, ShardInput
from stages.means import embedded, mean_column
from stages.params import Sections
from store.format.arrays import AnyArray
from store.write.writer import ShardData

VERSION = 2


def columns(params: Sections) -> list[ColumnSpec]:
    """For every mean and mask encoder, ``centered/<mean>/<the embeddings' column>``, for masks and for instances."""
    specs = []
    for mean in params.means:
        for own in embedded(params):
            for spec in own.specs:
                name = f"centered/{mean}/{spec.name.partition('/')[0]}/{own.name}"
                reads = (spec.name, mean_column(mean, own.name))
                specs.append(ColumnSpec(name, "center", reads, {}, VERSION, layout=spec.layout))
    return specs


def center(vectors: AnyArray, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``vectors - mean``, [count, D] in float64; the writer rounds once. A zero vector stays zero."""
    return np.where(vectors.any(axis=1, keepdims=True), vectors.astype(np.float64) - mean, 0.0)


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Return the function that centres a shard."""
    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = shard.collectors(specs)
        for column in out.values():
            source, mean = column.spec.reads
            vector = shard.array(mean, 0)
            for position, index in enumerate(shard.indices):
                if trouble := shard.trouble(source, position):
                    column.failed(index, *trouble)
                else:
                    column.array(index, center(shard.array(source, position), vector))
        for _ in shard.indices:
            shard.tick(1)
        return {name: collector.data() for name, collector in out.items()}

    return compute
