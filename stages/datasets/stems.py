"""Files of a folder by their stem, which pairs a picture with its annotation."""

from __future__ import annotations

from collections.abc import Sequence

from stages.datasets.base import DatasetError


def by_stem(folder: str, names: Sequence[str], suffixes: tuple[str, ...]) -> dict[str, str]:
    """A folder's file names with these suffixes, in any case, by stem. As strings: making a Path for each takes seconds.

    Hidden files are ignored. Raises DatasetError if two files have the same stem, or a name is not UTF-8.
    """
    found: dict[str, str] = {}
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if f".{suffix.lower()}" not in suffixes or name.startswith("."):
            continue
        if not name.isascii() and name != name.encode("utf-8", "replace").decode("utf-8"):
            raise DatasetError(f"{folder}/{name!a}: expected a file name in UTF-8, rename it")
        other = found.setdefault(stem, name)
        if other != name:
            raise DatasetError(
                f"{folder}/{other} and {folder}/{name} have the same stem, so one annotation "
                "would belong to both: rename or remove one"
            )
    return found
