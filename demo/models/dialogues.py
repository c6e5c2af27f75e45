"""Questions and answers about a scene that pre-train the demo's language model: what is meant, where things are, what exists.

A place is a cell of an 8 x 8 grid over the picture, named as on a chessboard: "c5" is the third column, the fifth row
from above. An answer says class, colour and place of each object that is meant, a token each, objects and words in random
order. So the state that predicts the first of these words has to know them all; in the later trainings it is the state that
predicts a ``[SEG]``. An :class:`Exchange` says what its answer may begin with. This module does not use masks or segmentation
tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from demo.data.questions import questions
from demo.data.scenes import CLASSES, COLOURS, USES, Scene, SceneObject
from demo.data.textures import TEXTURES
from demo.models.encoder_scenes import attributes_of, squashed_cells_of

COLUMNS = "abcdefgh"
GRID = len(COLUMNS)
PLACES = tuple(f"{column}{row + 1}" for row in range(GRID) for column in COLUMNS)
WORDS = (CLASSES, tuple(COLOURS), TEXTURES)
"""Words of the attributes, indexed by the numbers of :func:`demo.models.encoder_scenes.attributes_of`."""
NOTHING = "nothing"
READ = 8
"""Number of cells in the answer of a :func:`reading`."""
EMPTY, UNCLEAR = -1, -2
ABSENT = 0.15
"""Share of the questions about something absent."""
FIRST = (("place", 0.5), ("label", 0.25), ("colour", 0.25))
"""How often an answer should begin with each word of a thing."""
_SHORT = (
    "What is {text} in this image?",
    "What is {text} in this image?",
    "Can you find {text} in this image?",
    "Can you segment the {text} in this image?",
    "Please segment {text} in this image.",
    "Where is {text}?",
    "{text}?",
    "{text}",
)
_VERBS = ("Please respond with", "Please output", "Output", "Generate", "Provide", "Show")
_NOUNS = ("segmentation mask", "the segmentation mask", "the mask", "the answer", "the place", "the words")
_WHERE = ("", "", " for the object", " in the image", " for the object in the image")
_OPENINGS = (
    "",
    "It is",
    "Sure,",
    "Sure, it is",
    "Sure, the result is",
    "The answer is",
    "The object is in",
    "The object is at",
    "The object is located at",
    "You can find it at",
)
_CAPTION = ("Describe the picture.", "What is in the picture?", "Name everything you see and where it is.")
READING = "Read the squares."
"""Asks for :func:`reading`. The order of the cells in its answer is random."""


@dataclass(frozen=True)
class Thing:
    """An object in words: its class, colour and texture, and the cell of its middle."""

    label: str
    colour: str
    texture: str
    place: str


@dataclass(frozen=True)
class Asked:
    """A question without the picture: its rephrasings, whether it is long, the things it means in reading order, and its family."""

    texts: tuple[str, ...]
    is_sentence: bool
    things: tuple[Thing, ...]
    family: str


@dataclass(frozen=True)
class Talk:
    """All that can be said about a scene; its pixels and masks are not needed any more.

    ``things`` are in reading order. ``cells`` int8 [64, 4]: class, colour and texture of what fills a cell, and the place of
    its middle, all as numbers; :data:`EMPTY` or :data:`UNCLEAR` if nothing fills it.
    """

    asked: tuple[Asked, ...]
    things: tuple[Thing, ...]
    cells: np.ndarray


@dataclass(frozen=True)
class Exchange:
    """A question and its answer. ``first``: the words that may follow the opening of the answer, with their probabilities;
    empty where only one answer is right."""

    question: str
    answer: str
    first: Mapping[str, float] = field(default_factory=dict)


def talk(drawn: Scene, rng: np.random.Generator) -> Talk:
    """Every question about a scene, its objects and its cells."""
    things = [Thing(thing.label, thing.colour, thing.texture, _place(thing)) for thing in drawn.objects]
    asked = [
        Asked(
            question.texts,
            question.is_sentence,
            _in_order(things[number] for number in question.objects),
            question.family,
        )
        for question in questions(drawn, rng)
    ]
    return Talk(tuple(asked), _in_order(things), _cells(drawn))


def exchange(about: Talk, rng: np.random.Generator) -> Exchange:
    """A question about a scene with its answer: mostly one of the scene's own questions; no family of questions dominates."""
    kinds = (_ask, reading, _is_there, _at_a_place, _by_use, _describe)
    return kinds[int(rng.choice(len(kinds), p=(0.65, 0.11, 0.12, 0.06, 0.04, 0.02)))](about, rng)


def caption(about: Talk) -> str:
    """All objects with their places."""
    return (
        " " + ", ".join(f"{thing.place} {thing.colour} {thing.texture} {thing.label}" for thing in about.things) + "."
    )


