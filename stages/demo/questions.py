"""Questions about a scene: short phrases that name things, and long ones that go by use, size, place or relation."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.demo.scenes import CLASSES, COLOURS, USES, Scene, SceneObject

CLEARLY = 1.35  # how many times more room, or less distance, counts as the most or the nearest
APART = 0.06  # how much further out, in parts of the picture's side, counts as the outermost

_THAT = (
    "Which thing in the picture {that}? Please segment it.",
    "Find whatever {that} and mark all of it that can be seen.",
    "Could you point me to the item that {that}?",
    "As a helpful robot, which object would you fetch if someone asked for something that {that}?",
    "I am looking for something that {that}; show me exactly where it is, please.",
)
_EVERY = (
    "There may be more than one here: mark everything that {that}.",
    "Segment each item in the picture that {that}, not only the first you see.",
    "Could you show me all the objects of the kind that {that}?",
    "Someone wants every single thing that {that}; which areas would you hand over?",
    "Find all there is in this scene that {that}, please.",
)
_THE = (
    "Which object is {the}? Please segment it.",
    "Find {the} and mark all of it that can be seen.",
    "Could you point me to {the}?",
    "As a helpful robot you are told to fetch {the}; show what you would take.",
    "I mean {the}; show me exactly where it is, please.",
)


@dataclass(frozen=True)
class Question:
    """A question, its rephrasings, the numbers of the objects that answer it (none: absent), and an answer in words.

    ``family``: what it goes by, in a word.
    """

    objects: tuple[int, ...]
    texts: tuple[str, ...]
    is_sentence: bool
    answer: str
    family: str


def questions(drawn: Scene, rng: np.random.Generator) -> list[Question]:
    """Every question that can be asked about the scene; each has one right answer."""
    by_class: dict[str, list[int]] = {}
    for index, thing in enumerate(drawn.objects):
        by_class.setdefault(thing.label, []).append(index)
    found = [*_by_name(drawn.objects, by_class), *_by_use(by_class, rng), *_absent(by_class, rng)]
    everything = list(range(len(drawn.objects)))
    for index, phrase in _outstanding(drawn.objects, everything):
        words = phrase.format(of="everything here")
        found.append(_long("of all", (index,), _THE, words, drawn.objects[index].label))
    for label, members in by_class.items():
        use = str(rng.choice(USES[label]))
        if len(members) > 1:
            for index, phrase in _outstanding(drawn.objects, members):
                found.append(_long("of a kind", (index,), _THE, phrase.format(of=f"all that {use}"), label))
        else:
            found += _by_relation(drawn, members[0], use)
    return found


def _long(family: str, objects: tuple[int, ...], templates: tuple[str, ...], words: str, label: str) -> Question:
    texts = tuple(template.format(that=words, the=words) for template in templates)
    noun = f"the {label}" if len(objects) == 1 else f"the {len(objects)} {_plural(label)}"
    answer = f"The answer is {noun}." if objects else "Nothing in the picture does."
    return Question(objects, texts, True, answer, family)


def _plural(label: str) -> str:
    return {"leaf": "leaves", "fish": "fish"}.get(label, label + "s")


def _by_name(objects: tuple[SceneObject, ...], by_class: dict[str, list[int]]) -> list[Question]:
    found = []
    for label, members in by_class.items():
        words = (f"the {label}", label) if len(members) == 1 else (f"all {_plural(label)}", f"the {_plural(label)}")
        found.append(_short("class", tuple(members), words))
        for colour in sorted({objects[i].colour for i in members}):
            chosen = tuple(i for i in members if objects[i].colour == colour)
            if len(chosen) == 1:
                found.append(_short("coloured class", chosen, (f"the {colour} {label}", f"{label} in {colour}")))
    for colour in sorted({thing.colour for thing in objects}):
        chosen = tuple(i for i, thing in enumerate(objects) if thing.colour == colour)
        noun = "thing" if len(chosen) == 1 else "things"
        found.append(_short("colour", chosen, (f"the {colour} {noun}", f"{colour} {noun}")))
    for texture in sorted({thing.texture for thing in objects} - {"plain"}):
        chosen = tuple(i for i, thing in enumerate(objects) if thing.texture == texture)
        noun = "object" if len(chosen) == 1 else "objects"
        found.append(_short("texture", chosen, (f"the {texture} {noun}", f"{noun} with a {texture} surface")))
    return found


def _short(family: str, objects: tuple[int, ...], texts: tuple[str, ...]) -> Question:
    answer = f"It is {texts[0]}." if len(objects) == 1 else f"They are {texts[0]}."
    return Question(objects, texts, False, answer, family)


def _by_use(by_class: dict[str, list[int]], rng: np.random.Generator) -> list[Question]:
    return [
        _long("use", tuple(members), _THAT if len(members) == 1 else _EVERY, str(rng.choice(USES[label])), label)
        for label, members in by_class.items()
    ]


def _absent(by_class: dict[str, list[int]], rng: np.random.Generator) -> list[Question]:
    away = [label for label in CLASSES if label not in by_class]
    named, meant = (str(label) for label in rng.choice(away, 2, replace=False))
    colour = str(rng.choice(list(COLOURS)))
    texts = (f"the {named}", f"the {colour} {named}")
    short = Question((), texts, False, f"There is no {named} in the picture.", "absent")
    return [short, _long("absent", (), _THAT, str(rng.choice(USES[meant])), meant)]


def _outstanding(objects: tuple[SceneObject, ...], members: list[int]) -> list[tuple[int, str]]:
    """Members that stand out among members, with a phrase that has a place for what they are compared with."""
    if len(members) < 2:
        return []
    areas = np.array([objects[i].visible.sum() for i in members], dtype=np.float64)
    height, width = objects[0].visible.shape
    centres = np.array([_centre(objects[i].visible) for i in members]) / (width, height)
    scores: list[tuple[NDArray[np.float64], float, str]] = [
        (np.log(areas), np.log(CLEARLY), "the one that takes up the most room of {of}"),
        (-np.log(areas), np.log(CLEARLY), "the one that takes up the least room of {of}"),
        (-centres[:, 0], APART, "the one furthest to the left of {of}"),
        (centres[:, 0], APART, "the one furthest to the right of {of}"),
        (-centres[:, 1], APART, "the one nearest the upper edge of the picture of {of}"),
        (centres[:, 1], APART, "the one nearest the lower edge of the picture of {of}"),
    ]
    found = []
    for score, margin, phrase in scores:
        order = np.argsort(score)
        if score[order[-1]] - score[order[-2]] > margin:
            found.append((members[int(order[-1])], phrase))
    return found


def _by_relation(drawn: Scene, anchor: int, use: str) -> list[Question]:
    """Questions about the neighbour of an object that is the only one of its class."""
    objects, found = drawn.objects, []
    centres = np.array([_centre(thing.visible) for thing in objects])
    distances = np.linalg.norm(centres - centres[anchor], axis=1)
    distances[anchor] = np.inf
    nearest, second = np.argsort(distances)[:2]
    if distances[second] > CLEARLY * distances[nearest]:
        words = f"the object that is closest to the one that {use}"
        found.append(_long("relation", (int(nearest),), _THE, words, objects[nearest].label))
    for phrase, related in (
        (f"the object that is partly hidden behind the one that {use}", lambda i: _hides(objects, anchor, i)),
        (f"the object that covers a part of the one that {use}", lambda i: _hides(objects, i, anchor)),
    ):
        chosen = _only(range(len(objects)), related)
        if chosen is not None:
            found.append(_long("relation", (chosen,), _THE, phrase, objects[chosen].label))
    return found


def _only(numbers: range, related: Callable[[int], float]) -> int | None:
    """The one number with a clear relation (5 % and more), or none where there are several or unclear ones."""
    parts = {i: related(i) for i in numbers}
    some = [i for i, part in parts.items() if part > 0]
    return some[0] if len(some) == 1 and parts[some[0]] >= 0.05 else None


def _hides(objects: tuple[SceneObject, ...], front: int, behind: int) -> float:
    """The part of an object's whole outline that another one, in front of it, covers."""
    if front <= behind:
        return 0.0
    whole = np.zeros(objects[behind].visible.shape, np.uint8)
    for polygon in objects[behind].polygons:
        cv2.fillPoly(whole, [np.round(polygon).astype(np.int32)], 1)
    return float((objects[front].visible & (whole > 0)).sum()) / objects[behind].amodal_area_px


def _centre(mask: NDArray[np.bool_]) -> tuple[float, float]:
    ys, xs = np.nonzero(mask)
    return float(xs.mean()), float(ys.mean())
