"""Fields of tables: the same values as Arrow's own conversion gives, whatever the type and however it is sliced."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.format.schema import TABLES
from store.read.table import accessor

FIELDS = {f"{table}.{field.name}": field.type for table, schema in TABLES.items() for field in schema}


def values(kind: pa.DataType) -> st.SearchStrategy:
    if pa.types.is_fixed_size_list(kind):
        return st.lists(values(kind.value_type), min_size=kind.list_size, max_size=kind.list_size)
    if pa.types.is_list(kind):
        return st.lists(values(kind.value_type), max_size=3)
    if pa.types.is_string(kind):
        return st.text(max_size=5)
    if pa.types.is_boolean(kind):
        return st.booleans()
    if pa.types.is_floating(kind):
        return st.floats(width=32, allow_nan=False)
    return st.integers(0, 2**31 - 1)


def plain(value: object) -> object:
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


@pytest.mark.parametrize("name", FIELDS)
@settings(deadline=None)
@given(data=st.data())
def test_every_field_of_every_table(name: str, data: st.DataObject) -> None:
    kind = FIELDS[name]
    rows = data.draw(st.lists(st.none() | values(kind) if pa.types.is_string(kind) else values(kind), max_size=5))
    cut = data.draw(st.integers(0, len(rows)))
    for array, want in ((pa.array(rows, kind), rows), (pa.array(rows, kind)[cut:], rows[cut:])):
        read = accessor(array)
        assert [plain(read(row)) for row in range(len(want))] == want
