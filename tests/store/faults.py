"""A disk whose steps are numbered, so that tests can stop, fail or record each of them; and the work that is done on it."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import LAYOUT, write_images

from store import ConflictError, StoreError
from store.format.column import ColumnMeta, Commit, fingerprint
from store.format.layout import column_dir, parts_of
from store.format.schema import INSTANCES, OK
from store.format.shard import read_commit
from store.read.column import open_column
from store.write.verify import Report, verify
from store.write.writer import ShardData, begin_column, finish_column, is_begun, seen_commit, write_shard

IMAGES = 8
PLACES = {
    "array": "d/mask_embeddings/sam/x/val",
    "table": "d/instances/val",
    "downstream": "d/centered/m/mask_embeddings/sam/x/val",
}
"""Kind of column -> where one is. ``downstream`` is an array too, and is computed from ``array``; those from ``images``."""

LEFT_BY_A_KILL = ("left by a killed run", "zarr.json is ", "column.json is missing")


@dataclass(frozen=True)
class Step:
    """One system call of the writer, about to be made: open, create, write, fsync, link, rename, unlink or mkdir."""

    kind: str
    path: Path
    to: Path | None = None
    data: bytes = b""
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.path if self.to is None else self.to}"


@contextlib.contextmanager
def steps_of(root: Path, before: Callable[[Step], None]) -> Iterator[None]:
    """Call ``before`` with every step below ``root``. Every write stops early; fsync does nothing."""
    paths: dict[int, Path] = {}
    make_open, make_descriptor, replace_file, unlink, mkdir = io.open, os.open, os.replace, os.unlink, os.mkdir
    link = os.link

    class SteppedFile(io.FileIO):
        def write(self, data: Any) -> int:
            part = bytes(data)[: max(64, len(data) // 2)]
            before(Step("write", Path(str(self.name)), data=part, offset=self.tell()))
            return super().write(part)

    def ours(path: Any) -> bool:
        return not isinstance(path, int) and Path(path).is_relative_to(root)

    def open_file(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not ours(path):
            return make_open(path, mode, *args, **kwargs)
        before(Step("create" if "x" in mode else "open", Path(path)))
        file = SteppedFile(path, "xb") if "x" in mode else make_open(path, mode, *args, **kwargs)
        paths[file.fileno()] = Path(path)
        return file

    def open_descriptor(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if ours(path):
            before(Step("open", Path(path)))
        descriptor = make_descriptor(path, flags, *args, **kwargs)
        paths[descriptor] = Path(path)
        return descriptor

    def changing(kind: str, real: Callable[..., None]) -> Callable[..., None]:
        def change(path: Any, *args: Any, **kwargs: Any) -> None:
            there = os.path.lexists(path)
            if ours(path) and (not there and Path(path).parent.is_dir() if kind == "mkdir" else there):
                before(Step(kind, Path(path), Path(args[0]) if kind in ("rename", "link") else None))
            real(path, *args, **kwargs)

        return change

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", open_file)
        patch.setattr(os, "open", open_descriptor)
        patch.setattr(os, "fsync", lambda descriptor: before(Step("fsync", paths[descriptor])))
        patch.setattr(os, "replace", changing("rename", replace_file))
        patch.setattr(os, "link", changing("link", link))
        patch.setattr(os, "unlink", changing("unlink", unlink))
        patch.setattr(os, "mkdir", changing("mkdir", mkdir))
        yield


@dataclass(frozen=True)
class Work:
    """A column to be written, into a store where it was written before with ``old`` (None: it was not)."""

    kind: str
    old: dict[str, Any] | None
    new: dict[str, Any]

    @property
    def place(self) -> str:
        return PLACES[self.kind]


WORKS = {
    "array, first time": Work("array", None, {}),
    "array, other parameters": Work("array", {"points": 1}, {"points": 2}),
    "array, other upstream": Work("array", {"failed": {1: "x", 6: "y"}}, {}),
    "array, fewer shards": Work("array", {"points": 1, "shard_images": 2}, {"points": 2}),
    "table, first time": Work("table", None, {}),
    "table, other parameters": Work("table", {"points": 1}, {"points": 2}),
    "table, other upstream": Work("table", {"failed": {1: "x", 6: "y"}}, {}),
    "table, fewer shards": Work("table", {"points": 1, "shard_images": 2}, {"points": 2}),
}


def prepare(store: Path, work: Work) -> None:
    """The store as it is before the work."""
    with steps_of(store.parent, lambda step: None):
        if work.old is not None:
            write_images(store, IMAGES, work.old.get("shard_images", 4), failed=work.old.get("failed"))
            write(store, work.kind, work.old)
        write_images(store, IMAGES)


def meta_of(kind: str, how: dict[str, Any]) -> ColumnMeta:
    layout = replace(LAYOUT, dimension_names=()) if kind != "table" else None
    identity = {"stage": kind, "points": how.get("points", 0)}
    name = parts_of(PLACES[kind])[1]
    return ColumnMeta(name, identity, fingerprint(identity), IMAGES, how.get("shard_images", 4), layout)


def content(kind: str, how: dict[str, Any], image: int) -> Any:
    """What the work makes of an image: vectors, or a label."""
    seed = [how.get("points", 0), len(how.get("failed", {})), image]
    if kind != "table":
        return np.random.default_rng(seed).standard_normal((1 + image % 3, 8)).astype(np.float16)
    return f"label {seed}"


def write(store: Path, kind: str, how: dict[str, Any], acked: Callable[[int], None] = lambda shard: None) -> None:
    """Do the work as the pipeline does it: begin the column unless it is begun, then shard by shard."""
    folder, meta = column_dir(store, PLACES[kind]), meta_of(kind, how)
    if not is_begun(folder, meta):
        begin_column(folder, meta)
    for shard in range(meta.shards):
        write_one(store, kind, how, shard)
        acked(shard)
    finish_column(folder, PLACES[kind])


def write_one(store: Path, kind: str, how: dict[str, Any], shard: int, again: bool = False) -> Commit:
    """Write one shard of a column that is begun; ``again``: also where it is committed from the same inputs."""
    folder, meta = column_dir(store, PLACES[kind]), meta_of(kind, how)
    reads = "mask_embeddings/sam/x" if kind == "downstream" else "images"
    upstream = read_commit(column_dir(store, f"d/{reads}/val"), shard)
    assert upstream is not None
    own = [content(kind, how, image) for image in meta.shard_range(shard)]
    before = seen_commit(folder, shard)
    if kind == "table":
        fields = {"status": OK, "error": None, "segmentation": [], "bbox": [], "area": []}
        rows = [{"image_index": k, **fields, "label": [own[n]]} for n, k in enumerate(meta.shard_range(shard))]
        data = ShardData(rows, [1] * len(own), [OK] * len(own))
    else:
        data = ShardData(own, [len(row) for row in own], [OK] * len(own))
    schema = INSTANCES if kind == "table" else None
    return write_shard(folder, meta, PLACES[kind], shard, data, {reads: upstream.content}, schema, {}, before, again)


def readable(store: Path, kind: str) -> dict[int, Any]:
    """Every image of the column that can be read, with its content."""
    try:
        column = open_column(store, PLACES[kind], allow_incomplete=True)
    except StoreError:
        return {}
    found = {}
    for image in range(column.meta.images):
        with contextlib.suppress(StoreError):
            if kind != "table":
                found[image] = column.array(image)
            else:
                shard, rows = column.rows(image)
                found[image] = column.field(shard, "label")(rows.start)[0]
    return found


def uninterrupted(store: Path, work: Work) -> tuple[list[Step], dict[str, bytes]]:
    """Every step of the work, and the store it ends with."""
    steps: list[Step] = []
    with steps_of(store, steps.append):
        write(store, work.kind, work.new)
    return steps, tree(store)


def race(store: Path, *points: int) -> None:
    """Writers in threads, each with its own parameters: each ends or is told of the conflict, and the store stays whole."""
    outcomes = []

    def run(points: int) -> None:
        try:
            write(store, "array", {"points": points})
            outcomes.append(points)
        except ConflictError:
            outcomes.append(-1)

    threads = [threading.Thread(target=run, args=(each,)) for each in points]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == len(points)
    assert verify(store, ["d/val"], deep=True).problems == []
    for each in sorted(set(points)):
        write(store, "array", {"points": each})
        assert len(readable(store, "array")) == IMAGES


def unexpected_damage(report: Report) -> list[str]:
    """The problems that are not of the sort that a kill can leave."""
    return [str(found) for found in report.problems if not any(word in str(found) for word in LEFT_BY_A_KILL)]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def build(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder with these files."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def wrong_content(store: Path, work: Work, acked: set[int]) -> str | None:
    """What is lost or wrong: shards that were acked have to be readable, and what is readable must be as it was written.

    As long as no new shard is there, the old ones may be; where the parameters or the images changed they may not.
    """
    found = readable(store, work.kind)
    shard_images = work.new.get("shard_images", 4)
    if lost := [k for k in range(IMAGES) if k // shard_images in acked and k not in found]:
        return f"images {lost} were committed and are lost"
    current = open_meta(store, work)
    for image, value in found.items():
        expected = content(work.kind, current, image)
        if not np.array_equal(value, expected):
            return f"image {image} is read as good and is not"
    return None


def open_meta(store: Path, work: Work) -> dict[str, Any]:
    """The parameters that ``column.json`` names."""
    meta = open_column(store, work.place, allow_incomplete=True).meta if readable(store, work.kind) else None
    if meta is None or work.old is None or "points" not in work.old:
        return work.new
    return work.old if meta.identity["points"] == work.old["points"] else work.new
