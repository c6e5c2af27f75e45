"""The folders that a data set's files lie in: usually one, or several for a collection that is spread over several places."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..storage.listing import is_there

_SHADOWED = re.compile(r"@([1-9][0-9]{0,3})/(.+)", re.DOTALL)


class Folders:
    """One or several folders. A file is in the first of them that has it.

    ``@2/NAME`` is NAME in the second folder, where an earlier one has another file of that name.

    Args:
        folders: one, or several in the order in which they are looked through.
    """

    def __init__(self, folders: str | Path | Sequence[str | Path]) -> None:
        several = [folders] if isinstance(folders, str | Path) else folders
        self.folders = tuple(Path(folder) for folder in several)
        if not self.folders:
            raise ValueError("found no folder, expected one or more")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folders) and self.folders == other.folders

    def __hash__(self) -> int:
        return hash(self.folders)

    def __str__(self) -> str:
        return " and ".join(map(str, self.folders))

    def path(self, relative: str) -> str:
        """Where a file is: below the first folder that has it, or else below the first one. Does not check the path."""
        first, *others = self.folders
        if not others:
            return f"{first}/{relative}"
        if (found := _SHADOWED.fullmatch(relative)) and int(found[1]) <= len(self.folders):
            return f"{self.folders[int(found[1]) - 1]}/{found[2]}"
        paths = [f"{folder}/{relative}" for folder in self.folders]
        return next(filter(_is_there, paths), paths[0])


def _is_there(path: str) -> bool:
    try:
        return is_there(Path(path))
    except (OSError, ValueError):
        return False
