"""What a scene is talked about while the demo's language model is pre-trained: captions, questions, answers and places.

A place is the cell of an 8 x 8 grid over the square that CLIP sees: "at 3 5" is the third column, the fifth row. Nothing here
knows of masks or of the tokens that segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.demo.questions import questions
from stages.demo.scenes import USES, Scene, SceneObject

GRID = 8
Turn = tuple[str, str]
_WHERE = ("{text} Where is it?", "{text} Say where.", "{text} Name its place.")
_CAPTION = ("Describe the picture.", "What is in the picture?", "Name everything you see and where it is.")


@dataclass(frozen=True)
class Asked:
    """A question, without the picture: rephrasings, whether it is long, the answer in words, and the places it means."""

    texts: tuple[str, ...]
    is_sentence: bool
    answer: str
    places: str


@dataclass(frozen=True)
class Thing:
    """An object in words: its class, "a blue dotted key", and "at 3 5"."""

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
    places = [_place(drawn, thing) for thing in drawn.objects]
    asked = [
        Asked(
            question.texts,
            question.is_sentence,
            question.answer,
            " and ".join(places[number] for number in question.objects) or "nowhere",
        )
        for question in questions(drawn, rng)
    ]
    order = sorted(range(len(places)), key=lambda number: cell(drawn, drawn.objects[number])[::-1])
    things = [
        Thing(thing.label, f"a {thing.colour} {thing.texture} {thing.label}", places[number])
        for number in order
        for thing in [drawn.objects[number]]
    ]
    return Talk(tuple(asked), tuple(things))


def dialogue(about: Talk, rng: np.random.Generator, turns: int) -> list[Turn]:
    """So many questions about a scene with their answers, in a random order, none of the scene's own twice."""
    # The short ones outnumber the long ones, which are harder and what the three systems are asked.
    weights = np.array([3.0 if asked.is_sentence else 1.0 for asked in about.asked])
    chosen = rng.choice(len(weights), min(len(weights), turns - 2), replace=False, p=weights / weights.sum())
    found = [_ask(about.asked[number], rng) for number in chosen]
    found += [_at_a_place(about, rng), _by_use(about, rng) if rng.random() < 0.5 else _number(about, rng)]
    if rng.random() < 0.3:
        found[0] = (str(rng.choice(_CAPTION)), caption(about))
    return [found[number] for number in rng.permutation(len(found))]


def caption(about: Talk) -> str:
    """All objects with their places."""
    return ", ".join(f"{thing.description} {thing.place}" for thing in about.things) + "."


def cell(drawn: Scene, thing: SceneObject) -> tuple[int, int]:
    """Column and row, 1 to :data:`GRID`, of an object's middle in the central square of the picture."""
    height, width = thing.visible.shape
    side = min(height, width)
    rows, columns = np.nonzero(thing.visible)
    x = (columns.mean() + 0.5 - (width - side) / 2) / side
    y = (rows.mean() + 0.5 - (height - side) / 2) / side
    column, row = (int(np.clip(int(GRID * part) + 1, 1, GRID)) for part in (x, y))
    return column, row


def corpus(talks: Sequence[Talk], rng: np.random.Generator) -> list[str]:
    """Sentences for a tokenizer to learn from."""
    return [text for about in talks for turn in dialogue(about, rng, 24) for text in turn]


def _ask(asked: Asked, rng: np.random.Generator) -> Turn:
    text, kind = str(rng.choice(asked.texts)), rng.random()
    if kind < 0.5:
        return str(rng.choice(_WHERE)).format(text=text), f"{asked.places}."
    if kind < 0.75:
        return text, f"{asked.answer} {asked.places}."
    return text, asked.answer


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


def _place(drawn: Scene, thing: SceneObject) -> str:
    column, row = cell(drawn, thing)
    return f"at {column} {row}"
