"""The archive that keeps imported masks or vectors: a ZIP file with a member per picture, named by the ZIP file's own sha256.

A picture is known by the sha256 of its file, so that nothing depends on names. Members are stored without compression and
with fixed times, so that the same content gives the same bytes everywhere. This module needs no torch.

    about.json              version, kind (masks or vectors), dim, and the sha256 of the files that it was made from
    <sha256>/0.json         masks: a list with a record per mask in the file's order, null for a mask without a pixel;
                            vectors: a list with the :func:`mask_key` of each row
    <sha256>/0.npy          vectors: float32 [K, dim]
    troubles.json           sha256 -> why nothing was taken of that picture
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.imported import Vectors
from store.storage.files import (
    TEMPORARY,
    canonical_json,
    file_sha256,
    flock,
    make_folder,
    may_be_starting,
    publish,
    remove_if_dead,
)

VERSION = 1
MASKS, VECTORS = "masks", "vectors"
_ABOUT, _TROUBLES = "about.json", "troubles.json"
_TIME = (1980, 1, 1, 0, 0, 0)


def mask_key(counts: str) -> str:
    """The key under which a mask's vector is found: a digest of its run-length encoding."""
    return hashlib.sha256(counts.encode()).hexdigest()[:32]


class Writer:
    """An archive that is being written; :func:`new_archive` gives one."""

    def __init__(self, folder: Path, path: Path, zipped: zipfile.ZipFile) -> None:
        self._folder, self._path, self._zip = folder, path, zipped
        self._parts: dict[str, int] = {}

    def add_masks(self, sha256: str, records: Sequence[dict[str, Any] | None]) -> None:
        """Add the records of a picture's masks."""
        self._add(f"{self._next(sha256)}.json", canonical_json(list(records)))

    def add_vectors(self, sha256: str, counts: Sequence[str], vectors: Vectors) -> None:
        """Add vectors, float32 [K, D], with the COCO RLE counts of the mask of each; may be called several times for a picture."""
        part, data = self._next(sha256), io.BytesIO()
        np.lib.format.write_array(data, np.ascontiguousarray(vectors, "<f4"), (1, 0), allow_pickle=False)
        self._add(f"{part}.json", canonical_json([mask_key(each) for each in counts]))
        self._add(f"{part}.npy", data.getvalue())

    def finish(self, about: Mapping[str, Any], troubles: Mapping[str, str]) -> str:
        """Give the archive its final name, durably; returns its sha256."""
        self._add(_TROUBLES, canonical_json(dict(troubles)))
        self._add(_ABOUT, canonical_json({"version": VERSION, **about}))
        self._zip.close()
        with self._path.open("rb+") as file:
            os.fsync(file.fileno())
        sha256 = file_sha256(self._path)
        publish(self._path, self._folder / f"{sha256}.zip")
        return sha256

    def _next(self, sha256: str) -> str:
        part = self._parts.get(sha256, 0)
        self._parts[sha256] = part + 1
        return f"{sha256}/{part}"

    def _add(self, name: str, data: bytes) -> None:
        member = zipfile.ZipInfo(name, _TIME)
        member.create_system, member.external_attr = 3, 0o644 << 16  # the same on every system
        self._zip.writestr(member, data)


@contextlib.contextmanager
def new_archive(folder: Path) -> Iterator[Writer]:
    """A new archive in ``folder``.

    If it is not finished when the block ends it is removed; so are the remains of dead processes.
    """
    make_folder(folder)
    for left in folder.glob(f"{TEMPORARY}*"):
        if not may_be_starting(left):
            remove_if_dead(left)
    path = folder / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with path.open("xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                flock(file.fileno(), path)
            with zipfile.ZipFile(file, "w") as zipped:
                yield Writer(folder, path, zipped)
    finally:
        path.unlink(missing_ok=True)


class Archive:
    """An archive opened for reading. Threads may share it.

    Raises:
        ValueError: the file is not such an archive, or is of the other kind.
    """

    def __init__(self, path: Path, kind: str) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
            self.about: dict[str, Any] = json.loads(self._zip.read(_ABOUT))
            self._troubles: dict[str, str] = json.loads(self._zip.read(_TROUBLES))
        except (zipfile.BadZipFile, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not an archive of imported masks or vectors ({error})") from error
        found = self.about.get("version"), self.about.get("kind")
        if found != (VERSION, kind):
            raise ValueError(f"{path}: found imported {found[1]} of version {found[0]}, expected {kind} of {VERSION}")
        self._parts: dict[str, list[str]] = {}
        for name in self._zip.namelist():
            sha256, _, part = name.partition("/")
            if part.endswith(".json"):
                self._parts.setdefault(sha256, []).append(name.removesuffix(".json"))

    def trouble(self, sha256: str) -> str | None:
        """Why a picture has nothing in the archive; None where it has something."""
        if sha256 in self._troubles:
            return f"the imported file: {self._troubles[sha256]}"
        return None if sha256 in self._parts else f"the imported {self.about['kind']} have none of this picture"

    def records(self, sha256: str) -> list[dict[str, Any] | None]:
        """The records of a picture's masks, in the order of the file that they came from; None for a mask without a pixel."""
        (part,) = self._parts[sha256]
        found: list[dict[str, Any] | None] = json.loads(self._zip.read(f"{part}.json"))
        return found

    def vectors(self, sha256: str) -> tuple[list[str], Vectors]:
        """The :func:`mask_key` of each vector of a picture, and the vectors, float32 [K, D]."""
        keys: list[str] = []
        arrays = []
        for part in self._parts[sha256]:
            keys += json.loads(self._zip.read(f"{part}.json"))
            arrays.append(np.load(io.BytesIO(self._zip.read(f"{part}.npy")), allow_pickle=False))
        return keys, np.concatenate(arrays)
