"""The listings of data sets, kept between commands so that annotation files of gigabytes are not parsed again.

A listing is kept with the files that it was made from (their size, times and inode), the options of the data set and a digest
of the listing code, and is valid as long as all of these stay the same. Each has a file of its own below the cache folder,
which is written whole: an incomplete or foreign file is not read. The cache is no part of a store, and may be removed at any
time.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from sys import intern
from typing import Any

from stages import datasets, digests
from stages.datasets.base import Source
from stages.datasets.params import DataParams
from stages.kept import keep, kept
from store.read.folders import Folders


def list_sources(data: DataParams, folders: Folders, split: str, below: Path) -> list[Source]:
    """Like :func:`stages.datasets.list_sources`, which is called if the listing is not in the cache folder."""
    root, began_ns = folders.folders[0], time.time_ns()
    files = datasets.listed_from(data, folders, split)
    before = _states(root, files)
    if before is None:
        return datasets.list_sources(data, folders, split)
    identity = [os.path.abspath(root), split, datasets.reading(data), code_digest()]  # noqa: PTH100 - links stay
    key = {"identity": identity, "files": [list(pair) for pair in zip(files, before, strict=True)]}
    path = below / f"{hashlib.sha256(json.dumps(identity[:3]).encode()).hexdigest()[:32]}.listing"
    known = kept(path, key)
    if known is not None:
        return _sources(known)
    found = datasets.list_sources(data, folders, split)
    is_settled = all(began_ns - state[2] > digests.SETTLED_NS for state in before)
    if is_settled and _states(root, files) == before:
        _keep(path, key, found)
    return found


def _states(root: Path, files: Sequence[str]) -> list[list[int]] | None:
    """Size, times and inode of each file; None if one is missing, or if ``files`` is empty."""
    try:
        found = [(root / file).stat() for file in files]
    except (OSError, ValueError):
        return None
    return [[each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino] for each in found] or None


@cache
def code_digest() -> str:
    """Digest of the listing modules, as another version of them may list something else."""
    files = [Path(__file__), *sorted(Path(datasets.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _sources(found: dict[str, Any]) -> list[Source]:
    annotations, others, own = (tuple(found[name]) for name in ("annotations", "others", "own"))
    split = found["split"]
    return [
        Source(intern(image_id), intern(path), annotations, others, content, own, split)
        for image_id, path, content in zip(found["ids"], found["paths"], found["contents"], strict=True)
    ]


def _keep(path: Path, key: dict[str, Any], sources: Sequence[Source]) -> None:
    """Write a listing. One whose sources differ in more than their pictures is not kept."""
    rest = {(source.annotations, source.others, source.own, source.split) for source in sources}
    if len(rest) != 1:
        return
    ((annotations, others, own, split),) = rest
    found: dict[str, Any] = {"annotations": annotations, "others": others, "own": own, "split": split}
    found |= {"ids": [source.image_id for source in sources], "paths": [source.path for source in sources]}
    found["contents"] = [source.content for source in sources]
    keep(path, key, found)
