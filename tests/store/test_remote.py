"""A store at ``s3://``: a real client and a real protocol, round trips, races, faults on the way, kills, wrong set-ups."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import columns_of, read, wrong_reads
from factory import array_meta, full_store, small_store, vectors, write_images
from faults import IMAGES, WORKS, prepare, readable, unexpected_damage, write, wrong_content
from test_faults_model import Killed

from store import StoreError, open_split
from store.format import column
from store.format.layout import column_dir
from store.format.schema import OK
from store.storage.mounts import mounted, storage_of
from store.storage.objects import read_json, read_object, replace_object, write_json
from store.storage.protocol import FOLDER, LostAnswerError, RefusedError
from store.storage.remote import RemoteStorage
from store.write.verify import repair, verify
from store.write.writer import ShardData, begin_column, finish_column, seen_commit, write_shard
from tests.s3 import Request, Server, now_and_then


@pytest.fixture
def bucket(server: Server) -> Path:
    return Path(f"s3://{server.bucket()}")


def put(path: Path, data: bytes, token: str | None) -> str | None:
    """The token of what was put, None where it was refused."""
    storage = storage_of(path)
    try:
        with storage.stage(path, [data]) as staged:
            storage.put(staged, path, token)
    except RefusedError:
        return None
    state = storage.stat(path)
    return None if state is None else state.token


def test_an_object_that_is_open_can_be_read_as_far_as_it_is_at_hand(bucket: Path) -> None:
    """What all storages promise is in test_storages.py."""
    path, storage = bucket / "a/b/c", storage_of(bucket)
    assert storage.stat(bucket) == (FOLDER, 0, "")
    first = put(path, b"first", None)
    assert put(path, b"other", '"an older version"') is None
    opened, large = storage.open(path), bucket / "a/large"
    put(large, bytes(1 << 16), None)
    assert put(path, b"second", first) not in (None, first)
    piece = memoryview(bytearray(5))
    assert (opened.readv([piece], 0), bytes(piece)) == (5, b"first")  # the version that was opened
    opened = storage.open(large)
    replace_object(large, b"\1" * (1 << 16))
    assert opened.readv([piece], 0) == 0  # of which nothing but the end is at hand
    assert storage.delete(large)
    assert storage.stat(path.parent) == (FOLDER, 0, "")


def test_the_same_bytes_are_nobodys_conflict(bucket: Path) -> None:
    """A client sends a request again whose answer was lost, and is refused because of itself."""
    path = bucket / "x"
    assert put(path, b"same", None) is not None
    assert put(path, b"same", None) is not None


def test_requests_per_record(server: Server, bucket: Path) -> None:
    """One request per record and array column at most, and one per shard."""
    counts = [32] * 24
    small_store(bucket, counts)
    split = open_split(bucket, "d", "val", columns="mask_embeddings/sam/x")
    with server.faults(lambda request: None) as requests:
        assert sum(len(batch["image_index"]) for batch in split.stream("mask_embeddings/sam/x", 4, shuffle=True)) == 24
    assert len(requests) <= 24 + 6, [(each.method, each.path) for each in requests]


def test_requests_to_publish_a_shard(server: Server, bucket: Path) -> None:
    """What it was computed from and what is there are asked once; the column has no summary yet."""
    place, images = "d/mask_embeddings/sam/x/val", write_images(bucket, 8)
    folder = column_dir(bucket, place)
    meta = begin_column(folder, array_meta(8))

    def publish(shard: int, again: bool = False) -> Counter[str]:
        data = ShardData(vectors([2] * 4, seed=again), [2] * 4, [OK] * 4)
        before, upstream = seen_commit(folder, shard, meta), {"images": images[shard].content}
        with server.faults(lambda request: None) as requests:
            write_shard(folder, meta, place, shard, data, upstream, None, {"device": "cpu"}, before, again)
        return Counter(
            f"{each.method} {each.path.removeprefix(f'/{bucket.name}').rpartition('/')[2]}" for each in requests
        )

    publish(0)
    once = {
        "HEAD column.json": 2,  # its own, and that of the images
        "GET 00001.parquet": 1,  # the images
        "GET 0": 1,
        "PUT 0": 1,
        "HEAD summary.json": 1,
        "PUT 00001.json": 1,  # the log
    }
    assert publish(1) == once
    finish_column(folder, place)
    # The summary is there now, and goes (S3's POST); so is a log, which is found by a put that is refused.
    again = {"HEAD summary.json": 2, "POST ": 1, "PUT 00001.json": 2, "GET 00001.json": 1, "HEAD 00001.json": 1}
    assert publish(1, again=True) == once | again


def test_a_bucket_that_keeps_versions(server: Server, bucket: Path) -> None:
    """Its objects have a version next to their ETag; conditions and ranges go on as before."""
    server.keep_versions(bucket.parts[1])
    path, storage = bucket / "x", storage_of(bucket)
    first = put(path, b"first", None)
    assert first is not None
    assert first.partition("\n")[2] not in ("", "null")
    assert storage.open(path).readv([memoryview(bytearray(5))], 0) == 5
    second = put(path, b"second", first)
    assert second is not None
    assert put(path, b"third", first) is None
    assert read_object(path) == b"second"
    assert storage.delete(path, second)


def test_an_answer_that_is_lost_for_good_is_said(server: Server, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the PUT nor the question what is there now is answered: the writer may not take it for refused, nor for done."""
    put(bucket / "x", b"x", None)
    monkeypatch.setattr("store.storage.remote._RETRIES", {"max_retries": 0})
    monkeypatch.setattr("store.storage.remote._TRIES", 1)
    storage = RemoteStorage("s3", bucket.parts[1])
    storage.require_conditions(bucket / "x")
    for fault in ("lost", "reset"):
        with (
            server.faults(lambda request, fault=fault: fault),  # type: ignore[misc]
            storage.stage(bucket / fault, [b"data"]) as staged,
            pytest.raises(LostAnswerError),
        ):
            storage.put(staged, bucket / fault, None)
        assert (storage.stat(bucket / fault) is not None) == (fault == "lost")


