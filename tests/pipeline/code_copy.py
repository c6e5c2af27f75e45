"""A copy of the code, for tests of what runs in another checkout."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def copy_code(names: Sequence[str], folder: Path) -> Path:
    """Copy files and packages of the repository, with what Python and numba compiled of them, which takes seconds per process."""
    folder.mkdir(exist_ok=True)
    being_written = shutil.ignore_patterns("*.pyc.*", "*.tmp.*")  # by other tests
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=being_written)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder
