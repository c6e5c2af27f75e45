"""Writes the files of a report into a folder that may hold other files too: only what a report wrote is replaced or removed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from store.storage.files import make_folder
from store.storage.leftovers import replace_file

GENERATOR = "ELISA feature store report"
"""Text in the head of every page; a page without it was not written by a report."""
LIST = "written.json"
"""File in the folder of the pictures: name -> sha256 of each picture that a report wrote."""


def write_page(page: Path, html: str, folder: Path, pictures: Mapping[str, bytes]) -> None:
    """Write a page and its pictures, and remove pictures of an earlier report that this one no longer has.

    Args:
        folder: of the pictures.
        pictures: file name -> bytes.

    Raises:
        FileExistsError: a file that no report wrote has one of the names; nothing was written.
    """
    before = _listed(folder)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in pictures.items()}
    for path in (page, *(folder / name for name in pictures)):
        if path.exists() and not (_is_page(path) if path == page else _is_ours(path, before, digests)):
            raise FileExistsError(
                f"{path}: exists, and is not as a report wrote it; move it, or give another folder with --out"
            )
    # List the pictures to come as well, so that a run that is stopped here leaves nothing unlisted.
    _write(folder / LIST, _json(before | {name: [*before.get(name, ()), sha256] for name, sha256 in digests.items()}))
    for name in before.keys() - pictures.keys():
        if _is_ours(folder / name, before, {}):
            (folder / name).unlink()
    for name, data in pictures.items():
        _write(folder / name, data)
    _write(folder / LIST, _json({name: [sha256] for name, sha256 in digests.items()}))
    _write(page, html.encode())


def require_ours(path: Path) -> None:
    """Raise FileExistsError if a file exists that no report wrote: pages and figures of a report contain :data:`GENERATOR`."""
    if path.is_dir() or (path.exists() and GENERATOR.encode() not in path.read_bytes()):
        raise FileExistsError(f"{path}: exists, and was not written by this command; move it, or give another name")


def write_alone(path: Path, data: bytes) -> None:
    """Write a page or a figure that needs no other file, whole or not at all; raises as :func:`require_ours`."""
    require_ours(path)
    make_folder(path.parent)
    replace_file(path, data)


def _listed(folder: Path) -> dict[str, list[str]]:
    """Name -> digests that an earlier report wrote, without names that leave the folder; empty if the file is not such a list."""
    try:
        found = json.loads((folder / LIST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: digests for name, digests in found.items() if Path(name).name == name and isinstance(digests, list)}


def _is_ours(path: Path, before: Mapping[str, list[str]], now: Mapping[str, str]) -> bool:
    known = [*before.get(path.name, ()), *([now[path.name]] if path.name in now else [])]
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() in known


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return GENERATOR.encode() in file.read(4096)


def _json(digests: Mapping[str, list[str]]) -> bytes:
    return (json.dumps(digests, indent=1, sort_keys=True) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # it may be a link into DVC's cache
    path.write_bytes(data)