@pytest.mark.parametrize("fault", ["slow_down", "reset", "lost", "cut"])
def test_faults_on_the_way_are_overcome(server: Server, bucket: Path, fault: str) -> None:
    counts = [3, 0, 20, 1, 5]
    with server.faults(now_and_then(fault, seed=7)) as requests:
        small_store(bucket, counts)
        split = open_split(bucket, "d", "val", columns="mask_embeddings/sam/x")
        for image, want in enumerate(vectors(counts)):
            np.testing.assert_array_equal(split[image]["mask_embeddings/sam/x"], want)
        assert len(requests) > 10
    assert verify(bucket, ["d/val"], deep=True).problems == []


def test_fewer_bytes_than_asked_for_are_never_read_as_right(server: Server, bucket: Path) -> None:
    def halved(request: Request) -> str | None:
        return "wrong" if request.method == "GET" and request.path.count("/") > 2 else None  # no listing

    small_store(bucket, [3, 0, 2])
    columns = columns_of(bucket)
    for name in columns:
        good = read(bucket, columns, name)
        with server.faults(halved) as requests:
            assert wrong_reads(good, read(bucket, columns, name)) == []
            assert any(map(halved, requests))


def test_a_storage_that_ignores_conditions_is_refused(server: Server, bucket: Path) -> None:
    path = bucket / "d/images/val/column.json"
    with mounted(bucket, RemoteStorage("s3", bucket.parts[1])):
        with server.faults(lambda request: "ignores"):
            with pytest.raises(StoreError, match=r"s3://\S+ ignores put-if-absent .* and replace-if-unchanged"):
                write_json(path, {})
            assert storage_of(bucket).list(bucket) == []
        write_json(path, {"a": 1})
        with server.faults(lambda request: "ignores"):  # once per process
            write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}


def test_what_is_wrong_is_said(server: Server, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreError, match=f"s3://{bucket.parts[1]}/d/images/val holds no indexed split; the store"):
        open_split(f"s3://{bucket.parts[1]}", "d", "val")
    with pytest.raises(StoreError, match="s3://no-such-bucket: there is no such bucket"):
        replace_object(Path("s3://no-such-bucket/x"), b"")
    for address in ("ftp://host/store", "s4://bucket"):
        with pytest.raises(StoreError, match=r"expected a folder or an address: s3://bucket/prefix"):
            open_split(address, "d", "val")
    key = "the secret key of somebody"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    closed = RemoteStorage("s3", "closed")
    monkeypatch.setattr("store.storage.remote._RETRIES", {"max_retries": 0})
    with mounted(Path("s3://closed"), closed):
        with pytest.raises(OSError, match="the object store failed") as told:
            open_split("s3://closed", "d", "val")
    assert key not in str(told.value)


