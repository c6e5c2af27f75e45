"""An annotation file of a whole data set: if it is unusable, the whole data set fails, not a single image."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from stages.datasets.base import DatasetError
from stages.datasets.once import Once, OptionsT
from stages.images import ImageFailure

T = TypeVar("T")


MEND = "set root or splits of the data set in section data of the params"


def parsed(once: Once[T, OptionsT], root: Path, file: str, options: OptionsT, expected: str, mend: str = MEND) -> T:
    """What the file holds.

    Args:
        expected: what the file is, for the message. mend: what to do if it is missing or cannot be read.

    Raises:
        DatasetError: it is not there, or it cannot be read.
    """
    try:
        return once.get(root, (file,), options)
    except (ImageFailure, FileNotFoundError, NotADirectoryError) as error:
        found = str(error) if isinstance(error, ImageFailure) else "no such file"
        there = sorted(path.name for path in root.iterdir())[:10] if root.is_dir() else []
        raise DatasetError(
            f"{root / file}: {found}; expected {expected} (in {root}: {', '.join(there) or 'nothing'}); {mend}"
        ) from error
