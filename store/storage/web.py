"""A web server as a storage: files are read by ranges, nothing is listed and nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ..errors import StoreError
from .protocol import FILE, Entry, Staged, Stat
from .remote import RemoteStorage
from .remote_opened import token_of

T = TypeVar("T")


class WebStorage(RemoteStorage):
    """The files of a web server.

    Args:
        scheme, host: of the address; a port may follow the host.

    Raises:
        StoreError: the address holds a password, which messages would show.
    """

    def __init__(self, scheme: str, host: str) -> None:
        if "@" in host:
            raise StoreError(
                f"found a user in the address {scheme}://...@{host.rpartition('@')[2]}, expected {scheme}://host/path"
            )
        super().__init__(scheme, host)

    def ask(self, path: Path, call: Callable[[Any, Any, str], T]) -> T:
        """As :meth:`RemoteStorage.ask`. StoreError where the server gives only whole files."""
        try:
            return super().ask(path, call)
        except OSError as error:
            if "Range request not supported" in str(error):
                raise StoreError(
                    f"{self.address}: this server does not give ranges of files, which reading a store needs; expected one "
                    "that does, such as nginx, Apache or Caddy"
                ) from error
            raise

    def stat(self, path: Path, follow: bool = False) -> Stat | None:
        """As :meth:`store.storage.protocol.Storage.stat`, but only for files."""
        try:
            found = self.head(path)
        except FileNotFoundError:
            return None
        return Stat(FILE, found["size"], token_of(found))

    def list(self, folder: Path) -> list[Entry]:
        """Nothing: a web server does not say what there is."""
        return []

    def files_below(self, folder: Path) -> Sequence[Path]:
        """Nothing, as with :meth:`list`."""
        return []

    def stage(
        self, path: Path, blocks: Iterable[bytes], seal: Callable[[str], tuple[int, bytes]] | None = None
    ) -> NoReturn:
        """Refused."""
        raise self._only_read()

    def put(self, staged: Staged, path: Path, token: str | None, durable: bool = True) -> NoReturn:
        """Refused."""
        raise self._only_read()

    def delete(self, path: Path, token: str | None = None, durable: bool = False) -> NoReturn:
        """Refused."""
        raise self._only_read()

    def _only_read(self) -> StoreError:
        return StoreError(f"{self.address}: a store at a web server can be read, and not be written")