@pytest.mark.parametrize(("value", "allowed"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_plain_http_is_allowed_by_name_alone(
    server: Server, bucket: Path, monkeypatch: pytest.MonkeyPatch, value: str, allowed: bool
) -> None:
    monkeypatch.setenv("AWS_ALLOW_HTTP", value)
    storage = RemoteStorage("s3", bucket.parts[1])
    if allowed:
        assert storage.stat(bucket) == (FOLDER, 0, "")
    else:
        with pytest.raises(
            StoreError, match=r"found a storage at http://, expected https://.* set AWS_ALLOW_HTTP=true"
        ):
            storage.stat(bucket)


def test_a_forked_process_is_told_so(bucket: Path) -> None:
    """The client's threads are not in a forked process: it would wait for them forever."""
    put(bucket / "x", b"x", None)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            for path in (bucket / "x", Path("s3://another/x")):
                try:
                    storage_of(path).stat(path)
                except StoreError as error:
                    os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as said:
        assert said.read().count(b'start processes by "spawn"') == 2


class Stepped(RemoteStorage):
    """Calls ``before`` with every call that is about to be made, and ``after`` with each that changed something."""

    def __init__(self, bucket: str) -> None:
        super().__init__("s3", bucket)
        self.before: Callable[[str], None] = lambda call: None
        self.after: Callable[[str], None] = lambda call: None

    def open(self, path: Path, *tail: int) -> Any:
        self.before(f"open {path}")
        return super().open(path, *tail)

    def stat(self, path: Path, follow: bool = False) -> Any:
        self.before(f"stat {path}")
        return super().stat(path, follow)

    def put(self, staged: Any, path: Path, token: str | None, durable: bool = True) -> None:
        self.before(f"put {path}")
        super().put(staged, path, token, durable)
        self.after(f"put {path}")

    def delete(self, path: Path, token: str | None = None, durable: bool = False) -> bool:
        self.before(f"delete {path}")
        done = super().delete(path, token, durable)
        self.after(f"delete {path}")
        return done


def disturbed(
    server: Server, name: str, when: str, number: int | None, error: Callable[[], BaseException]
) -> list[str]:
    """A work with one call disturbed, then what has to hold; the calls that it made."""
    work, storage = WORKS[name], Stepped(server.bucket())
    store, calls, acked = Path(f"s3://{storage.address[5:]}/store"), list[str](), set[int]()

    def step(call: str) -> None:
        calls.append(call)
        if len(calls) - 1 == number:
            raise error()

    with mounted(store.parent, storage):
        prepare(store, work)
        column._column_of_version.cache_clear()
        setattr(storage, when, step)
        with contextlib.suppress(Killed, OSError):
            write(store, work.kind, work.new, acked.add)
        storage.before = storage.after = lambda call: None
        what = f"{name}, {when} {calls[number] if number is not None and number < len(calls) else None}"
        assert wrong_content(store, work, acked) is None, what
        assert unexpected_damage(verify(store, ["d/val"], deep=True)) == [], what
        write(store, work.kind, work.new)
        assert len(readable(store, work.kind)) == IMAGES, what
        assert verify(store, ["d/val"], deep=True).problems == [], what
    return calls


DISTURBED = [("before", Killed), ("after", Killed), ("after", lambda: LostAnswerError(5, "no answer"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WORKS))
def test_killed_at_every_call(server: Server, name: str) -> None:
    for when, error in DISTURBED:
        for number in range(len(disturbed(server, name, when, None, error))):
            disturbed(server, name, when, number, error)


@pytest.mark.slow
def test_damage_is_found_and_mended(bucket: Path) -> None:
    full_store(bucket, 3, shard_images=2)
    columns = columns_of(bucket)
    path = bucket / "d/mask_embeddings/sam/x/val/c/1/0/0"
    good = {name: read(bucket, columns, name) for name in columns}
    data = bytearray(read_object(path))
    data[len(data) // 3] ^= 4
    replace_object(path, bytes(data))
    assert wrong_reads(good["mask_embeddings/sam/x"], read(bucket, columns, "mask_embeddings/sam/x")) == []
    report = verify(bucket, ["d/val"], deep=True)
    assert report.problems
    repair(report)
    assert verify(bucket, ["d/val"], deep=True).problems == []


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_torch_loader(server: Server, bucket: Path, num_workers: int) -> None:
    """Its processes are spawned, as a forked one has none of the client's threads."""
    from store.torch import loader

    counts = [3, 0, 20, 1, 5]
    small_store(bucket, counts)
    split = open_split(bucket, "d", "val", columns="mask_embeddings/sam/x")
    batches = loader(split.stream("mask_embeddings/sam/x", 2), num_workers=num_workers)
    assert [int(index) for batch in batches for index in batch["image_index"]] == list(range(len(counts)))
