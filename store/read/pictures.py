"""Reads the pixels of indexed images from the data set's own folder, checked against the digest in the index."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ..addresses import is_remote
from ..errors import StoreError
from ..storage.listing import is_folder
from ..storage.mounts import storage_of
from ..storage.objects import read_range
from .folders import Folders
from .open_files import with_room
from .pixels import pillow, upright_rgb

_JPEG, _END = b"\xff\xd8", bytes(64) + b"\xff\xd9"
"""The first bytes of a JPEG, and the end that is appended to one that was indexed without its end marker."""

Version = tuple[int | str, ...]
"""What changes with a file's bytes: inode, size, times (``ctime`` cannot be set back); for an object, its token."""


class Pictures:
    """Reads the image files of a split.

    Args:
        root: the data set's folder, or its folders. Links are followed; names of files that lead outside of them are refused.
        check: when bytes are checked against their digest: ``always``, at ``first-touch`` (and again when size or times changed),
            or ``never``. A file is read once for the check and the pixels.
    """

    def __init__(self, root: Folders, check: str) -> None:
        self.root, self.check = root, check
        self._checked: dict[str, Version] = {}

    def read(self, name: str, sha256: str) -> npt.NDArray[np.uint8]:
        """The pixels of a file, uint8 [H, W, 3] RGB, EXIF-oriented.

        Raises:
            StoreError: the file is not there, or is not the one that was indexed.
        """
        path = self._path(name)
        data, version = self._bytes(path)
        if self.check == "always" or (self.check == "first-touch" and self._checked.get(name) != version):
            if (found := hashlib.sha256(data).hexdigest()) != sha256:
                message = f"{path} is not the file that was indexed: found sha256 {found}, expected {sha256}"
                raise StoreError(message, path=path, found=found, expected=sha256)
            self._checked[name] = version
        try:
            try:
                return _decoded(data)
            except OSError:
                if self._checked.get(name) != version or not data.startswith(_JPEG):
                    raise
                return _decoded(data + _END)  # the index found that only the end marker is missing
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for bad bytes
            raise StoreError(f"{path} cannot be decoded: {error}", path=path) from error

    def _path(self, name: str) -> Path:
        inside = PurePosixPath(name)
        if inside.is_absolute() or ".." in inside.parts:
            raise StoreError(f"{name!r} leads outside images_root")
        return Path(self.root.path(str(inside)))

    def _bytes(self, path: Path) -> tuple[bytes, Version]:
        try:
            if is_remote(path):
                opened = storage_of(path).open(path)
                return read_range(opened, 0, opened.size, path), (opened.token,)
            with with_room(lambda: path.open("rb")) as file:
                state = os.fstat(file.fileno())
                return file.read(), (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            there = all(map(is_folder, self.root.folders))
            raise StoreError(
                f"no file {path}: images_root={str(self.root)!r} {'holds no such file' if there else 'is no folder'}; "
                f"expected the folder of the data set that was indexed{self._meant(path) if there else ''}",
                path=path,
            ) from error

    def _meant(self, path: Path) -> str:
        """The folder above the root, if that has the file: a root that names a split's folder is a common mistake."""
        root = next((Path(root) for root in self.root.folders if path.is_relative_to(root)), None)
        if root is None or not storage_of(path).stat(root.parent / path.relative_to(root)):
            return ""
        return f"; did you mean images_root={str(root.parent)!r}?"


def _decoded(data: bytes) -> npt.NDArray[np.uint8]:
    with pillow("Image").open(io.BytesIO(data)) as image:
        image.load()
        return upright_rgb(image)
