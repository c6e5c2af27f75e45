"""An object store as a storage: S3 and storages that speak its protocol, Google Cloud Storage, Azure. Uses ``obstore``.

Its paths are addresses as :class:`pathlib.Path`: ``s3:/bucket/prefix/...`` (pathlib writes one slash).
Credentials come from the environment or the provider's own chain, never from a params file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ..errors import StoreError
from .files import ABANDONED_S, TEMPORARY
from .protocol import FILE, FOLDER, Entry, LostAnswerError, RefusedError, Staged, Stat
from .remote_opened import TAIL, RemoteOpened, condition_of, token_of

T = TypeVar("T")

_MOST_AT_ONCE = 5 * 2**30
"""Bytes that S3 takes in one request."""
_CLIENT = {"timeout": "10min", "connect_timeout": "10s"}
"""Limits of one request: the whole of a large shard goes in one."""
_RETRIES = {"max_retries": 8, "retry_timeout": timedelta(minutes=2)}
"""How often, with growing waits, to repeat a request that the storage did not answer, or answered with a 5xx (e.g. SlowDown)."""
_METADATA = ("/latest/api/token", "/computeMetadata/", "/metadata/identity/")
"""Where a client asks its machine for credentials that the environment does not have: AWS, Google, Azure."""
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
"""Names in the environment that let a storage be asked without encryption."""
_process: list[int] = []
"""The process in which a client was first made: all clients share its threads, which a forked process lacks."""
_TRIES = 4
"""How often to try a request whose answer breaks off."""


@dataclass
class RemoteStaged:
    """The bytes of an object, in memory until they are put."""

    data: bytearray
    size: int = 0

    def __post_init__(self) -> None:
        self.size = len(self.data)


class RemoteStorage:
    """A bucket (or container), published by put-if-absent and by conditions on the ETag; both are tried out before the first write.

    There are no folders, no locks, and nothing half-written: an object is there when its upload has ended.

    Args:
        scheme, bucket: of the address.
    """

    def __init__(self, scheme: str, bucket: str) -> None:
        self.address = f"{scheme}://{bucket}"
        self._client: Any = None
        self._lock = threading.Lock()
        self._heeds_conditions = False

    def ask(self, path: Path, call: Callable[[Any, Any, str], T]) -> T:
        """What ``call`` returns, given ``obstore``, the client of the bucket and the key of the path.

        The client asks again where nothing was answered, but not where an answer broke off: that is done here.

        Raises:
            FileNotFoundError: there is no such object.
            StoreError: there is no such bucket, no key, or the storage is at http:// and that is not allowed.
            RefusedError: a condition does not hold.
            PermissionError: wrong credentials, or none.
            OSError: the storage cannot be reached, or failed. All of them name the path.
        """
        obstore, client = _obstore(self.address), self._opened()
        known, key = obstore.exceptions, self.key(path)
        for attempt in range(_TRIES):
            try:
                return call(obstore, client, key)
            except FileNotFoundError as error:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
            except (known.AlreadyExistsError, known.PreconditionError) as error:
                raise RefusedError from error
            except (known.PermissionDeniedError, known.UnauthenticatedError) as error:
                raise PermissionError(errno.EACCES, f"access was refused ({_first_line(error)})", str(path)) from error
            except known.BaseError as error:
                if "404 Not Found" in str(error):  # raised by a listing; a missing object is a FileNotFoundError
                    raise self._no_bucket() from error
                if any(place in str(error) for place in _METADATA):
                    raise StoreError(
                        f"{self.address}: found no credentials in the environment, and this machine has none of its own "
                        f"({_first_line(error)}); set {_KEYS[self.address[:2]]}"
                    ) from error
                if "builder error" in str(error) and self.address[:2] in _ALLOW_HTTP and not self._allows_http():
                    raise StoreError(
                        f"{self.address}: found a storage at http://, expected https:// ({_first_line(error)}); "
                        f"set {_ALLOW_HTTP[self.address[:2]]}=true if everything between here and there is yours"
                    ) from error
                if attempt == _TRIES - 1:
                    raise OSError(errno.EIO, f"the object store failed ({_first_line(error)})", str(path)) from error
                time.sleep(0.1 * 2**attempt)
        raise AssertionError

    def _no_bucket(self) -> StoreError:
        return StoreError(f"{self.address}: there is no such bucket here; make it first, or look at the address")

    def _opened(self) -> Any:
        """The client of the bucket, made once per process."""
        if _process and _process[0] != os.getpid():
            raise StoreError(
                f"{self.address}: this process was forked from one that had a bucket open, whose connections do not work here; "
                'start processes by "spawn" (loader(..., multiprocessing_context="spawn"))'
            )
        with self._lock:
            if self._client is None:
                _process[:] = [os.getpid()]
                obstore = _obstore(self.address)
                options = {**_CLIENT, "allow_http": True} if self._allows_http() else _CLIENT
                try:
                    self._client = obstore.store.from_url(self.address, client_options=options, retry_config=_RETRIES)
                except (obstore.exceptions.BaseError, ValueError) as error:
                    raise StoreError(f"{self.address}: cannot be opened: {_first_line(error)}") from error
        return self._client

    def _allows_http(self) -> bool:
        allowed = os.environ.get(_ALLOW_HTTP.get(self.address[:2], ""), "")
        return self.address.startswith("http:") or allowed.strip().lower() in ("1", "true", "yes", "on")

    def key(self, path: Path) -> str:
        """The name of an object in its bucket."""
        return "/".join(path.parts[2:])

    def head(self, path: Path) -> Any:
        """What the store says of an object: size, ETag, version. Raises as :meth:`ask`."""
        if not self.key(path):  # the bucket itself is not an object
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return self.ask(path, lambda obstore, client, key: obstore.head(client, key))

    def last(self, path: Path, count: int) -> tuple[Any, memoryview]:
        """As :meth:`head`, with the last ``count`` bytes of the object, or none where the storage does not give both at once."""
        if not self.key(path) or self.address.startswith("az:"):  # Azure has no ranges from the end
            return self.head(path), memoryview(b"")
        return self.ask(path, partial(_last_bytes, count))

    def open(self, path: Path, tail: int = TAIL) -> RemoteOpened:
        """As :meth:`store.storage.protocol.Storage.open`; ``tail``: how many of the last bytes to ask for at once."""
        return RemoteOpened(path, *self.last(path, tail), self.ask)

    def stat(self, path: Path, follow: bool = False) -> Stat | None:
        """As :meth:`store.storage.protocol.Storage.stat`. A folder is there where an object below it is."""
        try:
            found = self.head(path)
            return Stat(FILE, found["size"], token_of(found))
        except FileNotFoundError:
            pass
        if not path.parts[1:]:  # the scheme alone, above all buckets
            return None
        below: list[Any] = self.ask(
            path, lambda obstore, client, key: next(iter(obstore.list(client, key or None, chunk_size=1)), [])
        )
        return Stat(FOLDER, 0, "") if len(below) or not self.key(path) else None

    def list(self, folder: Path) -> list[Entry]:
        """As :meth:`store.storage.protocol.Storage.list`."""
        if not folder.parts[1:]:
            return []
        found = self.ask(folder, lambda obstore, client, key: obstore.list_with_delimiter(client, key or None))
        names = {(prefix.rstrip("/"), True) for prefix in found["common_prefixes"]}
        names |= {(each["path"], False) for each in found["objects"]}
        return sorted({Entry(name.rpartition("/")[2], below) for name, below in names})

    def files_below(self, folder: Path) -> Sequence[Path]:
        """Every object below a folder, in one request per thousand objects; :meth:`list` takes one request per folder."""
        if not folder.parts[1:]:
            return []
        keys = self.ask(
            folder,
            lambda obstore, client, key: [
                found["path"] for chunk in obstore.list(client, key or None) for found in chunk
            ],
        )
        return [Path(*folder.parts[:2], key) for key in keys]

    @contextlib.contextmanager
    def stage(
        self, path: Path, blocks: Iterable[bytes], seal: Callable[[str], tuple[int, bytes]] | None = None
    ) -> Iterator[Staged]:
        """As :meth:`store.storage.protocol.Storage.stage`: in memory. The storage is tried out first."""
        self.require_conditions(path)
        data, state = bytearray(), hashlib.sha256()
        for block in blocks:
            data += block
            state.update(block)
        if seal is not None:
            offset, text = seal(state.hexdigest())
            data[offset : offset + len(text)] = text
        if len(data) > _MOST_AT_ONCE:
            raise OSError(
                errno.EFBIG,
                f"found a shard of {len(data)} bytes, expected at most {_MOST_AT_ONCE}; choose smaller shard_images",
                str(path),
            )
        yield RemoteStaged(data)

    def put(self, staged: Staged, path: Path, token: str | None, durable: bool = True) -> None:
        """As :meth:`store.storage.protocol.Storage.put`.

        The client sends a request again whose answer was lost, which is refused if the first one succeeded. So what is there after
        a refusal is compared with what was to be put: the same bytes are as good as ours.
        """
        assert isinstance(staged, RemoteStaged)
        mode = "create" if token is None else condition_of(token)
        data = memoryview(staged.data)
        try:
            self.ask(
                path,
                lambda obstore, client, key: obstore.put(client, key, data, mode=mode, use_multipart=False),
            )
        except FileNotFoundError:
            if token is None:
                raise self._no_bucket() from None
            raise RefusedError from None
        except PermissionError:
            raise
        except (RefusedError, OSError) as error:
            if self._holds(path, staged.data):
                return
            if isinstance(error, RefusedError):
                raise
            raise LostAnswerError(*error.args, str(path)) from error

    def _holds(self, path: Path, data: bytearray) -> bool:
        """Whether the object has these bytes. Raises LostAnswerError where even this gets no answer: then nobody knows."""
        try:
            opened = self.open(path)
            there = bytearray(opened.size)
            return opened.size == len(data) and opened.readv([memoryview(there)], 0) == len(data) and there == data
        except FileNotFoundError:
            return False
        except OSError as error:
            raise LostAnswerError(*error.args, str(path)) from error

    def delete(self, path: Path, token: str | None = None, durable: bool = False) -> bool:
        """As :meth:`store.storage.protocol.Storage.delete`. The version is compared just before: few stores take a condition."""
        try:
            found = self.head(path)
        except FileNotFoundError:
            return False
        if token is not None and token_of(found) != token:
            raise RefusedError
        try:
            self.ask(path, lambda obstore, client, key: obstore.delete(client, key))
        except FileNotFoundError:
            return False
        except PermissionError:
            raise
        except OSError as error:
            raise LostAnswerError(*error.args, str(path)) from error
        return True

    def lock(self, folder: Path) -> contextlib.AbstractContextManager[None]:
        """As :meth:`store.storage.protocol.Storage.lock`: a bucket has no locks."""
        return contextlib.nullcontext()

    def sweep(self, folder: Path) -> None:
        """As :meth:`store.storage.protocol.Storage.sweep`: a killed process may have left a small object with which it
        tried the storage out."""
        for path in self.files_below(folder):
            if path.name.startswith(TEMPORARY) and self.is_abandoned(path):
                self.delete(path)

    def is_abandoned(self, path: Path) -> bool:
        """Whether an object is there and was put more than :data:`~store.storage.files.ABANDONED_S` ago."""
        try:
            return time.time() - self.head(path)["last_modified"].timestamp() > ABANDONED_S  # type: ignore[no-any-return]
        except FileNotFoundError:
            return False

    def require_conditions(self, path: Path) -> None:
        """Try out, once per process, whether the storage respects the conditions that publishing rests on.

        Args:
            path: of the store or anything in it; a small object is made next to it and removed.

        Raises:
            StoreError: it ignores them, so that two writers would overwrite each other's shards.
            OSError: it cannot be written.
        """
        if self._heeds_conditions:
            return
        probe = path.parent / f"{TEMPORARY}probe-{uuid.uuid4().hex}"
        self.put(RemoteStaged(bytearray(b"first")), probe, None)
        try:
            ignored = [
                what
                for what, token in (
                    ("put-if-absent (If-None-Match)", None),
                    ("replace-if-unchanged (If-Match)", _NO_TOKEN),
                )
                if self._lets_pass(probe, token)
            ]
        finally:
            self.delete(probe)
        if ignored:
            raise StoreError(
                f"{self.address} ignores {' and '.join(ignored)}: two writers would overwrite each other's shards. "
                "Expected conditional writes (Amazon S3, Google Cloud Storage, Azure, MinIO, Cloudflare R2); nothing was changed"
            )
        self._heeds_conditions = True

    def _lets_pass(self, probe: Path, token: str | None) -> bool:
        try:
            self.put(RemoteStaged(bytearray(f"again {token}".encode())), probe, token)
        except RefusedError:
            return False
        return True


def _last_bytes(count: int, obstore: Any, client: Any, key: str) -> tuple[Any, memoryview]:
    try:
        found = obstore.get(client, key, options={"range": {"suffix": count}})
        return found.meta, memoryview(found.bytes())
    except obstore.exceptions.BaseError as error:
        if not any(each in str(error) for each in _NO_RANGE):
            raise
    return obstore.head(client, key), memoryview(b"")


_NO_RANGE = ("non-partial response", "416 ")
"""What the storage says about a range of an object that has no ranges because it is empty."""
_NO_TOKEN = '"0"\n1'
"""A token that no object has."""


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _obstore(address: str) -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ModuleNotFoundError as error:
        raise StoreError(
            f'{address}: reading an object store needs the package obstore; type: pip install "elisa-store[objects]"'
        ) from error
    return obstore
