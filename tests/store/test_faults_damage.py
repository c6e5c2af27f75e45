"""Any file flipped, cut, lengthened, zeroed, lost, swapped or out of date: never read as right, and always found by verify."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import columns_of, damaged, files_of, read, swap, wrong_reads
from factory import array_meta, full_store, small_store, write_array, write_images
from faults import steps_of

from store import DamagedStoreError, IncompleteColumnError, open_split
from store.format.layout import column_dir
from store.format.shard import read_commit
from store.read.column import open_column
from store.storage.files import cached_sha256
from store.write.verify import verify
from store.write.writer import begin_column, finish_column


class Whole:
    """A store, and what reading it gives."""

    def __init__(self, store: Path, splits: tuple[str, ...] = ("val",)) -> None:
        self.store, self.splits = store, splits
        self.columns = columns_of(store)
        self.files = files_of(store)
        self.values = {
            (split, name): read(store, self.columns, name, split) for split in splits for name in self.columns
        }
        self.check("nothing", found_by="nothing")
        assert all(value is not None for values in self.values.values() for value in values.values())

    def column(self, path: Path) -> tuple[str, str]:
        """Split and column that a file is of."""
        parts = path.relative_to(self.store).parts
        at = next(k for k, part in enumerate(parts) if k > 1 and part in self.splits)
        return parts[at], "/".join(parts[1:at])

    def check(self, what: str, *paths: Path, found_by: str = "problems") -> None:
        """With these files damaged, whatever can be read of their columns is right, and verify finds it."""
        for split, name in {self.column(path) for path in paths}:
            values = read(self.store, self.columns, name, split)
            assert wrong_reads(self.values[split, name], values) == [], f"{what} is read as right"
        report = verify(self.store, [f"d/{split}" for split in self.splits], deep=True)
        found = "problems" if report.problems else "stale" if report.stale else "nothing"
        assert found == found_by, f"{what}: {report}"

    def name(self, path: Path) -> str:
        return path.relative_to(self.store).as_posix()


def made(store: Path, images: int, splits: tuple[str, ...] = ("val",)) -> Whole:
    """A small store with every table and two arrays."""
    with steps_of(store.parent, lambda step: None):
        for seed, split in enumerate(splits):
            full_store(store, images, split, seed, shard_images=2)
    return Whole(store, splits)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """One shard per column: every byte matters."""
    found = made(tmp_path_factory.mktemp("whole") / "store", 2)
    yield found
    found.check("what the tests left", *found.files, found_by="nothing")


@pytest.fixture(scope="module")
def parts(whole: Whole, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Whole]]:
    """Every column in a store of its own, with those that it was computed from: a look at it takes a third of the time."""
    found = {}
    for column in whole.columns:
        own, store = [column, *READ_WITH.get(column, ())], tmp_path_factory.mktemp("part") / "store"
        for name in own:
            commit = read_commit(column_dir(whole.store, f"d/{name}/val"), 0)
            assert commit is not None
            own += [above for above in commit.upstream if above not in own and not above.startswith("file:")]
        for name in own:
            shutil.copytree(column_dir(whole.store, f"d/{name}/val"), column_dir(store, f"d/{name}/val"))
        found[column] = Whole(store)
    yield found
    for column, part in found.items():
        part.check(f"what the tests left of {column}", *part.files, found_by="nothing")


READ_WITH = {"match/sam/instances": ["targets"]}
"""Columns that a record needs, besides those that a column was computed from."""


def flip(whole: Whole, path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    with damaged(path, bytes(data)):
        whole.check(f"{whole.name(path)}: bit {bit % 8} of byte {bit // 8} flipped", path)


def test_a_sample_of_flipped_bits(whole: Whole, parts: dict[str, Whole]) -> None:
    rng = random.Random(20)
    for part, path in (of_part(whole, parts, path) for path in whole.files):
        for bit in rng.sample(range(8 * path.stat().st_size), 10):
            flip(part, path, bit)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(26))
def test_every_flipped_bit(whole: Whole, parts: dict[str, Whole], number: int) -> None:
    assert len(whole.files) == 26
    part, path = of_part(whole, parts, whole.files[number])
    for bit in range(8 * path.stat().st_size):
        flip(part, path, bit)


def of_part(whole: Whole, parts: dict[str, Whole], path: Path) -> tuple[Whole, Path]:
    """The part that a file's column is the last of, and that file in it."""
    part = parts[whole.column(path)[1]]
    return part, part.store / whole.name(path)


def cut(whole: Whole, path: Path, size: int) -> None:
    with damaged(path, path.read_bytes()[:size]):
        whole.check(f"{whole.name(path)} cut to {size} bytes", path)


