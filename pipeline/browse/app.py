"""What the pages ask for, as addresses. Every answer but a picture or a file of the page itself is JSON."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.browse.answers import FILE_BYTES, found_answers
from pipeline.browse.guard import Guard
from pipeline.browse.image import brief
from pipeline.browse.image import whole as whole_image
from pipeline.browse.jobs import Jobs, NotYetError
from pipeline.browse.kept import Kept
from pipeline.browse.measures import Measures
from pipeline.browse.nearest import encoders, nearest
from pipeline.browse.pictures import Pictures
from pipeline.browse.provenance import provenance
from pipeline.browse.query import WrongError, find, parse, place_in, whole
from pipeline.browse.shelf import OPEN_SPLITS, Shelf, Shown, UnknownError
from stages.photographs import GoneError
from stages.predictions import PredictionError
from store.errors import StoreError

STATIC = Path(__file__).with_name("static")
PAGES = {"/": "grid.html", "/image": "image.html", "/compare": "compare.html"}
THREADS = 4
"""Requests that are worked on at once; others wait."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

Answer = Callable[["Library", Request], dict[str, Any]]


class Library:
    """All that the pages show: the splits, their numbers, pictures, and work that goes on."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.jobs = Jobs()
        self.pictures = Pictures()
        self._answers: Kept[Any] = Kept(FILE_BYTES, lambda table: int(table.nbytes))
        self._measures: dict[int, Measures] = {}
        self._lock = threading.Lock()

    def measures(self, shown: Shown) -> Measures:
        """The numbers of an open split, with the runs that answered it when it was opened."""
        with self._lock:
            if shown.number not in self._measures:
                notes: list[str] = []
                answers = found_answers(shown.settings, shown.ref, self._answers, notes)
                self._measures[shown.number] = Measures(shown, self.jobs, answers, notes)
                for number in list(self._measures)[:-OPEN_SPLITS]:  # of splits that are closed
                    del self._measures[number]
            return self._measures[shown.number]


def make_app(shelf: Shelf, host: str, token: str | None) -> Starlette:
    """The application. ``host``, ``token``: as :class:`pipeline.browse.guard.Guard`."""
    library = Library(shelf)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield
        library.jobs.close()

    routes = [Route(path, _file(name)) for path, name in PAGES.items()]
    routes += [
        Route(f"/static/{path.name}", _file(path.name)) for path in sorted(STATIC.iterdir()) if path.suffix in _TYPES
    ]
    routes += [Route(f"/api/{name}", _json(library, answer)) for name, answer in ANSWERS.items()]
    routes.append(Route("/picture", _picture(library)))
    guard = Middleware(Guard, host=host, token=token)
    return Starlette(routes=routes, middleware=[guard], lifespan=lifespan)


def _splits(library: Library, request: Request) -> dict[str, Any]:
    return {"store": library.shelf.settings.store, "splits": list(library.shelf.splits)}


def _split(library: Library, request: Request) -> dict[str, Any]:
    """What there is of a split; with ``again`` it is opened anew, as something may have been computed since."""
    name = request.query_params.get("split", "")
    if request.query_params.get("again"):
        library.shelf.renew(name)

    def read(shown: Shown) -> dict[str, Any]:
        measures = library.measures(shown)
        return {
            "split": shown.name,
            "images": len(shown),
            "proposers": list(shown.opened.proposers),
            "runs": list(measures.answers),
            "measures": measures.names(),
            "encoders": encoders(shown),
            "notes": [*shown.notes, *measures.notes],
        }

    return library.shelf.reading(name, read)


def _page(library: Library, request: Request) -> dict[str, Any]:
    """A page of images: ``show`` names further measures whose values are given."""
    params = request.query_params
    query = parse(params, params.getlist("range"))

    def read(shown: Shown) -> dict[str, Any]:
        measures = library.measures(shown)
        found = find(measures, query)
        more = {name: measures.get(name) for name in params.getlist("show")}
        items = [
            {
                **brief(shown, image),
                "value": _number(value),
                "values": {name: _number(values[image]) for name, values in more.items()},
            }
            for image, value in zip(found.images.tolist(), found.values.tolist(), strict=True)
        ]
        return {"items": items, "total": found.total, "first": found.first, "images": len(shown)}

    return library.shelf.reading(params.get("split", ""), read)


def _place(library: Library, request: Request) -> dict[str, Any]:
    """Which images come before and after one, in the order and among those of a query."""
    params = request.query_params
    query, index = parse(params, params.getlist("range")), whole("index", params.get("index", ""))

    def read(shown: Shown) -> dict[str, Any]:
        return place_in(library.measures(shown), query, _checked(shown, index))

    return library.shelf.reading(params.get("split", ""), read)


def _image(library: Library, request: Request) -> dict[str, Any]:
    index = whole("index", request.query_params.get("index", ""))

    def read(shown: Shown) -> dict[str, Any]:
        return whole_image(shown, _checked(shown, index), library.measures(shown).answers)

    return library.shelf.reading(request.query_params.get("split", ""), read)


def _provenance(library: Library, request: Request) -> dict[str, Any]:
    index = whole("index", request.query_params.get("index", ""))

    def read(shown: Shown) -> dict[str, Any]:
        return {"columns": provenance(shown, _checked(shown, index))}

    return library.shelf.reading(request.query_params.get("split", ""), read)


def _nearest(library: Library, request: Request) -> dict[str, Any]:
    params = request.query_params
    index, mask = (whole(name, params.get(name, "")) for name in ("index", "mask"))
    column, apart = params.get("column", ""), params.get("apart", "yes") == "yes"

    def read(shown: Shown) -> dict[str, Any]:
        return nearest(shown, library.jobs, column, _checked(shown, index), mask, apart)

    return library.shelf.reading(params.get("split", ""), read)


ANSWERS: dict[str, Answer] = {
    "splits": _splits,
    "split": _split,
    "page": _page,
    "place": _place,
    "image": _image,
    "provenance": _provenance,
    "nearest": _nearest,
}
"""Name below ``/api/`` -> what answers."""


def _checked(shown: Shown, index: int) -> int:
    if index >= len(shown):
        raise UnknownError(f"no image {index} in {shown.name}; it has {len(shown)}, from 0")
    return index


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _file(name: str) -> Callable[[Request], Any]:
    """Answers with a file of the page, which is read once: no path comes from an address."""
    data, kind = (STATIC / name).read_bytes(), _TYPES[Path(name).suffix]

    async def answer(request: Request) -> Response:
        return Response(data, headers={"Content-Type": kind})

    return answer


def _json(library: Library, answer: Answer) -> Callable[[Request], Any]:
    async def respond(request: Request) -> Response:
        return _as_json(*await run_in_threadpool(_answered, lambda: answer(library, request)))

    return respond


def _picture(library: Library) -> Callable[[Request], Any]:
    def make(request: Request) -> bytes:
        params = request.query_params
        index, side = (whole(name, params.get(name, "")) for name in ("index", "side"))
        box = None
        if "box" in params:
            numbers = [whole("box", part) for part in params["box"].split(",")]
            if len(numbers) != 4:
                raise WrongError(f"box: found {len(numbers)} numbers, expected x, y, width and height")
            box = (numbers[0], numbers[1], numbers[2], numbers[3])

        def read(shown: Shown) -> bytes:
            return library.pictures.jpeg(shown, _checked(shown, index), side, box)

        return library.shelf.reading(params.get("split", ""), read)

    async def respond(request: Request) -> Response:
        found, code = await run_in_threadpool(_answered, lambda: make(request))
        if isinstance(found, bytes):
            # The address holds the file's digest, so it is another one when the file is.
            return Response(found, headers={"Content-Type": "image/jpeg", "Cache-Control": "private, max-age=3600"})
        return _as_json(found, code)

    return respond


def _answered(answer: Callable[[], Any]) -> tuple[Any, int]:
    """What a request gets, and its HTTP status."""
    try:
        return answer(), 200
    except NotYetError as wait:
        return {"waiting": {"title": wait.title, "done": wait.done, "total": wait.total}}, 202
    except WrongError as error:
        return {"error": str(error)}, 400
    except (UnknownError, GoneError) as error:
        return {"error": str(error)}, 404
    except (StoreError, PredictionError, OSError) as error:
        return {"error": str(error)}, 500
    except Exception:  # one bad request must not end the others
        logging.getLogger("uvicorn.error").exception("a request failed")
        return {"error": "internal error: the terminal shows more"}, 500


def _as_json(value: Any, code: int) -> Response:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: also of text that is no valid Unicode
    return Response(text, code, {"Content-Type": "application/json"})
