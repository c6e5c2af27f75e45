"""Every verb with a store at ``s3://``: the bytes of a local store, stopped at any moment and resumed, wrong set-ups named."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from store import open_split
from store.storage.listing import files_below
from store.storage.mounts import _of_scheme
from store.storage.objects import read_object, replace_object
from tests.s3 import Server, now_and_then


def at_bucket(project: Any, server: Server, **changes: Any) -> Path:
    """Let a project's store be in a new bucket; its path."""
    address = f"s3://{server.bucket()}/elisa/store"
    project.configure(store=address, **changes)
    return Path(address)


def content(store: Path) -> dict[str, bytes]:
    """Every object of a store but the logs, which say how it was made."""
    paths = [path.relative_to(store) for path in files_below(store)]
    return {path.as_posix(): read_object(store / path) for path in paths if "log" not in path.parts}


@pytest.fixture(scope="module")
def remote(finished_once: Any, server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    project = finished_once.copy(tmp_path_factory.mktemp("remote"))
    at_bucket(project, server)
    project.build()
    return project


def test_the_first_stages_make_the_bytes_of_a_local_store(finished_once: Any, server: Server, tmp_path: Path) -> None:
    """And read them again: of the others the next test, which is a slow one."""
    project = finished_once.copy(tmp_path)
    store = at_bucket(project, server)
    project.build("index --split val", "extract --split val --stage masks", "verify --split val --deep")
    there, here = content(store), content(finished_once.store)
    assert [name for name in there if "column.json" not in name and here[name] != there[name]] == []
    assert any("/masks/sam/" in name for name in there)
    assert "up to date" in project.run("extract", "--split", "val", "--stage", "masks").out


def test_requests_for_each_shard_and_column(finished_once: Any, server: Server, tmp_path: Path) -> None:
    """Those that one more shard takes, by kind (a listing is a GET): to make it, and to see that it is done."""
    project, here = finished_once.copy(tmp_path), finished_once.store
    store = at_bucket(project, server)
    for path in files_below(here):
        if not {"match", "centered", "means"} & set(path.parts):
            replace_object(store / path.relative_to(here), path.read_bytes())
    found = []
    for _ in ("made", "seen"):
        counts = []
        for split in ("val", "train"):  # of two shards, and of three
            with server.faults(lambda request: None) as requests:
                project.build(f"extract --split {split} --stage match")
            counts.append(Counter(request.method for request in requests))
        few, many = counts
        found.append({kind: (many[kind] - few[kind]) / 2 for kind in many})  # for each of the two columns
    assert found == [{"HEAD": 4, "GET": 12, "PUT": 2}, {"HEAD": 0, "GET": 3}]


@pytest.mark.slow
def test_the_bytes_are_those_of_a_local_store(remote: Any, finished_once: Any) -> None:
    there, here = content(Path(remote.values["store"])), content(finished_once.store)
    assert there.keys() == here.keys()
    assert [name for name in here if here[name] != there[name]] == []


@pytest.mark.slow
def test_verbs_that_read(remote: Any) -> None:
    info = remote.info()
    assert info["store"] == remote.values["store"]
    columns = [column for entry in info["splits"].values() for column in entry["columns"].values()]
    assert columns
    assert all((column["shards"]["missing"], column["shards"]["stale"]) == (0, 0) for column in columns)
    for verb in ("verify --deep --complete", "index", "extract", "normalize", "report --split val"):
        done = remote.run(*verb.split())
        assert done.code == 0, (verb, done.out, done.err)
    split = open_split(remote.values["store"], "tiny", "val", remote.data)
    assert split[0].image().shape[2] == 3


@pytest.mark.slow
def test_a_changed_parameter_makes_stale_and_is_replaced(
    remote: Any, server: Server, finished_once: Any, tmp_path: Path
) -> None:
    project = finished_once.copy(tmp_path)
    store = at_bucket(project, server)
    project.build("index", "extract --stage masks")
    before = content(store)
    project.configure(store=project.values["store"], proposers__sam__points_per_side=3)
    done = project.run("extract", "--stage", "masks")
    assert (done.code, "--replace" in done.err) == (2, True), done.err
    assert content(store) == before
    assert project.run("extract", "--stage", "masks", "--replace").code == 0
    assert content(store) != before
    project.configure(store=project.values["store"])
    assert project.run("extract", "--stage", "masks", "--replace").code == 0
    assert content(store) == before


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_and_resumed(remote: Any, server: Server, finished_once: Any, tmp_path: Path, how: int) -> None:
    project, rng = finished_once.copy(tmp_path), random.Random(int(how))
    store = at_bucket(project, server)
    project.build("index")
    child = project.child("extract", "--stage", "masks")
    while not any("masks" in path.parts and path.suffix == ".parquet" for path in files_below(store)):
        assert child.poll() is None, child.communicate()
        time.sleep(0.05)
    time.sleep(rng.random() / 2)
    child.send_signal(how)
    child.communicate()
    assert child.returncode in (0, 75, -9)
    done = {name: data for name, data in content(store).items() if name.endswith(".parquet")}
    project.build("extract --stage masks")
    after, expected = content(store), content(Path(remote.values["store"]))
    assert all(after[name] == data for name, data in done.items())
    masks = [name for name in expected if "/masks/" in name or "/sam_features/" in name]
    assert all(after[name] == expected[name] for name in masks)


@pytest.mark.slow
def test_parts_side_by_side_through_faults(remote: Any, server: Server, finished_once: Any, tmp_path: Path) -> None:
    project = finished_once.copy(tmp_path)
    store = at_bucket(project, server)
    with server.faults(now_and_then("slow_down", "reset", "lost", "cut", share=0.05, seed=3)):
        project.build("index")
        parts = [project.child("extract", "--stage", "masks", "--part", f"{part}/2") for part in range(2)]
        said = [part.communicate() for part in parts]
        assert [part.returncode for part in parts] == [0, 0], said
    after, expected = content(store), content(Path(remote.values["store"]))
    assert all(after[name] == expected[name] for name in expected if "/masks/" in name and name.endswith(".parquet"))


def test_wrong_set_ups_are_named_and_nothing_is_changed(server: Server, tiny: Any) -> None:
    tiny.configure(store="s3://no-such-bucket-here/store")
    done = tiny.run("index")
    assert (done.code, "no-such-bucket-here" in done.err) == (2, True), done.err
    for address in ("ftp://host/store", "http://host/store"):
        tiny.configure(store=address)
        done = tiny.run("index")
        assert (done.code, "expected a folder or one of s3://, gs://, az://" in done.err) == (2, True), done.err
    tiny.configure(run__report_dir="s3://bucket/report")
    done = tiny.run("index")
    assert (done.code, "run.report_dir" in done.err) == (2, True), done.err
    store = at_bucket(tiny, server)
    _of_scheme.cache_clear()
    with server.faults(lambda request: "ignores"):
        done = tiny.run("index")
    assert done.code == 2
    assert "ignores put-if-absent" in done.err
    assert f"s3://{store.parts[1]}" in done.err
    assert files_below(store) == []
