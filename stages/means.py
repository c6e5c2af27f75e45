"""Train means, one per mask encoder: a stage that reduces the embeddings of several splits to one vector.

ELISA's slides centre an embedding as ``x - mean``, where the mean is over every mask and instance of the train set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages import embed
from stages.base import ColumnSpec
from stages.params import Sections
from store.format.arrays import AnyArray
from store.format.column import ArrayLayout
from store.format.schema import OK
from store.write.writer import ShardData

VERSION = 2
KINDS = ("mask_embeddings", "instance_embeddings")
"""Kinds of columns that enter a mean, in the order in which they are summed."""


@dataclass(frozen=True)
class Embedded:
    """The columns of one mask encoder in a split.

    Args:
        name: the encoder, which is the end of the names of the masks' column and of the mean's column.
        masks, instances: their specs; imported vectors may exist for masks only.
    """

    name: str
    masks: ColumnSpec
    instances: ColumnSpec | None

    @property
    def specs(self) -> list[ColumnSpec]:
        """The specs that exist, in the order in which they are summed."""
        return [spec for spec in (self.masks, self.instances) if spec is not None]


def embedded(params: Sections) -> Iterator[Embedded]:
    """The mask embedding columns that stage embed writes, each with the instance embedding column of the same encoder."""
    specs = {spec.name: spec for spec in embed.columns(params)}
    for column, spec in specs.items():
        kind, _, name = column.partition("/")
        if kind == KINDS[0]:
            yield Embedded(name, spec, specs.get(f"{KINDS[1]}/{name.rpartition('/')[2]}"))


def mean_column(mean: str, name: str) -> str:
    """``means/<mean>/<proposer>/<encoder>``. ``name``: of :class:`Embedded`."""
    return f"means/{mean}/{name}"


def columns(params: Sections) -> list[ColumnSpec]:
    """For every mean, one column per mask encoder, of one row."""
    specs = []
    for mean, section in params.means.items():
        for own in embedded(params):
            assert own.masks.layout is not None
            dim = own.masks.layout.row_shape[-1]
            specs.append(
                ColumnSpec(
                    mean_column(mean, own.name),
                    "means",
                    tuple(spec.name for spec in own.specs),
                    {"train": list(section.train)},
                    VERSION,
                    layout=ArrayLayout((dim,), dim, "float64", dimension_names=("mean", "dim")),
                    over=section.train,
                )
            )
    return specs


Sum = tuple[npt.NDArray[np.float64] | None, int]
"""Sum of vectors (float64 [D]; None where there is no vector) and the number of vectors."""


def part(images: Iterable[AnyArray]) -> Sum:
    """The sum over one shard, image after image, so that it has the same bits on every machine.

    A zero vector, which a mask without a pixel has, does not count.
    """
    total, count = None, 0
    for each in images:
        vectors = each[each.any(axis=1)]
        if len(vectors):
            added = vectors.astype(np.float64).sum(axis=0)
            total = added if total is None else total + added
            count += len(vectors)
    return total, count


def whole(parts: Iterable[Sum]) -> ShardData:
    """The mean (float64 [D]) from partial sums, added in order; every vector has the same weight.

    ``extra`` has its ``count`` and ``norm``.

    Raises:
        ValueError: there is no vector at all.
    """
    total, count = None, 0
    for added, number in parts:
        if added is not None:
            total = added if total is None else total + added
            count += number
    if total is None:
        raise ValueError(
            "the train splits hold no mask and no instance with a vector other than zero; there is nothing to take the mean of"
        )
    mean = total / count
    return ShardData([mean], [len(mean)], [OK], extra={"count": count, "norm": float(np.linalg.norm(mean))})
