"""The files that an image and its annotation are made from, and their digests."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from stages.base import Entry
from stages.digests import Digests, State, sha256_of
from stages.images import ImageFailure, check_inside
from stages.threads import cores, in_threads
from store.addresses import is_remote
from store.read.folders import Folders
from store.storage.mounts import storage_of
from store.storage.protocol import FILE, Stat
from store.storage.requests import IN_FLIGHT, at_once


def source_files(entry: Entry, files: str) -> tuple[str, ...]:
    """The files a row of ``images`` (or of the two ``annotations`` tables) is made from, relative to the data set's root.

    Files that cover many images are left out if their content for each image is known (:func:`source_content`).
    """
    if entry.removed:
        return ()
    source = entry.source
    if files == "images":
        return (source.path, *source.others)
    return source.own if source.content else source.annotations


def source_content(entry: Entry, files: str) -> dict[str, str]:
    """What annotation files that cover many images say of one image: a name for it -> its digest."""
    source = entry.source
    if entry.removed or files == "images" or not source.content:
        return {}
    return {f"{source.annotations[0]}#{source.image_id}": source.content}


def source_sha256(root: Path | Folders, path: str, digests: Digests | None = None) -> str:
    """sha256 of a source file, or what :func:`_source` returns instead of its state. Raises the same errors.

    ``digests``: known digests; None: the file is read.
    """
    file, state = _file(root, path), _source(root, path)
    if isinstance(state, str):
        return state
    return sha256_of(file) if digests is None else digests.sha256(file, state)


def source_digests(root: Path | Folders, paths: Iterable[str], digests: Digests) -> dict[str, str]:
    """:func:`source_sha256` of several files; those that have to be read are read in threads."""
    found: dict[str, str] = {}
    unknown: dict[str, State] = {}
    listed = list(paths)
    for path, state in zip(listed, _sources(root, listed), strict=True):
        known = state if isinstance(state, str) else digests.known(_file(root, path), state)
        if isinstance(known, str):
            found[path] = known
        elif not isinstance(state, str):
            unknown[path] = state
    threads = IN_FLIGHT // 4 if any(isinstance(state, Stat) for state in unknown.values()) else cores()
    threads = threads if len(unknown) > 1 else 0
    read = in_threads(lambda path: digests.sha256(_file(root, path), unknown[path]), unknown, threads, 4 * threads)
    found |= zip(unknown, read, strict=True)
    digests.keep()
    return found


def _file(root: Path | Folders, path: str) -> str:
    return root.path(path) if isinstance(root, Folders) else f"{root}/{path}"


def _sources(root: Path | Folders, paths: Sequence[str]) -> list[State | str]:
    """:func:`_source` of several files; an object store is asked about all of them at once."""
    folders = root.folders if isinstance(root, Folders) else (root,)
    look = partial(_source, root)
    return at_once(look, paths) if any(map(is_remote, folders)) else [look(path) for path in paths]


def _source(root: Path | Folders, path: str) -> State | str:
    """The state of a source file; ``missing``, or ``outside`` for a path whose text leads out of ``root``.

    Raises:
        FileNotFoundError: its whole folder is missing, e.g. an unmounted disk; that says nothing about the data set.
    """
    try:
        check_inside(path)
    except ImageFailure:
        return "outside"
    file, state = _file(root, path), None
    if is_remote(file):
        there = storage_of(Path(file)).stat(Path(file))
        return there if there is not None and there.kind == FILE else "missing"
    try:
        state = os.stat(file)  # noqa: PTH116 - a Path for each of 100 000 files takes longer than to ask for its state
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
    if state is None or not stat.S_ISREG(state.st_mode):
        if not Path(file).parent.is_dir():
            raise FileNotFoundError(f"{path}: its folder is not there")
        return "missing"
    return state
