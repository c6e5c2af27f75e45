"""Notes about unusual conditions of this process that readers of its results should know; written to every shard's log."""

from __future__ import annotations

_notes: dict[str, None] = {}


def note(text: str) -> None:
    """Remember a note, once."""
    _notes[text] = None


def notes() -> list[str]:
    """The notes given to :func:`note`, in order."""
    return list(_notes)
