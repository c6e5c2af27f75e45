"""Compares names that a person typed with the existing ones; and the name of a split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches


@dataclass(frozen=True, order=True)
class SplitRef:
    """A split of a data set; as text ``demo/val``."""

    dataset: str
    split: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.split}"

    @classmethod
    def of(cls, text: str) -> SplitRef:
        """The split that a text such as ``demo/val`` names."""
        dataset, _, split = text.partition("/")
        return cls(dataset, split)


def closest(found: str, choices: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The choice most similar to ``found``; None if all are too different."""
    known = {choice.casefold(): choice for choice in choices}
    close = get_close_matches(found.casefold(), known, n=1, cutoff=cutoff)
    return known[close[0]] if close else None


def did_you_mean(found: str, choices: Iterable[str], cutoff: float = 0.6) -> str:
    """`` (did you mean 'x'?)`` if one of the choices is similar to ``found``, else an empty text."""
    meant = closest(found, choices, cutoff)
    return "" if meant is None else f" (did you mean {meant!r}?)"


def type_name(value: object) -> str:
    """What a value of a JSON file is, for a message: ``null``, or the name of its type in Python (``int``, ``list``)."""
    return "null" if value is None else type(value).__name__