def is_space(path: Path, size: int) -> bool:
    """A JSON text without its last line break says the same."""
    return path.suffix == ".json" and path.name != "zarr.json" and size == path.stat().st_size - 1


def test_a_sample_of_lengths(whole: Whole, parts: dict[str, Whole]) -> None:
    rng = random.Random(21)
    for part, path in (of_part(whole, parts, path) for path in whole.files):
        size = path.stat().st_size
        for length in {0, 1, *rng.sample(range(size), 3), size - 2}:
            if not is_space(path, length):
                cut(part, path, length)


@pytest.mark.slow
def test_every_length(whole: Whole, parts: dict[str, Whole]) -> None:
    for part, path in (of_part(whole, parts, path) for path in whole.files):
        for length in range(path.stat().st_size):
            if not is_space(path, length):
                cut(part, path, length)


@pytest.mark.parametrize("what", ["a byte longer", "zeros", "lost", "twice as long"])
def test_any_file(whole: Whole, what: str) -> None:
    for path in whole.files:
        data = path.read_bytes()
        bad = {"a byte longer": data + b"\0", "zeros": bytes(len(data)), "lost": None, "twice as long": data + data}[
            what
        ]
        with damaged(path, bad):
            cache = (
                what == "lost" and path.name == "summary.json"
            )  # made of the shards' own records, which are still there
            whole.check(f"{whole.name(path)}: {what}", path, found_by="nothing" if cache else "problems")


@pytest.mark.parametrize("kind", [".parquet", "column.json", "zarr.json", "0"])
def test_any_two_files_swapped(tmp_path: Path, kind: str) -> None:
    """Within a split and between splits that have equally many images and the same parameters."""
    whole = made(tmp_path / "store", 3, ("train", "val"))
    files = [path for path in whole.files if path.name.endswith(kind) or path.parent.name == kind]
    pairs = list(itertools.combinations(files, 2))
    for left, right in pairs if len(pairs) < 50 else random.Random(22).sample(pairs, 50):
        swap(left, right)
        others = kind == "column.json" and whole.column(left)[1] == whole.column(right)[1]  # of the other split
        found_by = "nothing" if left.read_bytes() == right.read_bytes() else "stale" if others else "problems"
        whole.check(f"{whole.name(left)} and {whole.name(right)} swapped", left, right, found_by=found_by)
        swap(left, right)


@pytest.mark.parametrize("names", [["c/0/0/0"], ["column.json"], ["c/0/0/0", "column.json", "summary.json"]])
def test_an_older_version_put_back_with_its_old_time(tmp_path: Path, names: list[str]) -> None:
    """A shard of other images (of other parameters) under the right name: stale, or damage, and never read."""
    small_store(tmp_path, [3] * 4)
    folder, old = column_dir(tmp_path, "d/mask_embeddings/sam/x/val"), tmp_path / "old"
    finish_column(folder, "d/mask_embeddings/sam/x/val")
    shutil.copytree(folder, old)
    images = write_images(tmp_path, 4, failed={1: "cannot be decoded"})
    write_array(folder, array_meta(4, points=2), [3] * 4, seed=5, upstream={"images": images[0].content})
    open_column(tmp_path, "d/mask_embeddings/sam/x/val").array(0)
    for name in names:
        shutil.copy2(old / name, folder / name)
    shutil.rmtree(old)
    with pytest.raises((DamagedStoreError, IncompleteColumnError)):
        open_split(tmp_path, "d", "val")[0]["mask_embeddings/sam/x"]
    report = verify(tmp_path, ["d/val"], deep=True)
    assert report.problems or report.stale


def test_nothing_depends_on_times(tmp_path: Path) -> None:
    """A record that is overwritten by one as long, and then as old, is read again; so is a source file."""
    folder, place = column_dir(tmp_path, "d/mask_embeddings/sam/x/val"), "d/mask_embeddings/sam/x/val"
    write_array(folder, array_meta(4, points=1), [3] * 4)
    path = folder / "column.json"
    first = path.read_bytes()
    begin_column(folder, array_meta(4, points=2))
    second = path.read_bytes()
    assert len(first) == len(second)
    for _ in range(3):
        overwrite(path, first)
        open_column(tmp_path, place)
        digest = cached_sha256(path)
        overwrite(path, second)
        with pytest.raises(IncompleteColumnError, match="other parameters"):
            open_column(tmp_path, place)
        assert cached_sha256(path) != digest


def overwrite(path: Path, data: bytes) -> None:
    """Once the clock of the file system has gone on, in the same file, with the same time of modification."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_bytes(data)
        os.utime(path, ns=(0, 0))
