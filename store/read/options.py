"""Options and names as users give them: whole numbers of any kind, a name or a list of names."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..format.names import meant

MOST = 2**63 - 1


def whole(name: str, value: Any, least: int = 0, most: int = MOST) -> int:
    """A whole number of any type (Python's, numpy's, a tensor) as an int.

    Raises:
        ValueError: it is not a whole number (True and 2.0 are not), or out of its range.
    """
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= most:
        span = f"from {least} to {most}" if most != MOST else f"{least} or more"
        raise ValueError(f"found {name}={value!r}, expected a whole number, {span}: such as {name}={least}")
    return number


def index_of(key: Any, expected: str) -> int:
    """An index, a whole number of any type, as an int; anything else raises TypeError."""
    try:
        return operator.index(key)
    except TypeError:
        raise TypeError(f"found {key!r} in brackets, expected {expected}") from None


def flag(name: str, value: Any) -> bool:
    """A Python or numpy bool as a bool; anything else raises ValueError."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"found {name}={value!r}, expected True or False")
    return bool(value)


def share(name: str, value: Any) -> float:
    """A number from 0 to 1; anything else raises ValueError."""
    good = hasattr(value, "__float__") and not isinstance(value, bool | np.bool_) and np.ndim(value) == 0
    if not good or not 0 <= float(value) <= 1:
        raise ValueError(f"found {name}={value!r}, expected a number from 0 to 1")
    return float(value)


def listed(names: str | Iterable[str]) -> list[str]:
    """A list of one or several names of columns; anything but a string or strings raises TypeError."""
    found = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else []
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in found):
        raise TypeError(
            f"found columns={names!r}, expected the name of a column, or a list of names, such as columns=['masks']"
        )
    return found


def no_field(table: str, field: str, known: Iterable[str]) -> str:
    """The message for a field that a table does not have."""
    names = list(known)
    return f"the table {table} has no field {field!r}; {meant(field, names)}its fields are {', '.join(names)}"
