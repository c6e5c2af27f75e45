"""Bits of a borrower's ``images`` flipped, which say whose pictures its questions are about: never read as right, always found."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from borrowers import X, lent_store, opened
from damage import damaged

from store.errors import StoreError
from store.write.verify import verify


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lent") / "store"
    lent_store(folder)
    return folder


def value(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except StoreError:
        return None


def what_is_read(store: Path) -> list[Any]:
    """Of each image what it is called, whose it is, and what the holder has of it; None where that is refused."""
    split = value(lambda: opened(store))
    if split is None:
        return []
    found = []
    for image in range(len(split)):
        record = value(lambda image=image: split[image])
        if record is None:
            found.append(None)
            continue
        own = [record.image_id, record.path, record.status]
        masks = value(lambda record=record: record.rows("masks"))
        found.append((own, masks, value(lambda record=record: record[X].tobytes())))
    return found


def check(store: Path, path: Path, good: list[Any], bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    with damaged(path, bytes(data)):
        for before, after in zip(good, what_is_read(store), strict=False):
            wrong = [one for one, other in zip(after or (), before, strict=False) if one is not None and one != other]
            assert not wrong, f"{path.name}: bit {bit % 8} of byte {bit // 8} flipped is read as right"
        assert verify(store, ["words"], deep=True).problems, f"{path.name}: bit {bit % 8} of byte {bit // 8}"


def files(store: Path) -> list[Path]:
    return sorted((store / "words/images/test").iterdir())


def test_a_sample_of_flipped_bits(store: Path) -> None:
    good, rng = what_is_read(store), random.Random(23)
    assert sum(each is not None for each in good) > 8
    for path in files(store):
        for bit in rng.sample(range(8 * path.stat().st_size), 12):
            check(store, path, good, bit)
    assert what_is_read(store) == good


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_every_flipped_bit(store: Path, number: int) -> None:
    good, paths = what_is_read(store), files(store)
    assert len(paths) == 5
    for bit in range(8 * paths[number].stat().st_size):
        check(store, paths[number], good, bit)
