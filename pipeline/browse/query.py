"""Which images a page of the grid shows: filters, an order, and where it begins, given as the last image of the previous page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.browse.measures import F64, Measures
from store.format.schema import REMOVED

MOST = 200
"""How many images a page may have."""
DIFFERENCE = "difference"
_FLAGS = {"": None, "yes": True, "no": False}

I64 = NDArray[np.int64]


class WrongError(ValueError):
    """A request that cannot be understood; says what was found and expected."""


@dataclass(frozen=True)
class Query:
    """What is asked for.

    Args:
        text: part of a question or of a name; empty: any.
        empty, failed: whether images must (or must not) have a question with nothing to be found, or have failed; None: either.
        ranges: (measure, least, most); an image without the measure is in no range.
        sort: a measure, ``difference``, or empty for the order of the split. ``descending``: largest first.
        a, b: measures; ``difference`` is a - b.
        after, before: (value, image_index) of the image that the page follows, or comes before; None where it has no value.
        limit: how many images.
    """

    text: str = ""
    empty: bool | None = None
    failed: bool | None = None
    ranges: tuple[tuple[str, float, float], ...] = ()
    sort: str = ""
    descending: bool = False
    a: str = ""
    b: str = ""
    after: tuple[float | None, int] | None = None
    before: tuple[float | None, int] | None = None
    limit: int = 48


@dataclass(frozen=True)
class Found:
    """A page: its images in their order, int64 [n], and the values that they are sorted by, float64 [n] (NaN: none).

    total: images that pass the filters. first: this many of them come before the page.
    """

    images: I64
    values: F64
    total: int
    first: int


def find(measures: Measures, query: Query) -> Found:
    """The page of a query.

    Raises:
        NotYetError: a number that it needs is being worked out.
        UnknownError: there is no such measure.
    """
    value, rank = ordered(measures, query)
    passes = selected(measures, query)
    index = np.arange(len(passes))
    candidates, last = passes, False
    if query.after is not None:
        candidates = passes & _follows(rank, index, _key(query, *query.after))
    elif query.before is not None:
        candidates, last = passes & _precedes(rank, index, _key(query, *query.before)), True
    there = np.flatnonzero(candidates)
    there = there[np.lexsort((there, rank[there]))]
    images = there[-query.limit :] if last else there[: query.limit]
    total, first = int(passes.sum()), 0
    if len(images):
        key = (float(rank[images[0]]), int(images[0]))
        first = int((passes & _precedes(rank, index, key)).sum())
    return Found(images, value[images], total, first)


def place_in(measures: Measures, query: Query, image: int) -> dict[str, int | None]:
    """The images before and after one in a query, its place there (from 0), and how many there are. Raises as :func:`find`."""
    _, rank = ordered(measures, query)
    passes, index = selected(measures, query), np.arange(len(measures.shown))
    key = (float(rank[image]), image)
    before, after = (passes & which(rank, index, key) for which in (_precedes, _follows))
    ends = [_ends(np.flatnonzero(flags), rank) for flags in (before, after)]
    return {"before": ends[0][1], "after": ends[1][0], "place": int(before.sum()), "total": int(passes.sum())}


def _ends(images: I64, rank: F64) -> tuple[int | None, int | None]:
    """The first and last of some images in the order."""
    if not len(images):
        return None, None
    order = images[np.lexsort((images, rank[images]))]
    return int(order[0]), int(order[-1])


def ordered(measures: Measures, query: Query) -> tuple[F64, F64]:
    """The values that images are sorted by, and their ranks (smallest first, images without a value last), float64 [N] each."""
    images = len(measures.shown)
    if not query.sort:
        value = np.arange(images, dtype=np.float64)
    elif query.sort == DIFFERENCE:
        value = measures.get(query.a) - measures.get(query.b)
    else:
        value = measures.get(query.sort)
    rank = -value if query.descending else value
    return value, np.where(np.isnan(rank), np.inf, rank)


def selected(measures: Measures, query: Query) -> NDArray[np.bool_]:
    """Which images pass the filters, bool [N]; removed ones never do."""
    found = ~measures.shown.states["images"].are(REMOVED)
    for flag, flags in ((query.empty, measures.empty), (query.failed, measures.failed)):
        if flag is not None:
            found = found & (flags() == flag)
    for name, least, most in query.ranges:
        value = measures.get(name)
        found = found & (value >= least) & (value <= most)
    return found & measures.contains(query.text) if query.text else found


def _key(query: Query, value: float | None, image: int) -> tuple[float, int]:
    if value is None or math.isnan(value):
        return math.inf, image
    return (-value if query.descending else value), image


def _follows(rank: F64, index: I64, key: tuple[float, int]) -> NDArray[np.bool_]:
    return np.asarray((rank > key[0]) | ((rank == key[0]) & (index > key[1])))


def _precedes(rank: F64, index: I64, key: tuple[float, int]) -> NDArray[np.bool_]:
    return np.asarray((rank < key[0]) | ((rank == key[0]) & (index < key[1])))


def parse(given: Mapping[str, Any], ranges: list[str]) -> Query:
    """The query of an address.

    Args:
        given: name -> text. ranges: each ``<measure>:<least>:<most>``, either number may be missing.

    Raises:
        WrongError: a value is not one of those expected.
    """
    for name in ("empty", "failed"):
        if given.get(name, "") not in _FLAGS:
            raise WrongError(f"{name}: found {given[name]!r}, expected yes, no or nothing")
    if (order := given.get("order", "up")) not in ("up", "down"):
        raise WrongError(f"order: found {order!r}, expected up or down")
    return Query(
        text=given.get("text", ""),
        empty=_FLAGS[given.get("empty", "")],
        failed=_FLAGS[given.get("failed", "")],
        ranges=tuple(map(_range, ranges)),
        sort=given.get("sort", ""),
        descending=order == "down",
        a=given.get("a", ""),
        b=given.get("b", ""),
        after=_cursor("after", given.get("after", "")),
        before=_cursor("before", given.get("before", "")),
        limit=min(MOST, max(1, whole("limit", given.get("limit", "48")))),
    )


def whole(name: str, text: str) -> int:
    """A whole number of at least 0 that an address names. Raises WrongError."""
    if not (text.isascii() and text.isdecimal() and len(text) < 12):
        raise WrongError(f"{name}: found {text[:40]!r}, expected a whole number")
    return int(text)


def _range(text: str) -> tuple[str, float, float]:
    name, least, most = ["", *text.rsplit(":", 2)][-3:]
    return name, _number(text, least, -math.inf), _number(text, most, math.inf)


def _cursor(name: str, text: str) -> tuple[float | None, int] | None:
    if not text:
        return None
    value, _, image = text.rpartition(",")
    return (None if value == "" else _number(name, value, math.nan)), whole(name, image)


def _number(name: str, text: str, missing: float) -> float:
    try:
        found = float(text) if text else missing
    except ValueError:
        found = math.nan
    if math.isnan(found):
        raise WrongError(f"{name[:80]}: found {text[:40]!r}, expected a number")
    return found
