"""Reading a store in a bucket: few requests, many at once, and the cache of this machine."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import array_meta, full_store, small_store, vectors, write_array

from store import DamagedStoreError, Split, StoreError, open_split
from store.read.array import ShardReader
from store.read.far import GAP, MOST, Piece, begin, neighbours
from store.storage import cache as caches
from store.storage import requests
from store.storage.cache import Cache, cache_here
from store.storage.files import TEMPORARY
from store.storage.mounts import mounted
from store.storage.objects import read_object, replace_object
from store.storage.remote import RemoteStorage
from store.storage.requests import at_once
from tests.benchmarks.link import BUCKET, linked
from tests.s3 import Server

ARRAY = "mask_embeddings/sam/x"
COUNTS = [3, 0, 20, 1, 5, 32, 17, 2, 16, 8, 31, 4]


@pytest.fixture
def bucket(server: Server) -> Path:
    return small_store(Path(f"s3://{server.bucket()}"), COUNTS)


@pytest.fixture
def cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is the cache."""
    monkeypatch.setenv("ELISA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(store: Path, **how: Any) -> Split:
    return open_split(store, "d", "val", columns=ARRAY, **how)


def epoch(split: Split, seed: int = 0, shuffle: bool = True) -> dict[int, np.ndarray]:
    """Image -> its vectors."""
    found = {}
    for batch in split.stream(ARRAY, 4, shuffle=shuffle, seed=seed, ragged=True):
        starts = batch[f"{ARRAY}_offsets"]
        for number, image in enumerate(batch["image_index"].tolist()):
            found[image] = batch[ARRAY][starts[number] : starts[number + 1]].copy()
    if (cache := cache_here()) is not None:
        cache.wait()
    return found


def all_right(found: dict[int, np.ndarray], seed: int = 0) -> None:
    for image, want in enumerate(vectors(COUNTS, seed=seed)):
        np.testing.assert_array_equal(found[image], want)


def pieces(folder: Path) -> list[Path]:
    """Whole pieces; more may be written by a thread of their own."""
    return sorted(path for path in folder.glob("??/*") if path.is_file() and not path.name.startswith(TEMPORARY))


def asked_of_arrays(requests: list[Any]) -> int:
    return sum("/c/" in each.path and each.method == "GET" for each in requests)


def test_neighbours_are_read_by_one_request(server: Server, bucket: Path) -> None:
    split = opened(bucket)
    with server.faults(lambda request: None) as asked:
        all_right(epoch(split, shuffle=False))
    assert asked_of_arrays(asked) == 3 + 3  # opening, and reading, each of three shards
    with server.faults(lambda request: None) as asked:
        all_right(epoch(split))
    assert 3 <= asked_of_arrays(asked) <= len(COUNTS) - 1  # one image has nothing to read


def test_a_part_of_an_image_is_one_request(server: Server, bucket: Path) -> None:
    """Its checksum is made of those of all of its chunks."""
    split = opened(bucket)
    split.column(ARRAY).array(5, 2)
    with server.faults(lambda request: None) as asked:
        np.testing.assert_array_equal(split.column(ARRAY).array(5, 2), vectors(COUNTS)[5][:2])
    assert len(asked) == 1


def test_requests_in_flight_are_many_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = array_meta(64, 2)
    commits = write_array(tmp_path / "d/mask_embeddings/sam/x/val", meta, [32] * 64)
    monkeypatch.setattr(requests, "IN_FLIGHT", 8)
    monkeypatch.setattr(requests, "_pools", {})
    with linked(tmp_path, latency_ms=20, mb_s=1e4) as served:
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        with mounted(Path(f"s3://{BUCKET}"), RemoteStorage("s3", BUCKET)):
            folder = Path(f"s3://{BUCKET}/d/mask_embeddings/sam/x/val")
            readers = at_once(lambda commit: ShardReader(folder, meta, commit), commits)
            found = begin([Piece(reader, position) for reader in readers for position in (0, 1)])()
        assert len(found) == 64
        counts = served.counts()
    assert 4 <= counts["at_once"] <= 8
    assert counts["requests"] == 32 + 32


def test_neighbours_come_in_the_order_in_which_they_are_wanted() -> None:
    class Shard:
        def __init__(self, name: str) -> None:
            self.path = Path(name)

        def extent(self, position: int) -> tuple[int, int]:
            return position * GAP, position * GAP + GAP // 2

    one, two = Shard("1"), Shard("2")
    wanted = [Piece(two, 4), Piece(one, 9), Piece(two, 3), Piece(one, 1)]
    assert neighbours(wanted) == [[Piece(two, 3), Piece(two, 4)], [Piece(one, 9)], [Piece(one, 1)]]
    many = [Piece(one, position) for position in range(3 * MOST // GAP)]
    runs = neighbours(many)
    assert [piece for run in runs for piece in run] == many
    assert max(len(run) for run in runs) * GAP <= MOST + GAP


def test_the_second_epoch_comes_from_the_cache(server: Server, bucket: Path, cached: Path) -> None:
    all_right(epoch(opened(bucket)))
    assert len(pieces(cached)) == len(COUNTS) - 1
    split = opened(bucket)
    with server.faults(lambda request: None) as asked:
        all_right(epoch(split, seed=1))
    assert asked_of_arrays(asked) == 3  # opening


def test_what_is_damaged_in_the_cache_is_read_again(server: Server, bucket: Path, cached: Path) -> None:
    names = [ARRAY, "images.image_id"]
    for limit in (1 << 30, 1):  # whole tables, and their row groups
        split = open_split(bucket, "d", "val", table_cache_bytes=limit)
        good = [batch["images.image_id"] for batch in split.stream(names, 5)]
        for path in pieces(cached):
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        for check in ("always", "never"):
            split = open_split(bucket, "d", "val", table_cache_bytes=limit, check=check)
            all_right(epoch(split))
            assert [batch["images.image_id"] for batch in split.stream(names, 5)] == good
    for path in pieces(cached):
        path.write_bytes(path.read_bytes()[:-1])
    all_right(epoch(opened(bucket)))


def test_what_is_damaged_in_the_store_is_not_kept(bucket: Path, cached: Path) -> None:
    path = bucket / "d/mask_embeddings/sam/x/val/c/1/0/0"
    data = bytearray(read_object(path))
    data[100] ^= 1
    replace_object(path, bytes(data))
    split = opened(bucket)
    for _ in range(2):
        with pytest.raises(DamagedStoreError, match="c/1/0/0: shard 1: image 0"):
            split.column(ARRAY).array(4)
    assert pieces(cached) == []
    np.testing.assert_array_equal(split.column(ARRAY).array(5), vectors(COUNTS)[5])


def test_a_shard_that_was_computed_again_is_not_taken_from_the_cache(bucket: Path, cached: Path) -> None:
    all_right(epoch(opened(bucket)))
    other = full_store(bucket / "other").embeddings
    split = open_split(bucket / "other", "d", "val", columns=ARRAY)
    for image, want in enumerate(other):
        np.testing.assert_array_equal(split[image][ARRAY], want)
    folder = bucket / "d/mask_embeddings/sam/x/val"
    write_array(folder, array_meta(len(COUNTS), version=2), COUNTS, seed=5, upstream={})
    all_right(epoch(opened(bucket)), seed=5)


def test_the_cache_keeps_to_its_limit(tmp_path: Path) -> None:
    cache, data = Cache(tmp_path, 1000), bytes(100)
    for number in range(30):
        cache.write(str(number).zfill(64), data)
    kept = [number for number in range(30) if cache.read(str(number).zfill(64), 100) is not None]
    assert 8 <= len(kept) <= 10
    assert kept == list(range(len(kept)))  # what was just used makes room for nothing
    for path in pieces(tmp_path)[2:]:
        os.utime(path, (time.time() - caches.KEPT_S - 60,) * 2)
    newer = Cache(tmp_path, 1000)
    newer.write("f" * 64, data)
    names = {path.name for path in pieces(tmp_path)}
    assert {"f" * 64, str(0).zfill(64), str(1).zfill(64)} <= names
    assert sum(path.stat().st_size for path in pieces(tmp_path)) <= 1000
    Cache(tmp_path / "small", 10)


WRITER = """
import sys
from pathlib import Path
from store.storage.cache import Cache
cache = Cache(Path(sys.argv[1]), 200_000)
for number in range(100):
    name = Cache.name(Path("s3://b/x"), sys.argv[2] if number % 2 else "both", str(number))
    cache.write(name, bytes([number]) * 1000)
    found = cache.read(name, 1000)
    assert found is None or bytes(found) == bytes([number]) * 1000
"""


def test_processes_share_a_cache(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    sizes = [path.stat().st_size for path in pieces(tmp_path)]
    assert set(sizes) == {1000}
    assert 150 <= len(sizes) <= 200


def test_a_full_disk_ends_keeping_and_nothing_else(bucket: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match="nothing more is kept in the cache: .*No space left"):
        all_right(epoch(opened(bucket)))
    assert pieces(cached) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ELISA_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    found = cache_here()
    assert found is not None
    assert (found.folder, found.limit) == (tmp_path / "xdg/elisa-store", 10 * 2**30)
    for name, value in (("ELISA_CACHE", ""), ("ELISA_CACHE", "/dev/null/nowhere"), ("ELISA_CACHE_BYTES", "0")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert cache_here() is None
    monkeypatch.setenv("ELISA_CACHE_BYTES", "10 GB")
    with pytest.raises(StoreError, match="ELISA_CACHE_BYTES='10 GB' in the environment, expected a number of bytes"):
        cache_here()
