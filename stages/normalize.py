"""Train mean -> centred embeddings. ELISA slides: x - mean, the mean over every mask and instance of the train set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stages.base import VECTORS_PER_CHUNK, Collector, ColumnSpec, Runner, ShardInput
from stages.encoders import encoder_line
from stages.params import Sections, Shared
from store.format.arrays import AnyArray
from store.format.column import ArrayLayout
from store.format.layout import mean_column
from store.write.writer import ShardData

VERSION = 2
KINDS = ("mask_embeddings", "instance_embeddings")


def mean_of(params: Shared, encoder: str) -> str:
    """Column of an encoder's train mean, ``/means/<name>/<encoder>``."""
    return "/" + mean_column(params.normalize.name, encoder)


def columns(params: Sections) -> list[ColumnSpec]:
    """For every mask encoder, the mean and the two centred columns."""
    specs = []
    for name in params.embed.mask_encoders:
        dim = encoder_line(name, "mask").dim
        reads = tuple(f"{kind}/{name}" for kind in KINDS)
        layout = ArrayLayout((dim,), dim, "float64", dimension_names=("mean", "dim"))
        train = {"train": list(params.normalize.train)}
        specs.append(ColumnSpec(mean_of(params, name), "normalize", reads, train, VERSION, layout=layout))
        for kind, limit in zip(KINDS, (params.embed.max_masks, params.embed.max_instances), strict=True):
            layout = ArrayLayout(
                (limit, dim), VECTORS_PER_CHUNK, "float16", dimension_names=("image", kind.split("_")[0], "dim")
            )
            read = (f"{kind}/{name}", mean_of(params, name))
            specs.append(ColumnSpec(f"centered/{kind}/{name}", "normalize", read, {}, VERSION, layout=layout))
    return specs


def partial_sum(images: Iterable[AnyArray]) -> tuple[npt.NDArray[np.float64] | None, int]:
    """Sum (float64 [D]) and number of the vectors of one shard, image after image: the same bits wherever it runs.

    A zero vector, which a mask without a pixel has, does not vote.
    """
    total, count = None, 0
    for each in images:
        vectors = each[each.any(axis=1)]
        if len(vectors):
            part = vectors.astype(np.float64).sum(axis=0)
            total = part if total is None else total + part
            count += len(vectors)
    return total, count


def reduce_sums(sums: Iterable[tuple[npt.NDArray[np.float64] | None, int]]) -> tuple[npt.NDArray[np.float64], int]:
    """The mean (float64 [D]) and the number of vectors, from partial sums in shard order; one vote per vector.

    Raises:
        ValueError: there is no vector at all.
    """
    total, count = None, 0
    for part, number in sums:
        if part is not None:
            total = part if total is None else total + part
            count += number
    if total is None:
        raise ValueError(
            "the train splits hold no mask and no instance with a vector other than zero; there is nothing to take the mean of"
        )
    return total / count, count


def center(vectors: AnyArray, mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """``vectors - mean``, [count, D] in float64; the writer rounds once. A zero vector stays zero."""
    return np.where(vectors.any(axis=1, keepdims=True), vectors.astype(np.float64) - mean, 0.0)


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Return the function that centres a shard."""
    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = {name: Collector(spec) for name, spec in specs.items()}
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
