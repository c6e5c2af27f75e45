"""The table of mistakes: every row by the name ``<what it is about>: <what is wrong>``."""

from __future__ import annotations

from mistakes import in_data, in_files, in_options, in_python, in_runs, in_stores
from mistakes.mistake import Mistake

TABLE: dict[str, tuple[Mistake, ...]] = {
    module.__name__.rpartition("in_")[2]: module.ROWS
    for module in (in_options, in_files, in_data, in_stores, in_runs, in_python)
}
ROWS = {f"{of}: {row.name}": row for of, rows in TABLE.items() for row in rows}
