"""What the store asks of a storage: eight calls. An object is whole or not there, and is never changed once it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

FILE, FOLDER, LINK, OTHER = "file", "folder", "link", "other"


class Stat(NamedTuple):
    """What there is under a path: one of ``file``, ``folder``, ``link``, ``other``; its size in bytes; its token.

    The token differs between any two versions of an object. It says nothing about an object under another path.
    """

    kind: str
    size: int
    token: str


class Entry(NamedTuple):
    """What a folder holds: a name, and whether that is a folder (a link to a folder is not)."""

    name: str
    folder: bool


class RefusedError(Exception):
    """A condition of :meth:`Storage.put` or :meth:`Storage.delete` does not hold: nothing was changed by the call."""


class LostAnswerError(OSError):
    """It is not known whether a call took effect, because its answer did not come."""


class Opened(Protocol):
    """An object that is open for reading. It stays the version that was opened, or its bytes no longer fit their checksums."""

    size: int
    token: str

    def readv(self, pieces: Sequence[memoryview], offset: int) -> int:
        """Fill the pieces, one after the other, from ``offset`` on; the number of bytes read, 0 at the end. May stop early."""
        ...


class Staged(Protocol):
    """An object that is safe in the storage, and that nobody sees yet."""

    size: int


class Storage(Protocol):
    """Where objects lie. Paths are those of the store; every error but "not there" is an OSError that names the path."""

    def open(self, path: Path) -> Opened:
        """Open an object for reading; FileNotFoundError if it is missing, OSError (ELOOP) for a link."""
        ...

    def stat(self, path: Path, follow: bool = False) -> Stat | None:
        """What is under a path; for a link, the link itself unless ``follow``. None where there is nothing."""
        ...

    def list(self, folder: Path) -> list[Entry]:
        """What a folder holds, sorted by name; nothing if it is missing. It may miss what was put a moment ago."""
        ...

    def stage(
        self, path: Path, blocks: Iterable[bytes], seal: Callable[[str], tuple[int, bytes]] | None = None
    ) -> AbstractContextManager[Staged]:
        """Store bytes for an object that is to be put under ``path``. What was not put when the block ends is removed.

        Args:
            seal: given the sha256 (hex) of all blocks, returns an offset, and the bytes to put there in place of the others.
        """
        ...

    def put(self, staged: Staged, path: Path, token: str | None, durable: bool = True) -> None:
        """Put a staged object under ``path``, at once and whole. When this returns it is there permanently.

        Args:
            token: of the version to replace; None: there must be nothing under the path.
            durable: False: a power loss may bring back what was there before.

        Raises:
            RefusedError: there is something else.
            LostAnswerError: it may have been put, or not.
            OSError: it failed. If the object is there nevertheless, a power loss may remove it.
        """
        ...

    def delete(self, path: Path, token: str | None = None, durable: bool = False) -> bool:
        """Remove an object (with ``token``, only that version of it); return whether this call removed one.

        ``durable``: a power loss does not bring it back.

        Raises:
            RefusedError: there is another version.
        """
        ...

    def lock(self, folder: Path) -> AbstractContextManager[None]:
        """Keep others out of a column while they ask for the same lock, where that works. It only saves work."""
        ...

    def sweep(self, folder: Path) -> None:
        """Remove below a folder what was staged by writers that are proved dead, or was staged over 24 hours ago."""
        ...
