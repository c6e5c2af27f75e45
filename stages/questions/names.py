"""The names of an image's objects, as shown to a model and as found in its answers."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stages.datasets.base import DatasetError
from stages.datasets.coco import wordings
from stages.datasets.jsonstream import read_elements
from stages.images import ImageFailure
from stages.questions.items import Thing
from stages.questions.prompts import MAX_ITEM, escaped

_WORD = re.compile(r"[^\W_]+")
MAX_ANSWER = 300
"""Largest number of characters of an answer; a longer one is not a name."""
MAX_WORDS = 8
"""Largest number of words of a name that is searched for in a text."""
COMMON = frozenset(
    _WORD.findall(
        "a an and any as at be by for from in into is it its kind of on one or other out over part piece set some sort that the "
        "these thing this those to type up used using with object item pair"
    )
)
"""Words that name nothing by themselves although names contain them: "the pair of scissors", "the cloth for cleaning"."""
_ARTICLES = frozenset(_WORD.findall("a an the this that these those its his her their our my some one"))
_IRREGULAR = {
    **{"men": "man", "women": "woman", "children": "child", "people": "person", "feet": "foot", "teeth": "tooth"},
    **{"geese": "goos", "mice": "mous", "oxen": "ox", "cacti": "cactus", "lens": "lens", "gas": "gas", "tvs": "tv"},
    **{f"{one}ves": f"{one}f" for one in ("lea", "loa", "scar", "shel", "wol", "cal", "hal", "hoo", "thie", "el")},
    **{f"{one}ves": f"{one}fe" for one in ("kni", "wi", "li")},
}
_POSSESSIVE = re.compile(r"['’]s\b")
_QUALIFIED = re.compile(r"(.+?) ?\((.+)\)")
_LEAD = re.compile(
    r"(?i)\W*(?:(?:the |my )?(?:final |correct |right )?answer *(?:is\b|[:=-])|(?:it|this|that)(?: is\b|['’]s\b)|they are\b)"
)
_BETWEEN = re.compile(r"[,;/&+|\n]|\b(?:and|or)\b")
_REMARK = re.compile(r"[.,;:(]|\s[-–—]+\s|\b(?:because|since|as|which)\b")


@dataclass(frozen=True)
class Meaning:
    """What a file in COCO's form says of a category besides its name."""

    synonyms: tuple[str, ...] = ()
    definition: str = ""


@dataclass(frozen=True)
class Names:
    """All names of the things of an image.

    shown: by the words of the name that a model sees, or of the label. loose: by the stems of all names; several things may
    share a key.
    """

    shown: Mapping[str, Thing]
    loose: Mapping[str, tuple[Thing, ...]]


def meanings_of(path: Path) -> dict[str, Meaning]:
    """Label -> synonyms and definition, from ``categories`` of a file in COCO's form; LVIS and PACO have ``synonyms`` and ``def``.

    The file is streamed: LVIS's annotations take a gigabyte.

    Raises:
        DatasetError: it is not JSON, has no ``categories``, or a category does not have this form.
    """
    found: dict[str, Meaning] = {}

    def category(value: Any, _start: int, _length: int) -> None:
        place = f"categories[{len(found)}]"
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            raise ImageFailure(f"{place} is {value!r:.60}, expected an object with a text 'name'")
        synonyms, definition = value.get("synonyms") or [], value.get("def") or ""
        if not isinstance(synonyms, list) or not all(isinstance(each, str) for each in synonyms):
            raise ImageFailure(f"{place}: 'synonyms' is {synonyms!r:.60}, expected a list of texts")
        if not isinstance(definition, str):
            raise ImageFailure(f"{place}: 'def' is {definition!r:.60}, expected a text")
        found[value["name"].strip()] = Meaning(tuple(synonyms), definition)

    try:
        keys = read_elements(path, {"categories": category})
    except ImageFailure as error:
        raise DatasetError(f"{path}: {error}") from error
    if "categories" not in keys:
        raise DatasetError(
            f"{path}: key 'categories' is missing, expected a list of objects with 'name', 'synonyms' and 'def'"
        )
    return found


def things_of(
    labels: Sequence[str], meanings: Mapping[str, Meaning] | None = None, incomplete: Collection[str] = ()
) -> tuple[Thing, ...]:
    """The things of an image that may be asked for, in the order of their first instances.

    Parts (``dog:ear``, as PACO names them) are left out, and so are labels that no name could tell apart: with ``stop sign``
    and ``stop_sign`` in one image, no question can mean just one of them. ``bow_(weapon)`` next to another bow is ``bow
    (weapon)``.

    Args:
        labels: of the image's instances, in the order of ``instances``.
        meanings: as :func:`meanings_of` returns them.
        incomplete: labels that the image may show more often than annotated.
    """
    places: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        places.setdefault(label, []).append(place)
    names = {label: plain_name(label) for label in places if len(wordings(label)) == 1}
    alike = Counter(map(_key, names.values()))
    names = {label: name if alike[_key(name)] == 1 else _full_name(label) for label, name in names.items()}
    alike = Counter(map(_key, names.values()))
    things = []
    for label, name in names.items():
        if _key(name) and alike[_key(name)] == 1:
            meaning = (meanings or {}).get(label, Meaning())
            others = dict.fromkeys(plain_name(each) for each in meaning.synonyms if len(wordings(each)) == 1)
            synonyms = tuple(each for each in others if each and _key(each) != _key(name))
            things.append(
                Thing(label, name, synonyms, escaped(meaning.definition), tuple(places[label]), label in incomplete)
            )
    return tuple(things)


