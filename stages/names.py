"""Names that a person typed, and those that there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(found: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """`` (did you mean 'x'?)`` where one of the choices is much like ``found``, else nothing."""
    known = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(found.casefold(), known, n=1, cutoff=cutoff)
    return f" (did you mean {known[close[0]]!r}?)" if close else ""
