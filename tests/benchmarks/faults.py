"""The corruption list: eight faults, each done to a tiny copy of a peer's files; then a full pass reads it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import data

COUNT = 8
FlipAt = tuple[Path, int]


def place_of(folder: Path, number: int = 1) -> FlipAt:
    """File and offset in the middle of a record's patches; every format stores them as they are."""
    needle = data.record(number).patches[288].tobytes()[:64]
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.stat().st_size < 1 << 28 and (at := path.read_bytes().find(needle)) >= 0:
            return path, at
    raise ValueError(f"{folder.name}: record {number} lies in no file as it is")


def flip(place: FlipAt) -> None:
    """Flip one bit."""
    path, offset = place
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def damage(fault: str, folder: Path, older: Path, index: FlipAt) -> None:
    """Do one of :data:`FAULTS` to a data set; ``older`` is one with other records."""
    FAULTS[fault](folder, older, index)


def _bit_in_data(folder: Path, older: Path, index: FlipAt) -> None:
    flip(place_of(folder))


def _bit_in_index(folder: Path, older: Path, index: FlipAt) -> None:
    flip(index)


def _truncated(folder: Path, older: Path, index: FlipAt) -> None:
    path, _ = place_of(folder)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size * 3 // 5)


def _extended(folder: Path, older: Path, index: FlipAt) -> None:
    path, _ = place_of(folder)
    with path.open("ab") as file:
        file.write(bytes(4096))


def _deleted(folder: Path, older: Path, index: FlipAt) -> None:
    place_of(folder)[0].unlink()


def _swapped(folder: Path, older: Path, index: FlipAt) -> None:
    first, second = place_of(folder)[0], place_of(folder, COUNT - 1)[0]
    if first == second:
        raise ValueError("all records are in one file")
    aside = folder / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def _older_file(folder: Path, older: Path, index: FlipAt) -> None:
    path, _ = place_of(folder)
    found = older / path.relative_to(folder)
    if not found.exists():  # names that are different in every data set
        at = sorted(other.relative_to(folder) for other in path.parent.iterdir()).index(path.relative_to(folder))
        found = sorted((older / path.relative_to(folder)).parent.iterdir())[at]
    shutil.copyfile(found, path)


def _zeroed(folder: Path, older: Path, index: FlipAt) -> None:
    path, offset = place_of(folder)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(4096))


FAULTS: dict[str, Callable[[Path, Path, FlipAt], None]] = {
    "bit flip in data": _bit_in_data,
    "bit flip in index": _bit_in_index,
    "truncated": _truncated,
    "extended": _extended,
    "deleted file": _deleted,
    "two files swapped": _swapped,
    "older file restored": _older_file,
    "zeroed block": _zeroed,
}


def verdict(answer: dict[str, Any], expected: list[str]) -> str:
    """detected: it raised (or hung, or died); harmless: all records were right; silent: records were wrong or missing."""
    if "not_done" in answer:
        return f"not done: {answer['not_done']}"
    if "digests" not in answer:
        return "detected"
    return "harmless" if sorted(answer["digests"]) == sorted(expected) else "silent"
