"""What the pages ask for: a function for each name below ``/api/``. Nothing here knows of HTTP but the parameters of an address."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.datastructures import QueryParams

from pipeline.browse.answers import FILE_BYTES, found_answers
from pipeline.browse.asker import Asker
from pipeline.browse.image import brief
from pipeline.browse.image import whole as whole_image
from pipeline.browse.jobs import Jobs
from pipeline.browse.kept import Kept
from pipeline.browse.measures import Measures
from pipeline.browse.nearest import described, encoders, nearest, why_no_texts
from pipeline.browse.pictures import Pictures
from pipeline.browse.provenance import provenance
from pipeline.browse.query import WrongError, find, parse, place_in, whole
from pipeline.browse.shelf import OPEN_SPLITS, Shelf, Shown, UnknownError
from pipeline.browse.standing import askable, standing
from pipeline.browse.towers import Towers

T = TypeVar("T")
Answer = Callable[["Library", QueryParams], dict[str, Any]]


class Library:
    """All that the pages show: the splits, their numbers and pictures, models, and work in progress."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.jobs = Jobs()
        self.pictures = Pictures()
        self.towers = Towers(shelf.settings)
        self.asker = Asker(shelf.settings)
        self._answers: Kept[Any] = Kept(FILE_BYTES, lambda table: int(table.nbytes))
        self._measures: dict[int, Measures] = {}
        self._lock = threading.Lock()

    def measures(self, shown: Shown) -> Measures:
        """The numbers of an open split, with the answers that were there when it was opened."""
        with self._lock:
            if shown.number not in self._measures:
                notes: list[str] = []
                answers = found_answers(shown.settings, shown.ref, self._answers, notes)
                self._measures[shown.number] = Measures(shown, self.jobs, answers, notes)
                for number in list(self._measures)[:-OPEN_SPLITS]:  # of splits that are closed
                    del self._measures[number]
            return self._measures[shown.number]

    def close(self) -> None:
        """End all work."""
        self.jobs.close()
        self.asker.close()


def _splits(library: Library, params: QueryParams) -> dict[str, Any]:
    return {"store": library.shelf.settings.store, "splits": list(library.shelf.splits)}


def _split(library: Library, params: QueryParams) -> dict[str, Any]:
    """What the store holds of a split. With ``again`` the split is opened again, to see what was computed since."""
    if params.get("again"):
        library.shelf.renew(params.get("split", ""))

    def read(shown: Shown) -> dict[str, Any]:
        measures, vectors = library.measures(shown), encoders(shown)
        return {
            "split": shown.name,
            "images": len(shown),
            "proposers": list(shown.opened.proposers),
            "runs": list(measures.answers),
            "measures": measures.names(),
            "encoders": vectors,
            "texts": {
                name: why_no_texts(name) for each in vectors.values() for names in each.values() for name in names
            },
            "notes": [*shown.notes, *measures.notes],
        }

    return _reading(library, params, read)


def _runs(library: Library, params: QueryParams) -> dict[str, Any]:
    """Which runs the stored answers are of, which answers are outdated, and which runs can be asked."""

    def read(shown: Shown) -> dict[str, Any]:
        answers = library.measures(shown).answers.values()

        def work(advance: Callable[[int, int], None]) -> dict[str, Any]:
            may_ask = askable(shown.settings) if shown.ref in shown.settings.splits else []
            return {"answers": standing(shown.settings, shown.ref, answers), "askable": may_ask}

        found: dict[str, Any] = library.jobs.result((shown.number, "runs"), "the state of the runs", work)
        return found

    return _reading(library, params, read)


def _page(library: Library, params: QueryParams) -> dict[str, Any]:
    """A page of images: ``show`` names further measures whose values are given."""
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

    return _reading(library, params, read)


def _place(library: Library, params: QueryParams) -> dict[str, Any]:
    """Which images come before and after one, in the order and among those of a query."""
    query = parse(params, params.getlist("range"))
    return _reading_image(library, params, lambda shown, index: place_in(library.measures(shown), query, index))


def _image(library: Library, params: QueryParams) -> dict[str, Any]:
    return _reading_image(
        library, params, lambda shown, index: whole_image(shown, index, library.measures(shown).answers)
    )


def _provenance(library: Library, params: QueryParams) -> dict[str, Any]:
    return _reading_image(library, params, lambda shown, index: {"columns": provenance(shown, index)})


def _nearest(library: Library, params: QueryParams) -> dict[str, Any]:
    mask, column, apart = whole("mask", params.get("mask", "")), params.get("column", ""), _yes("apart", params, "yes")
    return _reading_image(
        library, params, lambda shown, index: nearest(shown, library.jobs, column, index, mask, apart)
    )


def _described(library: Library, params: QueryParams) -> dict[str, Any]:
    """Masks near a text."""
    column, text, apart = params.get("column", ""), params.get("text", ""), _yes("apart", params, "yes")
    return _reading(library, params, lambda shown: described(shown, library.jobs, library.towers, column, text, apart))


def _ask(library: Library, params: QueryParams) -> dict[str, Any]:
    run, question, phrase = params.get("run", ""), params.get("question", ""), _yes("phrase", params, "no")
    return _reading_image(library, params, lambda shown, index: library.asker.ask(shown, run, index, question, phrase))


def _words(library: Library, params: QueryParams) -> dict[str, Any]:
    run = params.get("run", "")
    return _reading_image(library, params, lambda shown, index: library.asker.words(shown, run, index))


ANSWERS: dict[str, Answer] = {
    "splits": _splits,
    "split": _split,
    "runs": _runs,
    "page": _page,
    "place": _place,
    "image": _image,
    "provenance": _provenance,
    "nearest": _nearest,
    "described": _described,
    "ask": _ask,
    "words": _words,
}
"""Name below ``/api/`` -> the function that answers."""


def picture(library: Library, params: QueryParams) -> bytes:
    """A picture, or a part of it, as JPEG."""
    side, box = whole("side", params.get("side", "")), None
    if "box" in params:
        numbers = [whole("box", part) for part in params["box"].split(",")]
        if len(numbers) != 4:
            raise WrongError(f"box: found {len(numbers)} numbers, expected x, y, width and height")
        box = (numbers[0], numbers[1], numbers[2], numbers[3])
    return _reading_image(library, params, lambda shown, index: library.pictures.jpeg(shown, index, side, box))


def _reading(library: Library, params: QueryParams, read: Callable[[Shown], T]) -> T:
    return library.shelf.reading(params.get("split", ""), read)


def _reading_image(library: Library, params: QueryParams, read: Callable[[Shown, int], T]) -> T:
    index = whole("index", params.get("index", ""))

    def checked(shown: Shown) -> T:
        if index >= len(shown):
            raise UnknownError(f"no image {index} in {shown.name}; it has {len(shown)}, from 0")
        return read(shown, index)

    return _reading(library, params, checked)


def _yes(name: str, params: QueryParams, default: str) -> bool:
    if (found := params.get(name, default)) not in ("yes", "no"):
        raise WrongError(f"{name}: found {found[:40]!r}, expected yes or no")
    return found == "yes"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
