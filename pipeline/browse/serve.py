"""Binds the server and runs it until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from pipeline.browse.app import make_app
from pipeline.browse.shelf import Shelf
from pipeline.config import InputError, Settings
from pipeline.errors import Terminated
from store.errors import StoreError

HOST = "127.0.0.1"
LEAST_TOKEN = 16
"""How many characters a token has at least."""


def check_reach(settings: Settings, host: str, token: str | None) -> None:
    """Raise InputError where others could reach the server without a token, or with one that can be guessed."""
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
        raise InputError(
            f"--token: found {len(token)} characters, expected {LEAST_TOKEN} or more, all of them ASCII; "
            f"a new one: {secrets.token_hex(12)}"
        )
    if token is None and not _is_loopback(host):
        command = settings.command("browse", "--host", host, "--token", secrets.token_hex(12))
        raise InputError(
            f"--host: found {host}, which other machines can reach, so a token is needed: {command}; or leave out --host and use "
            "an ssh tunnel (docs/browsing.md)"
        )


def serve(shelf: Shelf, host: str, port: int, token: str | None, say: Callable[[str], None]) -> None:
    """Serve the pages until the process is interrupted.

    Args:
        port: 0 means any free port.
        say: called with the address when it can be opened.

    Raises:
        InputError: the address cannot be bound.
    """
    with listening(host, port) as bound:
        app = make_app(shelf, host, token)
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{bound.getsockname()[1]}/")
        threading.Thread(target=_open_first, args=(shelf,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt, Terminated):  # how it ends
            server_of(app).run([bound])


def server_of(app: ASGIApp) -> uvicorn.Server:
    """A server for the application; ``run([socket])`` serves it until the process is interrupted."""
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    return uvicorn.Server(uvicorn.Config(app, ws="none", lifespan="on", timeout_graceful_shutdown=2, **quiet))


def _open_first(shelf: Shelf) -> None:
    """Open the split of the first page while the browser starts. Errors are shown by the page."""
    with contextlib.suppress(StoreError, OSError):
        shelf.get(next(iter(shelf.splits)))


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. Raises InputError where that cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = f"--port: found {port}, which is taken; expected a free one: --port 0 finds one"
        else:
            why = f"--host: cannot listen on {host}, port {port}: {error.strerror or error}; for this machine alone: --host {HOST}"
        raise InputError(f"browse: {why}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
