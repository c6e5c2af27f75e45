"""Begins a column when its first shard is ready to be committed, once per run and process."""

from __future__ import annotations

from pathlib import Path

from store.format.column import ColumnMeta
from store.write.writer import begin_column

_begun: set[tuple[str, str]] = set()


def begin_once(token: str, folder: Path, meta: ColumnMeta, found: str | None) -> None:
    """Call :func:`store.write.writer.begin_column` to replace the fingerprint ``found``; ``token`` names the run.

    Raises:
        ConflictError: another run began the column meanwhile.
    """
    if (token, str(folder)) not in _begun:
        begin_column(folder, meta, found)
        _begun.add((token, str(folder)))
