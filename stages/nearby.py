"""Hints for messages about a path that was probably mistyped; and a free path next to a given one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stages.names import closest, did_you_mean


def no_folder(path: Path) -> str:
    """What is found instead of a folder: ``a file``; or ``not there``, the folders next to it, and the one that may be meant."""
    if path.exists():
        return "a file, expected a folder"
    parent = next((above for above in path.parents if above.is_dir()), path)
    there = sorted(each.name for each in parent.iterdir() if each.is_dir())
    return f"not there (folders in {parent}: {', '.join(there) or 'none'}){_meant(path, parent, there)}"


def meant_file(path: Path, suffixes: Sequence[str] = ()) -> str:
    """`` (did you mean 'x'?)`` for a missing file if one next to it has a similar name; else an empty text."""
    parent = path.parent
    there = sorted(each.name for each in parent.iterdir()) if parent.is_dir() else []
    return _meant(path, parent, [name for name in there if not suffixes or Path(name).suffix in suffixes])


def meant_split(root: Path, split: str, there: Sequence[str]) -> str:
    """Like :func:`meant_file`, for a split without a folder in ``root``: names a split that is ``there``, or another root."""
    below = next((name for name in there if (root / name / split).is_dir()), None)
    return did_you_mean(split, there) if below is None else f" (did you mean root: {root / below}?)"


def free_name(path: Path) -> Path:
    """A path next to this one that does not exist yet: ``export-2`` next to ``export``."""
    number = 2
    while (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return free


def _meant(path: Path, parent: Path, there: Sequence[str]) -> str:
    meant = closest(path.relative_to(parent).parts[0], there) if path != parent else None
    return "" if meant is None else f" (did you mean {str(parent / meant)!r}?)"
