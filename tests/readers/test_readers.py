"""What ``make check-readers`` compares, with the readers that the project's own environment has, and that it can fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.readers.check import READERS, Opened, ReaderError, check_store, make_store

OPEN = READERS["zarr"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("readers") / "store"
    make_store(store)
    return store


def test_zarr_python_and_pyarrow_read_every_column(store: Path) -> None:
    assert check_store(store, {"zarr": OPEN}, damage=True) == {"zarr": 7, "pyarrow": 6}


def seen(change: Callable[[np.ndarray], Any]) -> Callable[[Path], Opened]:
    """A reader that gives something else."""

    def opened(folder: Path) -> Opened:
        shape, read = OPEN(folder)
        return shape, lambda part: change(np.asarray(read(part)))

    return opened


@pytest.mark.parametrize(
    "change", [np.nan_to_num, lambda found: found + found.dtype.type(1), lambda found: found.astype(np.float32)]
)
def test_a_reader_that_gives_something_else_is_caught(store: Path, change: Callable[[np.ndarray], Any]) -> None:
    with pytest.raises(ReaderError, match="x: d/image_features/tokens/val: found other values than our reader"):
        check_store(store, {"x": seen(change)}, damage=False)


def test_a_reader_that_compares_no_checksum_is_caught(store: Path) -> None:
    kept: dict[Path, Opened] = {}

    def opened(folder: Path) -> Opened:
        if folder not in kept:
            shape, read = OPEN(folder)
            whole = np.asarray(read(slice(None)))
            kept[folder] = (shape, whole.__getitem__)
        return kept[folder]

    with pytest.raises(ReaderError, match=r"x: d/image_features/tokens/val: read .* although byte 0 was flipped"):
        check_store(store, {"x": opened}, damage=True)
