"""What was odd about how this process computes: whoever looks at its results should know, so it goes into every shard's log."""

from __future__ import annotations

_notes: dict[str, None] = {}


def note(text: str) -> None:
    """Remember a note, once."""
    _notes[text] = None


def notes() -> list[str]:
    """What :func:`note` was told, in order."""
    return list(_notes)
