"""The application: which addresses there are, and how each answer, or what went wrong, is sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pipeline.browse.api import ANSWERS, Library, picture
from pipeline.browse.guard import Guard
from pipeline.browse.jobs import BusyError, NotYetError
from pipeline.browse.query import WrongError
from pipeline.browse.shelf import Shelf, UnknownError
from pipeline.config import InputError
from pipeline.errors import exit_code_of
from stages.checkpoints import WeightsError
from stages.photographs import GoneError
from stages.predictions import PredictionError
from store.errors import StoreError

STATIC = Path(__file__).with_name("static")
PAGES = {"/": "grid", "/image": "image", "/search": "search", "/compare": "compare"}
"""Path of each page -> its script."""
THREADS = 4
"""How many requests are worked on at once; others wait."""
_SHELL, _SCRIPT = "page.html", "{{ script }}"
_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_STATUS: dict[type[Exception], int] = {
    WrongError: 400,
    InputError: 400,
    UnknownError: 404,
    GoneError: 404,
    WeightsError: 404,
    BusyError: 503,
    StoreError: 500,
    PredictionError: 500,
    OSError: 500,
}
"""Errors whose messages say what is wrong -> HTTP status."""


def make_app(shelf: Shelf, host: str, token: str | None) -> ASGIApp:
    """The application. ``host``, ``token``: as :class:`pipeline.browse.guard.Guard`, which sees every request and answer."""
    library = Library(shelf)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        library.close()

    shell = (STATIC / _SHELL).read_text(encoding="utf-8")
    routes = [
        Route(path, _fixed(shell.replace(_SCRIPT, name), "text/html; charset=utf-8")) for path, name in PAGES.items()
    ]
    routes += [
        Route(f"/static/{path.name}", _fixed(path.read_text(encoding="utf-8"), _TYPES[path.suffix]))
        for path in sorted(STATIC.iterdir())
        if path.suffix in _TYPES
    ]
    routes += [Route(f"/api/{name}", _json(library, answer)) for name, answer in ANSWERS.items()]
    routes.append(Route("/picture", _picture(library)))
    inner = Starlette(routes=routes, lifespan=lifespan, exception_handlers={Exception: _failed})
    return Guard(inner, PAGES, host, token)


def _fixed(text: str, kind: str) -> Callable[[Request], Any]:
    """Answers with a file of the pages, which is read once: no path comes from an address."""
    data = text.encode()

    async def respond(request: Request) -> Response:
        return Response(data, headers={"Content-Type": kind})

    return respond


def _json(library: Library, answer: Callable[..., Any]) -> Callable[[Request], Any]:
    async def respond(request: Request) -> Response:
        return _as_json(*await run_in_threadpool(_answered, lambda: answer(library, request.query_params)))

    return respond


def _picture(library: Library) -> Callable[[Request], Any]:
    async def respond(request: Request) -> Response:
        found, code = await run_in_threadpool(_answered, lambda: picture(library, request.query_params))
        if isinstance(found, bytes):
            # The address holds the file's digest, so a changed file has another address.
            return Response(found, headers={"Content-Type": "image/jpeg", "Cache-Control": "private, max-age=3600"})
        return _as_json(found, code)

    return respond


def _answered(answer: Callable[[], Any]) -> tuple[Any, int]:
    """What a request gets, and its HTTP status."""
    try:
        return answer(), 200
    except NotYetError as wait:
        return {"waiting": {"title": wait.title, "done": wait.done, "total": wait.total}}, 202
    except tuple(_STATUS) as error:
        code = next(code for kind, code in _STATUS.items() if isinstance(error, kind))
        text = exit_code_of(error)[1].removeprefix("error: ") if isinstance(error, StoreError) else str(error)
        return {"error": text}, code


async def _failed(request: Request, error: Exception) -> Response:
    """What is sent after any other error, which the server prints. One bad request does not end the others."""
    return _as_json({"error": f"internal error ({type(error).__name__}): the terminal shows more"}, 500)


def _as_json(value: Any, code: int) -> Response:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII, also for text that is not valid Unicode
    return Response(text, code, {"Content-Type": "application/json"})
