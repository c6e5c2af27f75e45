"""A server of S3's protocol on this machine (moto), and what may go wrong on the way to it."""

from __future__ import annotations

import logging
import random
import socket
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Request:
    """One request of a client, before it is answered."""

    method: str
    path: str


@dataclass
class Faulty:
    """The server behind faults. ``fault`` names what happens to a request, or None.

    ``slow_down``: 503, nothing is done. ``reset``: the connection ends, nothing is done. ``lost``: it is done, and the connection
    ends without an answer. ``cut``: half of the answer, then the connection ends. ``wrong``: fewer bytes than were asked for, as
    if they were all. ``ignores``: conditions of a PUT are not looked at.
    """

    app: App
    fault: Callable[[Request], str | None] = lambda request: None
    requests: list[Request] = field(default_factory=list)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        self.requests.append(request)
        fault = self.fault(request)
        if fault == "slow_down":
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if fault == "reset":
            return self._hang_up(environ)
        if fault == "ignores":
            environ.pop("HTTP_IF_MATCH", None)
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if fault in (None, "ignores"):
            return self.app(environ, start)
        given: list[Any] = []
        body = b"".join(self.app(environ, lambda status, headers, *rest: given.extend((status, headers))))
        if fault == "lost":
            return self._hang_up(environ)
        status, headers = given
        if request.method == "HEAD" or len(body) < 2:
            start(status, headers)
            return [body]
        half = body[: len(body) // 2]
        if fault == "wrong":
            headers = [(name, str(len(half)) if name.lower() == "content-length" else value) for name, value in headers]
            start(status, headers)
            return [half]
        start(status, headers)

        def cut() -> Iterator[bytes]:
            yield half
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)

        return cut()

    @staticmethod
    def _hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        return []


def now_and_then(*faults: str, share: float = 0.2, seed: int = 0) -> Callable[[Request], str | None]:
    """One of the faults for this share of all requests, by a seed."""
    rng, lock = random.Random(seed), threading.Lock()

    def fault(request: Request) -> str | None:
        with lock:
            return rng.choice(faults) if rng.random() < share else None

    return fault


@dataclass
class Server:
    """The server, and where it is."""

    faulty: Faulty
    address: str

    def bucket(self) -> str:
        """A new, empty bucket."""
        name = f"b{uuid.uuid4().hex[:12]}"
        urllib.request.urlopen(urllib.request.Request(f"{self.address}/{name}", method="PUT")).close()
        return name

    def keep_versions(self, bucket: str) -> None:
        """Let a bucket keep every version of its objects, as buckets of institutes often do."""
        text = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
        asked = urllib.request.Request(
            f"{self.address}/{bucket}?versioning", text, {"Content-Type": "application/xml"}, method="PUT"
        )
        urllib.request.urlopen(asked).close()

    @contextmanager
    def faults(self, fault: Callable[[Request], str | None]) -> Iterator[list[Request]]:
        """Let them happen while the block runs; gives the requests that were made."""
        self.faulty.requests.clear()
        self.faulty.fault = fault
        try:
            yield self.faulty.requests
        finally:
            self.faulty.fault = lambda request: None


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def environment(address: str) -> dict[str, str]:
    """What a client has in its environment to find the server; it keeps nothing on this machine."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret of the tests",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT": address,
        "AWS_ALLOW_HTTP": "true",
        "ELISA_CACHE": "",
    }


@contextmanager
def serving() -> Iterator[Server]:
    """A server, in threads of this process, and the environment of a client that finds it."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    faulty = Faulty(DomainDispatcherApplication(create_backend_app))
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    server = make_server("127.0.0.1", 0, faulty, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        try:
            yield Server(faulty, address)
        finally:
            server.shutdown()
            thread.join()
