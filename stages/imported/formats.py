"""Which reader a file or folder needs, told from its name and its first character; there is no option for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stages.images import ImageFailure
from stages.imported import Each, Foreign, ImportFailure
from stages.imported.amg import read_json_file
from stages.imported.elisa import read_jsonl
from stages.imported.llmseg import read_hdf5
from stages.imported.npz import read_npz
from store.storage.files import file_sha256

READERS: dict[str, Callable[[Path, Each], None]] = {
    ".json": read_json_file,
    ".jsonl": read_jsonl,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".npz": read_npz,
}
"""Suffix -> reader. In a folder: .json and .npz, one file per picture."""
_IN_FOLDERS = (".json", ".npz")


@dataclass(frozen=True)
class Files:
    """A file, or the files of one kind in a folder."""

    path: Path
    paths: tuple[Path, ...]

    def read(self, each: Each) -> None:
        """Call ``each`` for every picture. In a folder, a file that cannot be read becomes the ``trouble`` of its picture.

        Raises:
            ImportFailure: the file cannot be read.
        """
        for path in self.paths:
            try:
                READERS[path.suffix.lower()](path, each)
            except ImageFailure as error:
                if path == self.path:
                    raise ImportFailure(f"{path}: {error}") from error
                each(Foreign(path.stem, trouble=str(error)))

    def sha256(self) -> str:
        """Digest of the file; for a folder, of the names and digests of its files."""
        if self.paths == (self.path,):
            return file_sha256(self.path)
        state = hashlib.sha256()
        for path in self.paths:
            state.update(f"{file_sha256(path)}  {path.name}\n".encode("utf-8", "surrogateescape"))
        return state.hexdigest()


def files_at(path: Path) -> Files:
    """The file, or the files in a folder that have a reader, sorted by name.

    Raises:
        ImportFailure: the path does not exist, holds no file of a known kind, or files of two kinds.
    """
    known = ", ".join(READERS)
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise ImportFailure(f"{path}: found a file {path.suffix or 'without suffix'}, expected one of {known}")
        return Files(path, (path,))
    if not path.is_dir():
        raise ImportFailure(
            f"{path}: found no such file or folder, expected one of {known}, or a folder of .json or .npz"
        )
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in READERS and not each.name.startswith("."))
    kinds = sorted({each.suffix.lower() for each in found})
    if len(kinds) != 1 or kinds[0] not in _IN_FOLDERS:
        what = f"files of {' and '.join(kinds)}" if kinds else "no file that can be read"
        raise ImportFailure(
            f"{path}: found {what}, expected .json or .npz alone, one per picture; or name the file itself"
        )
    return Files(path, tuple(found))
