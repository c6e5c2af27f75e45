"""Reads everything a store holds, so that tests can damage it and see that nothing wrong is ever read as right."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from store import StoreError, open_split
from store.format.arrays import record_frame
from store.format.layout import find_columns
from store.format.names import without_proposer
from store.format.shard import read_commit, record_text
from store.storage.files import canonical_json

Value = Any
"""Something plain that can be compared, or None: a StoreError was raised."""


def columns_of(store: Path) -> list[str]:
    """Names of the columns of an intact split, ``d/val``."""
    return find_columns(store, "d", "val")


def read(store: Path, columns: list[str], only: str | None = None, split: str = "val") -> dict[str, Value]:
    """Every record, and every sample of a stream; of a column alone, if ``only`` one is wanted."""
    found: dict[str, Value] = {}
    opened = _value(lambda: open_split(store, "d", split, columns=columns))
    if opened is None:
        return found
    wanted = columns if only is None else [only]
    for image in range(len(opened)):
        record = _value(lambda image=image: opened[image])
        found[f"{image}"] = None if record is None else plain([record.image_id, record.path, record.status])
        for name in wanted if record is not None else []:
            found[f"{image} {name}"] = plain(_value(lambda record=record, name=name: _of_record(record, name)))
    for name in wanted:
        for number in range(len(opened)):
            stream = _value(lambda name=name: opened.stream([name], 1, threads=0))
            if stream is None:
                break
            stream.schedule.position = number
            found[f"stream {name} {number}"] = plain(_value(lambda stream=stream: next(iter(stream))))
    return found


def _of_record(record: Any, name: str) -> Any:
    if without_proposer(name) in ("masks", "instances"):
        regions = getattr(record, without_proposer(name))
        return [[region.height_px, region.width_px, dict(region)] for region in regions]
    if name == "targets" or name.startswith("match/"):
        return [dict(target) for target in record.targets]
    return record.path if name == "images" else record[name]


def _value(read_it: Any) -> Any:
    try:
        return read_it()
    except StoreError:
        return None


def plain(value: Any) -> Any:
    """Arrays as dtype, shape and bytes, so that ``==`` compares them."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def wrong_reads(before: dict[str, Value], after: dict[str, Value]) -> list[str]:
    """What was read and is not what it was."""
    return [name for name, value in after.items() if value is not None and value != before.get(name)]


@contextmanager
def damaged(path: Path, data: bytes | None) -> Iterator[None]:
    """The file with other bytes (None: without the file), as old as it was; put back at the end."""
    good, state = path.read_bytes(), path.stat()
    path.unlink() if data is None else path.write_bytes(data)
    if data is not None:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    try:
        yield
    finally:
        path.write_bytes(good)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def files_of(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def swap(left: Path, right: Path) -> None:
    spare = left.with_name("spare")
    shutil.move(left, spare)
    shutil.move(right, left)
    shutil.move(spare, right)


def record_of(path: Path) -> tuple[dict[str, Any], int, int]:
    """The record in a shard's file, as JSON; where it begins, and how long it is."""
    data = path.read_bytes()
    text = record_text(read_commit(*shard_of(path)))  # type: ignore[arg-type]
    return json.loads(text), data.rindex(text), len(text)


def shard_of(path: Path) -> tuple[Path, int]:
    """The column's folder and the number of a shard's file."""
    if path.suffix == ".parquet":
        return path.parent, int(path.stem)
    folder = next(parent for parent in path.parents if parent.name == "c")
    return folder.parent, int(path.relative_to(folder).parts[0])


def forge_record(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the record in an array's file and seal it again, as somebody who knows the format can."""
    value, at, length = record_of(path)
    change(value)
    data = path.read_bytes()
    text = forged(value)
    write_sealed(path, data[:at] + record_frame(text) + data[at + length + 16 :], text)


def forge_table(path: Path, write: Callable[[dict[str, bytes]], bytes]) -> None:
    """Put another table under the record of a table's shard: ``write`` makes a file with these key-value metadata."""
    text = forged(record_of(path)[0])
    write_sealed(path, write({"elisa": text}), text)
    (path.parent / "summary.json").unlink(missing_ok=True)


def forged(value: dict[str, Any]) -> bytes:
    """A record's text with zeros for its seals, whatever it says."""
    last = {name: value.pop(name) for name in ("content", "seal", "check") if name in value}
    rest = json.dumps({"content": last.get("content"), "seal": "0" * 64, "check": "0" * 8}, separators=(",", ":"))
    return canonical_json(value)[:-1] + b"," + rest.encode()[1:]


def write_sealed(path: Path, data: bytes, text: bytes) -> None:
    at = data.rfind(text)
    if at >= 0:
        seal = hashlib.sha256(data).hexdigest().encode()
        text = text.replace(b'"seal":"' + b"0" * 64, b'"seal":"' + seal)
        text = text[:-10] + b'%08x"}' % google_crc32c.value(text)
        data = data[:at] + text + data[at + len(text) :]
    path.write_bytes(data)
