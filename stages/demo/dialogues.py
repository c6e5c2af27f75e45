"""What a scene is talked about while the demo's language model is pre-trained: captions, questions, answers and places.

A place is the cell of an 8 x 8 grid over the picture, named as those of a chessboard: "at c5" is the third column,
the fifth row from above. The name is one token, so that one state of the model says where. Nothing here knows of masks or
of the tokens that segment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stages.demo.questions import questions
from stages.demo.scenes import CLASSES, USES, Scene, SceneObject

COLUMNS = "abcdefgh"
GRID = len(COLUMNS)
PLACES = tuple(f"at {column}{row + 1}" for row in range(GRID) for column in COLUMNS)
NOWHERE = "nowhere"
Turn = tuple[str, str]
_WHERE = ("{text} Where is it?", "{text} Say where.", "{text} Name its place.")
_WHAT = "What is {text} in this image?"
_REPLIES = ("{places}.", "{places}.", "It is {places}.", "The object is located {places}.")
_CAPTION = ("Describe the picture.", "What is in the picture?", "Name everything you see and where it is.")


@dataclass(frozen=True)
class Asked:
    """A question, without the picture: rephrasings, whether it is long, the answer in words, and the places it means."""

    texts: tuple[str, ...]
    is_sentence: bool
    answer: str
    places: str

    @property
    def absent(self) -> bool:
        """Whether nothing in the picture is meant."""
        return self.places == NOWHERE


@dataclass(frozen=True)
class Thing:
    """An object in words: its class, "a blue dotted key", and "at c5"."""

    label: str
    description: str
    place: str


@dataclass(frozen=True)
class Talk:
    """All that can be said about a scene; its pixels and masks are not needed any more. Objects are in reading order."""

    asked: tuple[Asked, ...]
    things: tuple[Thing, ...]


def talk(drawn: Scene, rng: np.random.Generator) -> Talk:
    """Every question about a scene, and its objects."""
    places = [_place(thing) for thing in drawn.objects]
    asked = [
        Asked(
            question.texts,
            question.is_sentence,
            question.answer,
            _together(places[number] for number in question.objects) or NOWHERE,
        )
        for question in questions(drawn, rng)
    ]
    order = sorted(range(len(places)), key=lambda number: cell(drawn.objects[number])[::-1])
    things = [
        Thing(thing.label, f"a {thing.colour} {thing.texture} {thing.label}", places[number])
        for number in order
        for thing in [drawn.objects[number]]
    ]
    return Talk(tuple(asked), tuple(things))


def dialogue(about: Talk, rng: np.random.Generator, turns: int) -> list[Turn]:
    """So many questions about a scene with their answers, in a random order, none of the scene's own twice."""
    # The short ones outnumber the long ones, which are harder and what the three systems are asked, and those about nothing.
    weights = np.array([(3.0 if asked.is_sentence else 1.0) * (2 if asked.absent else 1) for asked in about.asked])
    chosen = rng.choice(len(weights), min(len(weights), turns - 2), replace=False, p=weights / weights.sum())
    found = [_ask(about.asked[number], rng) for number in chosen]
    others = (_at_a_place, _by_use, _number)
    found += [_is_there(about, rng), others[int(rng.integers(len(others)))](about, rng)]
    if rng.random() < 0.5:
        found[0] = (str(rng.choice(_CAPTION)), caption(about))
    return [found[number] for number in rng.permutation(len(found))]


def caption(about: Talk) -> str:
    """All objects with their places."""
    return ", ".join(f"{thing.description} {thing.place}" for thing in about.things) + "."


def cell(thing: SceneObject) -> tuple[int, int]:
    """Column and row, 1 to :data:`GRID`, of an object's middle."""
    rows, columns = np.nonzero(thing.visible)
    parts = ((each.mean() + 0.5) / side for each, side in zip((columns, rows), thing.visible.shape[::-1], strict=True))
    column, row = (int(GRID * part) + 1 for part in parts)
    return column, row


def corpus(talks: Sequence[Talk], rng: np.random.Generator) -> list[str]:
    """Sentences for a tokenizer to learn from."""
    return [text for about in talks for turn in dialogue(about, rng, 24) for text in turn]


def _ask(asked: Asked, rng: np.random.Generator) -> Turn:
    text, kind = str(rng.choice(asked.texts)), rng.random()
    if kind < 0.45:
        where = str(rng.choice(_WHERE if asked.is_sentence else (*_WHERE, _WHAT))).format(text=text)
        return where, str(rng.choice(_REPLIES)).format(places=asked.places)
    if kind < 0.9:
        return text, f"{asked.answer} {asked.places}."
    return text, asked.answer


def _is_there(about: Talk, rng: np.random.Generator) -> Turn:
    """Half of the classes asked for are there."""
    seen = sorted({thing.label for thing in about.things})
    there = rng.random() < 0.5
    label = str(rng.choice(seen if there else [label for label in CLASSES if label not in seen]))
    asked = f"Is there a {label}?" if rng.random() < 0.5 else f"Is there something that {rng.choice(USES[label])}?"
    places = _together(thing.place for thing in about.things if thing.label == label)
    return asked, f"Yes, the {label}, {places}." if there else f"No {label}, {NOWHERE}."


def _at_a_place(about: Talk, rng: np.random.Generator) -> Turn:
    thing = _any(about, rng)
    return f"What is {thing.place}?", f"{thing.description}."


def _by_use(about: Talk, rng: np.random.Generator) -> Turn:
    thing = _any(about, rng)
    return f"What is true of the {thing.label}?", f"It {rng.choice(USES[thing.label])}."


def _number(about: Talk, rng: np.random.Generator) -> Turn:
    thing = _any(about, rng)
    return f"How many of the kind of the {thing.label}?", f"{sum(each.label == thing.label for each in about.things)}."


def _any(about: Talk, rng: np.random.Generator) -> Thing:
    return about.things[int(rng.integers(len(about.things)))]


def _together(places: Iterable[str]) -> str:
    """In reading order, so that there is one right text."""
    return " and ".join(sorted(places, key=PLACES.index))


def _place(thing: SceneObject) -> str:
    column, row = cell(thing)
    return PLACES[(row - 1) * GRID + column - 1]