def reading(about: Talk, rng: np.random.Generator) -> Exchange:
    """What randomly drawn cells show, at least a quarter of them empty: many facts to look up in one answer."""
    cells = about.cells[:, 0]
    full, empty = (rng.permutation(np.flatnonzero(which)) for which in (cells >= 0, cells == EMPTY))
    chosen = rng.permutation([*full[: READ * 3 // 4], *empty[: READ // 4]])
    said = [
        f"{PLACES[cell]} {words_of(about.cells[cell]) if cells[cell] >= 0 else NOTHING}" for cell in chosen.tolist()
    ]
    return Exchange(READING, " " + " ".join(said))


def words_of(attributes: Sequence[int]) -> str:
    """ "blue dotted key" for the numbers of class, colour and texture."""
    label, colour, texture = (words[number] for words, number in zip(WORDS, attributes[:3], strict=True))
    return f"{colour} {texture} {label}"


def corpus(talks: Sequence[Talk], rng: np.random.Generator) -> list[str]:
    """Sentences for a tokenizer to learn from."""
    said = [exchange(about, rng) for about in talks for _ in range(24)]
    return [text for one in said for text in (one.question, one.answer)]


def answer(things: Sequence[Thing], rng: np.random.Generator) -> str:
    """What is meant, e.g. "It is c5 key blue." or " nothing."; a space comes before each word, as its token begins with one."""
    said = [" ".join(rng.permutation([thing.label, thing.colour, thing.place])) for thing in things]
    rng.shuffle(said)
    return f"{rng.choice(_OPENINGS)} {' and '.join(said) or NOTHING}."


def request(words: str, rng: np.random.Generator) -> str:
    """A question with or without a request before or after it; whatever is requested, the answer is in words.

    Real language models have seen how people ask for masks, so a request does not distract them from the question.
    """
    asked = "".join(str(rng.choice(part)) for part in (_VERBS, (" ",), _NOUNS, _WHERE))
    forms = (words, f"{words} {asked}.", f"{words} {asked}.", f"{words} {asked}", f"{asked}. {words}")
    return str(rng.choice(forms))


def _first(things: Sequence[Thing]) -> dict[str, float]:
    """:attr:`Exchange.first` of an :func:`answer`."""
    found = defaultdict[str, float](float)
    for thing in things:
        for name, share in FIRST:
            found[getattr(thing, name)] += share / len(things)
    return dict(found) or {NOTHING: 1.0}


def _ask(about: Talk, rng: np.random.Generator) -> Exchange:
    """One of the scene's questions. A larger family is asked more often, but less than in proportion to its size."""
    there = rng.random() >= ABSENT
    fit = [asked for asked in about.asked if bool(asked.things) == there]
    members = Counter(asked.family for asked in fit)
    weights = np.array([members[asked.family] ** -0.6 for asked in fit])
    asked = fit[int(rng.choice(len(weights), p=weights / weights.sum()))]
    text = str(rng.choice(asked.texts))
    words = text if asked.is_sentence else str(rng.choice(_SHORT)).format(text=text)
    return Exchange(request(words, rng), answer(asked.things, rng), _first(asked.things))


def _is_there(about: Talk, rng: np.random.Generator) -> Exchange:
    """A question whether the scene has something of a class, which is true in half of the cases, and its answer."""
    seen = sorted({thing.label for thing in about.things})
    there = rng.random() < 0.5
    label = str(rng.choice(seen if there else [label for label in CLASSES if label not in seen]))
    asked = f"Is there a {label}?" if rng.random() < 0.5 else f"Is there something that {rng.choice(USES[label])}?"
    meant = [thing for thing in about.things if thing.label == label]
    return Exchange(asked, answer(meant, rng), _first(meant))


def _at_a_place(about: Talk, rng: np.random.Generator) -> Exchange:
    thing = _any(about, rng)
    return Exchange(f"What is at {thing.place}?", f" {thing.colour} {thing.texture} {thing.label}.")


def _by_use(about: Talk, rng: np.random.Generator) -> Exchange:
    thing = _any(about, rng)
    return Exchange(f"What is true of the {thing.label}?", f"It {rng.choice(USES[thing.label])}.")


def _describe(about: Talk, rng: np.random.Generator) -> Exchange:
    return Exchange(str(rng.choice(_CAPTION)), caption(about))


def _any(about: Talk, rng: np.random.Generator) -> Thing:
    return about.things[int(rng.integers(len(about.things)))]


def _in_order(things: Iterable[Thing]) -> tuple[Thing, ...]:
    return tuple(sorted(things, key=lambda thing: PLACES.index(thing.place)))


def _place(thing: SceneObject) -> str:
    """Name of the cell of an object's middle."""
    rows, columns = np.nonzero(thing.visible)
    column, row = (
        int(GRID * (each.mean() + 0.5) / side)
        for each, side in zip((columns, rows), thing.visible.shape[::-1], strict=True)
    )
    return PLACES[row * GRID + column]


def _cells(drawn: Scene) -> np.ndarray:
    """:attr:`Talk.cells`: the object that covers most of a cell, if that is more than 0.4; empty is less than 0.1."""
    covered = np.stack([squashed_cells_of(thing.visible).float().numpy() for thing in drawn.objects])
    about = [(*attributes_of(thing), PLACES.index(_place(thing))) for thing in drawn.objects]
    found: np.ndarray = np.array(about, np.int8)[covered.argmax(0)]
    found[covered.max(0) <= 0.4] = UNCLEAR
    found[covered.sum(0) < 0.1] = EMPTY
    return found
