"""Columns of dense features: a vector for each token of an image, in float16, or in int8 with a scale (:mod:`store.dense`).

``image_features/NAME`` and ``sam_features/NAME`` are float16; ``image_features/int8/NAME`` and ``image_features/scale/NAME``
together are the other form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from stages.base import Collector, ColumnSpec, not_finite
from stages.fields import Dense
from store.dense import from_int8, to_int8
from store.format.arrays import AnyArray
from store.format.schema import FAILED

VERSION = 1
"""Version of :func:`store.dense.to_int8`: raised whenever the same vectors would give other bytes."""
CHANNEL_AXIS = {"image_features": -1, "sam_features": -3}
"""Kind of dense features -> the axis along which a token's numbers lie: [P, C], and [C, h, w]."""


def channel_axis(column: str) -> int:
    """The axis of a column of dense features along which a token's numbers lie, counted from the end."""
    return CHANNEL_AXIS[column.partition("/")[0]]


def dense_columns(column: str, dense: Dense) -> tuple[str, ...]:
    """The columns that hold ``column``, such as ``sam_features/sam_vit_h``, in a form: the column itself, or values and scales."""
    if dense == "float16":
        return (column,)
    kind, _, name = column.partition("/")
    return f"{kind}/int8/{name}", f"{kind}/scale/{name}"


def every_form(column: str) -> set[str]:
    """The names that :func:`dense_columns` gives in all forms."""
    return {column, *dense_columns(column, "int8")}


def dense_specs(spec: ColumnSpec, forms: Sequence[Dense]) -> Iterator[ColumnSpec]:
    """The columns that hold the vectors of ``spec``, which is float16, in each form."""
    assert spec.layout is not None
    for form in forms:
        if form == "float16":
            yield spec
            continue
        values, scale = dense_columns(spec.name, form)
        shared = replace(spec, params={**spec.params, "int8": VERSION})
        yield replace(shared, name=values, layout=replace(spec.layout, dtype="int8"))
        axis = channel_axis(spec.name) + len(spec.layout.row_shape)
        shape, names = list(spec.layout.row_shape), list(spec.layout.dimension_names)
        del shape[axis], names[axis + 1]
        layout = replace(spec.layout, row_shape=tuple(shape), chunk_rows=shape[0], dimension_names=tuple(names))
        yield replace(shared, name=scale, layout=layout)


class DenseCollector:
    """Gathers dense features in those of their columns that a shard needs; falsy if it needs none of them.

    Args:
        out: column -> its collector.
        column: the float16 column, whether it is wanted or not.
    """

    def __init__(self, out: Mapping[str, Collector], column: str) -> None:
        self.axis = channel_axis(column)
        (whole,), (values, scale) = dense_columns(column, "float16"), dense_columns(column, "int8")
        self.whole, self.values, self.scale = out.get(whole), out.get(values), out.get(scale)

    def __bool__(self) -> bool:
        return any(self._wanted())

    def _wanted(self) -> list[Collector]:
        return [each for each in (self.whole, self.values, self.scale) if each is not None]

    def failed(self, image_index: int, status: str, reason: str) -> None:
        """Add an image that has no features."""
        for each in self._wanted():
            each.failed(image_index, status, reason)

    def array(self, image_index: int, vectors: AnyArray) -> None:
        """Add the float32 features of an image; the image fails in every form if they are not finite in float16."""
        if trouble := not_finite(vectors, "float16"):
            self.failed(image_index, FAILED, trouble)
            return
        if self.whole is not None:
            self.whole.array(image_index, vectors)
        if self.values is not None or self.scale is not None:
            values, scale = to_int8(vectors, self.axis)
            for column, part in ((self.values, values), (self.scale, scale)):
                if column is not None:
                    column.ok(image_index, part)


def widened(column: str, found: Sequence[AnyArray]) -> AnyArray:
    """Float16 features from the contents of the columns that :func:`dense_columns` names, in their order."""
    return found[0] if len(found) == 1 else from_int8(found[0], found[1], channel_axis(column))