def plain_name(label: str) -> str:
    """A label in words, without what stands in brackets after it: ``car_(automobile)`` -> ``car``."""
    whole = _full_name(label)
    found = _QUALIFIED.fullmatch(whole)
    return found[1] if found else whole


def match(answer: str, things: Sequence[Thing]) -> Thing | list[Thing] | None:
    """The thing that an answer names; if there are several that it names or may mean, all of them; None if it names no thing.

    Case, articles, plurals, hyphens, quotation marks, a full stop, markup, synonyms and a remark after the name do not matter.
    """
    return find(answer, names_of(tuple(things)))


@lru_cache(maxsize=64)
def names_of(things: tuple[Thing, ...]) -> Names:
    """All names of the things of an image, for looking up many answers."""
    shown: dict[str, Thing] = {}
    loose: dict[str, dict[str, Thing]] = {}
    for thing in things:
        shown |= {_key(thing.label): thing, _key(thing.name): thing}
        for name in _all_names(thing):
            loose.setdefault(_loose_key(words_of(name)), {})[thing.label] = thing
    return Names(shown, {key: tuple(found.values()) for key, found in loose.items() if key})


def find(answer: str, names: Names) -> Thing | list[Thing] | None:
    """Like :func:`match`, with names that :func:`names_of` returned."""
    if len(answer) > MAX_ANSWER:
        return None
    lead = _LEAD.match(answer)
    text = answer[lead.end() :] if lead else answer
    found = _named(answer, names) or _named(text, names)
    if not found:
        pieces = [_named(piece, names) for piece in _BETWEEN.split(text) if words_of(piece)]
        if all(pieces):
            found = tuple({thing.label: thing for piece in pieces for thing in piece}.values())
    if not found:
        head, rest = [*_REMARK.split(text, maxsplit=1), ""][:2]
        found = _named(head, names)
        held = [thing for run in _runs(rest) for thing in names.loose.get(run, ())] if found else []
        found = tuple({thing.label: thing for thing in (*found, *held)}.values())
    return None if not found else found[0] if len(found) == 1 else list(found)


def mentioned(text: str, thing: Thing) -> str | None:
    """The name of a thing that a text contains as a whole, in one word or several, singular or plural; None if it has none."""
    runs = _runs(text)
    return next((name for name in _all_names(thing) if _loose_key(words_of(name)) in runs), None)


@lru_cache(maxsize=4096)
def content_words(thing: Thing) -> frozenset[str]:
    """Stems of the words that name a thing: those of all its names, except for single letters and words such as ``of``."""
    return frozenset(
        stem(word) for name in _all_names(thing) for word in words_of(name) if len(word) > 1 and word not in COMMON
    )


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation and without a possessive 's."""
    return _WORD.findall(_POSSESSIVE.sub("", unicodedata.normalize("NFKC", text)).casefold())


def stem(word: str) -> str:
    """What the singular and the plural of an English noun have in common, only for comparison: boxes and box -> box."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    if len(word) > 3 and word.endswith("ie"):
        return f"{word[:-2]}y"
    return word[:-1] if len(word) > 3 and word.endswith(("se", "xe", "ze", "che", "she", "oe")) else word


def _named(text: str, names: Names) -> tuple[Thing, ...]:
    """The things that a text means as a whole: the one that is shown under this name, else all that have such a name."""
    words = words_of(text)
    while words:
        key = "".join(words)
        found = (names.shown[key],) if key in names.shown else names.loose.get(_loose_key(words), ())
        if found or words[0] not in _ARTICLES:
            return found
        words = words[1:]
    return ()


def _runs(text: str) -> dict[str, None]:
    """All runs of up to MAX_WORDS words of a text, as keys of :func:`_loose_key`, the shortest first."""
    stems = [stem(word) for word in words_of(text)]
    return dict.fromkeys(
        "".join(stems[at : at + count]) for count in range(1, MAX_WORDS + 1) for at in range(len(stems) - count + 1)
    )


def _all_names(thing: Thing) -> Iterable[str]:
    return dict.fromkeys((thing.name, plain_name(thing.label), *thing.synonyms))


def _full_name(label: str) -> str:
    return escaped(label.replace("_", " "), MAX_ITEM)


def _key(name: str) -> str:
    return "".join(words_of(name))


def _loose_key(words: Iterable[str]) -> str:
    return "".join(map(stem, words))
