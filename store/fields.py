"""Values of a table's rows, straight from Arrow's buffers: numpy views and strings, without a Python object a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Accessor = Callable[[int], Any]
_Span = Callable[[int, int], Any]


def accessor(values: pa.Array) -> Accessor:
    """A function from row number to value.

    list of numbers: read-only array [k]; list of fixed-size lists: array [k, size]; list of strings: list of str; list of
    lists: list of arrays; string: str or None; number: numpy scalar. Same values as ``to_pylist()``.
    """
    span = _span(values)
    return lambda row: span(row, row + 1)[0]


def _span(values: pa.Array) -> _Span:
    """A function from ``first, end`` to the values between them, as one array or list."""
    kind = values.type
    if pa.types.is_string(kind) and values.null_count == 0:
        return _strings(values)
    if pa.types.is_list(kind) and values.null_count == 0:
        offsets, inner = values.offsets.to_pylist(), _span(values.values)
        return lambda first, end: [inner(offsets[row], offsets[row + 1]) for row in range(first, end)]
    if pa.types.is_fixed_size_list(kind) and values.null_count == 0:
        size, flat = kind.list_size, _span(values.flatten())
        if isinstance(flat(0, 0), np.ndarray):
            return lambda first, end: flat(first * size, end * size).reshape(-1, size)
    elif pa.types.is_primitive(kind) and values.null_count == 0:
        numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=not pa.types.is_boolean(kind))
        return lambda first, end: numbers[first:end]
    return lambda first, end: values.slice(first, end - first).to_pylist()


def _strings(values: pa.Array) -> _Span:
    _, where, data = values.buffers()
    offsets: list[int] = (
        np.frombuffer(where, np.int32)[values.offset : values.offset + len(values) + 1].tolist() if len(values) else [0]
    )
    text = memoryview(data) if data is not None else memoryview(b"")
    return lambda first, end: [str(text[offsets[row] : offsets[row + 1]], "utf-8") for row in range(first, end)]
