"""What makes a command slow on a large split: files that are opened again and again, models that are loaded again."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import stages.digests
import stages.embed

_opened: Counter[str] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened[os.fsdecode(arguments[0])] += 1


@pytest.fixture(scope="module", autouse=True)
def _hooked() -> None:
    sys.addaudithook(_hook)  # it cannot be removed; outside of opened_files it does nothing


@contextmanager
def opened_files(folder: Path) -> Iterator[Counter[str]]:
    """Files below a folder -> how often they were opened meanwhile."""
    global _opened
    found: Counter[str] = Counter()
    _opened = Counter()
    try:
        yield found
    finally:
        all_files, _opened = _opened, None
        found.update({path: count for path, count in all_files.items() if Path(path).is_relative_to(folder)})
        for path in [path for path in found if Path(path).is_dir()]:
            del found[path]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.digests, "SETTLED_NS", -1)


COMMANDS = ("index", "info", "extract --dry-run", "verify --complete")


@pytest.mark.parametrize("command", COMMANDS)
def test_source_files_are_not_read_again(finished: Any, settled: None, command: str) -> None:
    assert finished.run("info").code == 0  # the copies are new files: they are read once
    stages.digests.digests_in.cache_clear()  # as a process of its own
    with opened_files(finished.data) as opened:
        done = finished.run(*command.split())
    assert done.code == 0, done.err
    assert {Path(path).name for path in opened} <= {"train.json"}  # all answers of a split: they are parsed
    assert max(opened.values(), default=0) <= 1


@pytest.mark.parametrize("command", ["info", "extract --dry-run"])
def test_records_of_the_store_are_read_once(finished: Any, command: str) -> None:
    with opened_files(finished.store) as opened:
        done = finished.run(*command.split())
    assert done.code == 0, done.err
    assert opened
    again = {path.removeprefix(str(finished.store)): count for path, count in opened.items() if count > 1}
    assert not again


def test_a_changed_picture_is_seen_whatever_is_kept(finished: Any, settled: None) -> None:
    assert finished.run("info").code == 0
    path = finished.data / "val/hen.jpg"
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = finished.info()["splits"]["val"]["columns"]["images"]
    assert any("val/hen.jpg changed" in reason for reason in found["why"]), found


def test_the_store_holds_nothing_of_the_cache(finished: Any, settled: None) -> None:
    before = {path for path in finished.folder.rglob("*") if path.is_file()}
    assert finished.run("info").code == 0
    new = {path for path in finished.folder.rglob("*") if path.is_file()} - before
    assert {path.parent for path in new} == {finished.folder / "cache"}
    assert len(new) == 3  # one for each folder of source files: train, val, explanatory


def test_what_a_stage_mends_the_next_one_sees(finished: Any) -> None:
    (finished.store / "tiny/masks/sam/val/column.json").unlink()
    shutil.rmtree(finished.store / "tiny/mask_embeddings/sam/demo_sam/val")
    want = {name for name in finished.content() if name.startswith("masks/sam/val")}
    done = finished.run("extract", "--split", "val")
    assert done.code == 0, done.err
    assert "masks val: up to date" in done.out
    assert want <= finished.content().keys()
    assert finished.run("verify", "--split", "val").code == 0


def test_models_are_loaded_once_whichever_columns_lack(finished: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every shard lacks other columns than the one before it; the last one is embedded again to compare with what is stored."""
    lost = {
        ("mask_embeddings/sam/demo_sam", 0), ("instance_embeddings/demo_alphaclip", 1), ("mask_embeddings/sam/demo_alphaclip", 0),
        ("image_features/demo_clip", 1),
    }  # fmt: skip
    want, since = finished.content(), finished.times()
    for column, shard in lost:
        finished.shard_path(f"{column}/train#{shard}").unlink()
    started, real = [], stages.embed.start

    def counted(params: Any, wanted: Any, *rest: Any) -> Any:
        started.append(wanted)
        return real(params, wanted, *rest)

    monkeypatch.setattr(stages.embed, "start", counted)
    done = finished.run("extract", "--split", "train", "--stage", "embed")
    assert done.code == 0, done.err
    assert len(started) == 1
    assert set(started[0]) == {column for column, _ in lost}
    assert finished.recomputed(since) == {f"{column}/train#{shard}" for column, shard in lost}
    assert finished.content() == want
