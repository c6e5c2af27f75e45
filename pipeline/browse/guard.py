"""Who is answered: the pages of this server, by GET, and with a token only those who know it.

A page of another site that is open in the same browser can send requests to 127.0.0.1. It can also do so under a name of its own
that it made to lead there (DNS rebinding). Therefore

- only a ``Host`` that means this server is answered, because a request under another name has that name as its ``Host``;
- of requests that another site caused (``Sec-Fetch-Site``), only those that open a page are answered: a question to a model costs
  time, whether or not the other site may read the answer;
- headers forbid other pages to read or frame what is answered.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Collection, Sequence
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "elisa_browse"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Headers that are added to every answer."""
_HERE = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Refuses what may not be asked, passes on the rest, and adds :data:`HEADERS` to every answer.

    Args:
        pages: paths that another site may link to.
        host: the address that the server is bound to.
        token: whoever opens a page has to know it, once; None: everybody who reaches the server may look.
    """

    def __init__(self, app: ASGIApp, pages: Collection[str], host: str, token: str | None) -> None:
        self.app, self.pages, self.token = app, pages, token
        self.hosts = allowed_hosts(host)
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (self.app if refusal is None else refusal)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = scope["headers"]
        hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            return PlainTextResponse(
                f"The address names the host {hosts[0][:80] if hosts else 'none'!r}, expected {', '.join(self.hosts)}. "
                "Through an ssh tunnel use http://localhost and the tunnel's port.\n",
                421,
            )
        sites = {value.decode("latin-1") for name, value in headers if name == b"sec-fetch-site"}
        if sites & {"cross-site", "same-site"} and scope["path"] not in self.pages:
            return PlainTextResponse(
                "This request came from another site; only the pages of this server may send requests.\n", 403
            )
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("Only GET: nothing can be changed here.\n", 405, {"Allow": "GET, HEAD"})
        return None if self.token is None else self._without_token(scope, self.token)

    def _is_here(self, host: str) -> bool:
        name = _name_of(host)
        return name in self.hosts or ("*" in self.hosts and _is_address(name))

    def _without_token(self, scope: Scope, token: str) -> Response | None:
        """None if the request has the cookie; a redirect that sets it if the address has the token; otherwise a refusal."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if given and secrets.compare_digest(given[0].encode(), token.encode()):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            response = RedirectResponse("/" + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(COOKIE, self._session, httponly=True, samesite="strict", path="/")
            return response
        cookies = [value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie"]
        if any(secrets.compare_digest(found.encode(), self._session.encode()) for found in _cookies(cookies)):
            return None
        return PlainTextResponse("Open the address with the token that the command was given: /?token=TOKEN\n", 401)


def allowed_hosts(host: str) -> tuple[str, ...]:
    """The names of a server that is bound to this address; ``*``: also every address of the machine."""
    if host in ("0.0.0.0", "::"):
        return (*_HERE, socket.gethostname().lower(), socket.getfqdn().lower(), "*")
    return tuple(dict.fromkeys([*_HERE, host.lower()]))


def _name_of(host: str) -> str:
    """The name in a ``Host`` header, without the port: ``[::1]:80`` is ``::1``. A tunnel may have any port at its other end."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if ":" in host else host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookies(headers: Sequence[str]) -> list[str]:
    found = []
    for header in headers:
        cookie: SimpleCookie = SimpleCookie()
        try:
            cookie.load(header)
        except CookieError:
            continue
        found += [morsel.value for name, morsel in cookie.items() if name == COOKIE]
    return found
