"""Files and folders as a storage: local disks, and network file systems such as NFSv4."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import (
    TEMPORARY,
    locked,
    make_folder,
    named,
    remove_empty,
    remove_if_dead,
    sync_folder,
    temporary_file,
)
from .protocol import FILE, FOLDER, LINK, OTHER, Entry, RefusedError, Staged, Stat

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


class OpenFile:
    """A descriptor that is closed when nobody uses it any more. Its position never moves, so forks and threads may share it."""

    __slots__ = ("descriptor", "size", "token")

    def __init__(self, path: Path | str) -> None:
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        state = os.fstat(self.descriptor)
        if not stat.S_ISREG(state.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self.size, self.token = state.st_size, token_of(state)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)

    def readv(self, pieces: Sequence[memoryview], offset: int) -> int:
        """As :meth:`store.storage.protocol.Opened.readv`."""
        return os.preadv(self.descriptor, pieces, offset)


@dataclass
class StagedFile:
    """A temporary file, locked by this process."""

    path: Path
    size: int


class LocalStorage:
    """Files, published by ``link`` (nothing was there) or ``rename`` (of one version by the next), each with an fsync.

    Replacing compares first, then renames: this is exact among writers that hold the column's lock. Without locks, the last of
    two writers that replace the same version wins, with a whole file.
    """

    def open(self, path: Path) -> OpenFile:
        """As :meth:`store.storage.protocol.Storage.open`."""
        return OpenFile(path)

    def stat(self, path: Path, follow: bool = False) -> Stat | None:
        """As :meth:`store.storage.protocol.Storage.stat`."""
        try:
            state = path.stat() if follow else path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link that leads to itself
                return None
            raise
        mode = state.st_mode
        kind = FILE if stat.S_ISREG(mode) else FOLDER if stat.S_ISDIR(mode) else LINK if stat.S_ISLNK(mode) else OTHER
        return Stat(kind, state.st_size, token_of(state))

    def list(self, folder: Path) -> list[Entry]:
        """As :meth:`store.storage.protocol.Storage.list`."""
        try:
            with named(folder), os.scandir(folder) as found:
                return sorted(Entry(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextlib.contextmanager
    def stage(
        self, path: Path, blocks: Iterable[bytes], seal: Callable[[str], tuple[int, bytes]] | None = None
    ) -> Iterator[Staged]:
        """As :meth:`store.storage.protocol.Storage.stage`. Folders that it made and that stay empty are removed."""
        made = make_folder(path.parent)
        try:
            with temporary_file(path.parent, blocks, seal) as (temporary, size, _):
                yield StagedFile(temporary, size)
        except BaseException:
            remove_empty(made)
            raise

    def put(self, staged: Staged, path: Path, token: str | None, durable: bool = True) -> None:
        """As :meth:`store.storage.protocol.Storage.put`."""
        assert isinstance(staged, StagedFile)
        if token is None:
            self._link(staged.path, path)
        else:
            now = self.stat(path)
            if now is None or now.token != token:
                raise RefusedError
            _rename(staged.path, path)
        if durable:
            sync_folder(path.parent)

    def _link(self, temporary: Path, path: Path) -> None:
        try:
            os.link(temporary, path)
        except OSError as error:
            if _links(temporary) > 1:  # it was done; the answer was lost, and NFS asked again
                temporary.unlink(missing_ok=True)
                return
            if isinstance(error, FileExistsError):
                raise RefusedError from error
            if error.errno not in _NO_HARD_LINKS:
                raise
            if self.stat(path) is not None:
                raise RefusedError from error
            _rename(temporary, path)
        else:
            temporary.unlink(missing_ok=True)

    def delete(self, path: Path, token: str | None = None, durable: bool = False) -> bool:
        """As :meth:`store.storage.protocol.Storage.delete`."""
        now = self.stat(path)
        if now is None:
            return False
        if token is not None and now.token != token:
            raise RefusedError
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        if durable:
            sync_folder(path.parent)
        return True

    def lock(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """As :meth:`store.storage.protocol.Storage.lock`."""
        return locked(folder)

    def sweep(self, folder: Path) -> None:
        """As :meth:`store.storage.protocol.Storage.sweep`."""
        for entry in self.list(folder):
            if entry.folder:
                self.sweep(folder / entry.name)
            elif entry.name.startswith(TEMPORARY):
                remove_if_dead(folder / entry.name)


def _rename(temporary: Path, path: Path) -> None:
    ours = temporary.lstat()
    try:
        temporary.replace(path)
    except FileNotFoundError:
        there = path.lstat()
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise  # else it was done; the answer was lost, and NFS asked again


def _links(path: Path) -> int:
    try:
        return path.lstat().st_nlink
    except OSError:
        return 0


def token_of(state: os.stat_result) -> str:
    """What tells two versions of a file from each other; ``ctime`` cannot be set back."""
    return f"{state.st_ino}-{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}"
