"""A storage in memory, as an object store is: conditions hold at once, nothing is locked, and every call may go wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from store.storage.protocol import FILE, FOLDER, Entry, LostAnswerError, RefusedError, Staged, Stat


@dataclass(frozen=True)
class Call:
    """One call of the storage, about to be made."""

    kind: str
    path: Path

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


@dataclass
class MemoryOpened:
    data: bytes
    token: str

    @property
    def size(self) -> int:
        return len(self.data)

    def readv(self, pieces: Sequence[memoryview], offset: int) -> int:
        done = 0
        for piece in pieces:
            part = self.data[offset + done : offset + done + len(piece)]
            piece[: len(part)] = part
            done += len(part)
        return done


@dataclass
class MemoryStaged:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


@dataclass
class MemoryStorage:
    """Objects by path, each with a token.

    Args:
        before: called before every call; may sleep, wait for its turn, or raise what the call is to raise.
        loses: whether the answer of a call that changed something is lost: it raises, and was made all the same.
        lag: a listing is as old as this many changes.
        latency_s: every call takes this long.
    """

    objects: dict[Path, tuple[bytes, str]] = field(default_factory=dict)
    before: Callable[[Call], None] = lambda call: None
    loses: Callable[[Call], bool] = lambda call: False
    lag: int = 0
    latency_s: float = 0.0
    history: list[frozenset[Path]] = field(default_factory=list)
    versions: Counter[Path] = field(default_factory=Counter)

    def copy(self) -> MemoryStorage:
        return MemoryStorage(dict(self.objects), versions=Counter(self.versions))

    def version(self, path: Path) -> str:
        """The token of what there is under a path: which version of it, and a digest."""
        return self.objects[path][1] if path in self.objects else "none"

    def bytes(self) -> dict[str, bytes]:
        """Every object's bytes: what two runs have to agree on."""
        return {path.as_posix(): data for path, (data, _) in sorted(self.objects.items())}

    def set(self, path: Path, data: bytes) -> None:
        """Other bytes under a path, as damage."""
        self.versions[path] += 1
        self.objects[path] = (data, f"v{self.versions[path]} {hashlib.sha256(data).hexdigest()[:12]}")

    def _call(self, kind: str, path: Path) -> Call:
        if self.latency_s:
            time.sleep(self.latency_s)
        call = Call(kind, path)
        self.before(call)
        return call

    def _changed(self, call: Call) -> None:
        self.history.append(frozenset(self.objects))
        if self.loses(call):
            raise LostAnswerError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(call.path))

    def open(self, path: Path) -> MemoryOpened:
        self._call("open", path)
        if path not in self.objects:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return MemoryOpened(*self.objects[path])

    def stat(self, path: Path, follow: bool = False) -> Stat | None:
        self._call("stat", path)
        if path in self.objects:
            data, token = self.objects[path]
            return Stat(FILE, len(data), token)
        return Stat(FOLDER, 0, "") if any(path in name.parents for name in self.objects) else None

    def list(self, folder: Path) -> list[Entry]:
        self._call("list", folder)
        names = self.history[-1 - self.lag] if self.lag < len(self.history) else frozenset(self.objects)
        below = [name.relative_to(folder).parts for name in names if folder in name.parents]
        return sorted({Entry(parts[0], len(parts) > 1) for parts in below})

    @contextlib.contextmanager
    def stage(
        self, path: Path, blocks: Iterable[bytes], seal: Callable[[str], tuple[int, bytes]] | None = None
    ) -> Iterator[Staged]:
        data = bytearray(b"".join(blocks))
        if seal is not None:
            offset, text = seal(hashlib.sha256(data).hexdigest())
            data[offset : offset + len(text)] = text
        self._call("stage", path)
        yield MemoryStaged(bytes(data))

    def put(self, staged: Staged, path: Path, token: str | None, durable: bool = True) -> None:
        call = self._call("put", path)
        assert isinstance(staged, MemoryStaged)
        if (self.objects[path][1] if path in self.objects else None) != token:
            raise RefusedError
        self.set(path, staged.data)
        self._changed(call)

    def delete(self, path: Path, token: str | None = None, durable: bool = False) -> bool:
        call = self._call("delete", path)
        if path not in self.objects:
            return False
        if token not in (None, self.objects[path][1]):
            raise RefusedError
        del self.objects[path]
        self._changed(call)
        return True

    def lock(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def sweep(self, folder: Path) -> None:
        self._call("sweep", folder)
