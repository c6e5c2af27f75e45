"""Questions about a scene: short phrases that name things, and long ones that go by use, size, place or relation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from demo.data.scenes import CLASSES, COLOURS, USES, Scene, SceneObject
from demo.data.textures import TEXTURES

CLEARLY = 1.35  # how many times more room, or less distance, counts as the most or the nearest
APART = 0.06  # how much further out, in parts of the picture's side, counts as the outermost


@dataclass(frozen=True)
class Wording:
    """Forms of words with one meaning: those of the demo's own questions, and others that they do not have.

    The others are made of words that occur in the first: the demo's language model has read nothing else.
    """

    usual: tuple[str, ...]
    other: tuple[str, ...]

    def around(self, phrases: "Wording") -> "Wording":
        """The forms with each of the phrases in their place: usual phrases in usual forms, other phrases in other forms."""
        usual, other = (
            tuple(form.format(words) for form in forms for words in inner)
            for forms, inner in ((self.usual, phrases.usual), (self.other, phrases.other))
        )
        return Wording(usual, other)


_THAT = Wording(
    (
        "Which thing in the picture {}? Please segment it.",
        "Find whatever {} and mark all of it that can be seen.",
        "Could you point me to the item that {}?",
        "As a helpful robot, which object would you fetch if someone asked for something that {}?",
        "I am looking for something that {}; show me exactly where it is, please.",
    ),
    (
        "Which object in this scene {}? Please mark it.",
        "Someone is looking for the item that {}; which one would you point to?",
        "Please segment the one object here that {}.",
    ),
)
_EVERY = Wording(
    (
        "There may be more than one here: mark everything that {}.",
        "Segment each item in the picture that {}, not only the first you see.",
        "Could you show me all the objects of the kind that {}?",
        "Someone wants every single thing that {}; which areas would you hand over?",
        "Find all there is in this scene that {}, please.",
    ),
    (
        "Could you mark each object in this scene that {}, please?",
        "Someone is looking for everything that {}; which objects would you point to?",
        "Please segment every object here that {}.",
    ),
)
_THE = Wording(
    (
        "Which object is {}? Please segment it.",
        "Find {} and mark all of it that can be seen.",
        "Could you point me to {}?",
        "As a helpful robot you are told to fetch {}; show what you would take.",
        "I mean {}; show me exactly where it is, please.",
    ),
    (
        "Please mark what I mean in this scene: {}.",
        "Someone is looking for one thing: {}. Which one would you point to?",
        "Please segment this one object here: {}.",
    ),
)
_USE = Wording(("{}",), ("{}",))  # what something is for is its name in a long question


@dataclass(frozen=True)
class Question:
    """A question, the numbers of the objects that answer it (none: absent), and an answer in words.

    ``forms``: the question and its rephrasings, with places for the words ``named``. ``other_forms``: further rephrasings, which
    only the reworded test questions have. ``family``: the kind of question, such as "texture".
    """

    objects: tuple[int, ...]
    forms: tuple[str, ...]
    other_forms: tuple[str, ...]
    named: tuple[str, ...]
    is_sentence: bool
    answer: str
    family: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The question and its rephrasings."""
        return tuple(form.format(*self.named) for form in self.forms)

    @property
    def other_texts(self) -> tuple[str, ...]:
        """Further rephrasings, for the reworded test questions; they name things with the words of ``texts``."""
        return tuple(form.format(*self.named) for form in self.other_forms)


def questions(drawn: Scene, rng: np.random.Generator) -> list[Question]:
    """Every question that can be asked about the scene; each has one right answer.

    Each question whose form can also ask for something absent has a counterpart that does so in the same form. So the form does
    not give away whether the thing is there.
    """
    by_class: dict[str, list[int]] = {}
    for index, thing in enumerate(drawn.objects):
        by_class.setdefault(thing.label, []).append(index)
    found = [*_by_name(drawn.objects, by_class), *_by_use(by_class, rng)]
    everything = list(range(len(drawn.objects)))
    for index, phrases in _outstanding(drawn.objects, everything, "thing in the picture that {}", "everything here"):
        found.append(_long("of all", (index,), _THE, phrases, (), drawn.objects[index].label))
    for label, members in by_class.items():
        use = str(rng.choice(USES[label]))
        if len(members) > 1:
            for index, phrases in _outstanding(drawn.objects, members, "one that {{}} and {}", "all that {}"):
                found.append(_long("of a kind", (index,), _THE, phrases, (use,), label))
        else:
            found += _by_relation(drawn, members[0], use)
    return [*found, *_absent(found, drawn.objects, rng)]


def _long(
    family: str, objects: tuple[int, ...], templates: Wording, phrases: Wording, named: tuple[str, ...], label: str
) -> Question:
    wording = templates.around(phrases)
    noun = f"the {label}" if len(objects) == 1 else f"the {len(objects)} {_plural(label)}"
    return Question(objects, wording.usual, wording.other, named, True, f"The answer is {noun}.", family)


def _plural(label: str) -> str:
    return {"leaf": "leaves", "fish": "fish"}.get(label, label + "s")


def _by_name(objects: tuple[SceneObject, ...], by_class: dict[str, list[int]]) -> list[Question]:
    found = []
    for label, members in by_class.items():
        if len(members) == 1:
            wording = Wording(("the {}", "{}"), ("the only {} here", "the single {} in this scene"))
            found.append(_short("class", tuple(members), wording, (label,)))
        else:
            wording = Wording(("all {}", "the {}"), ("every one of the {}", "each of the {} in this scene"))
            found.append(_short("class", tuple(members), wording, (_plural(label),)))
        for colour in sorted({objects[i].colour for i in members}):
            chosen = tuple(i for i in members if objects[i].colour == colour)
            if len(chosen) == 1:
                wording = Wording(("the {0} {1}", "{1} in {0}"), ("the {1} that is {0}", "the single {1} here in {0}"))
                found.append(_short("coloured class", chosen, wording, (colour, label)))
    for colour in sorted({thing.colour for thing in objects}):
        chosen = tuple(i for i, thing in enumerate(objects) if thing.colour == colour)
        noun, other = ("thing", "thing that is") if len(chosen) == 1 else ("things", "things that are")
        wording = Wording((f"the {{}} {noun}", f"{{}} {noun}"), (f"the {other} {{}}", f"the {noun} here in {{}}"))
        found.append(_short("colour", chosen, wording, (colour,)))
    for texture in sorted({thing.texture for thing in objects} - {"plain"}):
        chosen = tuple(i for i, thing in enumerate(objects) if thing.texture == texture)
        noun, other = ("object", "object that is") if len(chosen) == 1 else ("objects", "objects that are")
        wording = Wording(
            (f"the {{}} {noun}", f"{noun} with a {{}} surface"),
            (f"the {other} {{}}", f"the {noun} here with a {{}} surface"),
        )
        found.append(_short("texture", chosen, wording, (texture,)))
    return found


def _short(family: str, objects: tuple[int, ...], wording: Wording, named: tuple[str, ...]) -> Question:
    answer = f"{'It is' if len(objects) == 1 else 'They are'} {wording.usual[0].format(*named)}."
    return Question(objects, wording.usual, wording.other, named, False, answer, family)


def _by_use(by_class: dict[str, list[int]], rng: np.random.Generator) -> list[Question]:
    return [
        _long(
            "use", tuple(members), _THAT if len(members) == 1 else _EVERY, _USE, (str(rng.choice(USES[label])),), label
        )
        for label, members in by_class.items()
    ]


def _absent(present: Iterable[Question], objects: tuple[SceneObject, ...], rng: np.random.Generator) -> list[Question]:
    """The questions whose form can ask for something absent, each with words for things that the scene does not show.

    Some object is always the largest of all, and a scene may show every texture: such questions are left out.
    """
    seen = {(thing.label, thing.colour, thing.texture) for thing in objects}
    labels, colours, textures = (
        [word for word in words if word not in {each[kind] for each in seen}]
        for kind, words in enumerate((CLASSES, tuple(COLOURS), TEXTURES[1:]))  # no question names "plain"
    )
    found = []
    for question in present:
        label = str(rng.choice(labels))
        named: tuple[str, ...]
        match question.family:
            case "of all":
                continue
            case "class":
                named = (label if len(question.objects) == 1 else _plural(label),)
            case "coloured class":
                colour, there = question.named
                others = [other for other in COLOURS if all(each[:2] != (there, other) for each in seen)]
                named = (colour, label) if rng.random() < 0.5 else (str(rng.choice(others)), there)
            case "colour":
                named = (str(rng.choice(colours)),)
            case "texture":
                if not textures:
                    continue
                named = (str(rng.choice(textures)),)
            case _:
                named = (str(rng.choice(USES[label])),)
        found.append(replace(question, objects=(), named=named, answer="There is no such thing in the picture."))
    return found


def _outstanding(
    objects: tuple[SceneObject, ...], members: list[int], usual: str, others: str
) -> list[tuple[int, Wording]]:
    """Numbers of the members that stand out, each with phrases that mean it.

    ``usual``: form of the usual phrase, with a place for how the member stands out. ``others``: what it is compared with.
    """
    if len(members) < 2:
        return []
    areas = np.array([objects[i].visible.sum() for i in members], dtype=np.float64)
    height, width = objects[0].visible.shape
    centres = np.array([_centre(objects[i].visible) for i in members]) / (width, height)
    scores: list[tuple[NDArray[np.float64], float, str, str]] = [
        (np.log(areas), np.log(CLEARLY), "takes up the most room", "object that takes up the most room"),
        (-np.log(areas), np.log(CLEARLY), "takes up the least room", "object that takes up the least room"),
        (-centres[:, 0], APART, "is furthest to the left", "object furthest to the left"),
        (centres[:, 0], APART, "is furthest to the right", "object furthest to the right"),
        (-centres[:, 1], APART, "is nearest the upper edge", "object closest to the upper edge"),
        (centres[:, 1], APART, "is nearest the lower edge", "object closest to the lower edge"),
    ]
    found = []
    for score, margin, predicate, other in scores:
        order = np.argsort(score)
        if score[order[-1]] - score[order[-2]] > margin:
            phrases = Wording((f"the {usual.format(predicate)}",), (f"of {others}, the {other}",))
            found.append((members[int(order[-1])], phrases))
    return found


def _by_relation(drawn: Scene, anchor: int, use: str) -> list[Question]:
    """Questions about the neighbour of an object that is the only one of its class."""
    objects, found = drawn.objects, []
    centres = np.array([_centre(thing.visible) for thing in objects])
    distances = np.linalg.norm(centres - centres[anchor], axis=1)
    distances[anchor] = np.inf
    nearest, second = np.argsort(distances)[:2]
    if distances[second] > CLEARLY * distances[nearest]:
        words = Wording(("the object that is closest to the one that {}",), ("the item nearest to whatever {}",))
        found.append(_long("relation", (int(nearest),), _THE, words, (use,), objects[nearest].label))
    for usual, other, related in (
        (
            "the object that is partly hidden behind the one that {}",
            "the item that is partly hidden by whatever {}",
            lambda i: _hides(objects, anchor, i),
        ),
        (
            "the object that covers a part of the one that {}",
            "the item that covers a part of whatever {}",
            lambda i: _hides(objects, i, anchor),
        ),
    ):
        chosen = _only(range(len(objects)), related)
        if chosen is not None:
            words = Wording((usual,), (other,))
            found.append(_long("relation", (chosen,), _THE, words, (use,), objects[chosen].label))
    return found


def _only(numbers: range, related: Callable[[int], float]) -> int | None:
    """The one number with ``related`` above 0, if it is at least 0.05; None if there are several, or if the only one is less."""
    parts = {i: related(i) for i in numbers}
    some = [i for i, part in parts.items() if part > 0]
    return some[0] if len(some) == 1 and parts[some[0]] >= 0.05 else None


def _hides(objects: tuple[SceneObject, ...], front: int, behind: int) -> float:
    """The share (0 to 1) of object ``behind``'s whole outline that object ``front`` covers."""
    if front <= behind:
        return 0.0
    whole = np.zeros(objects[behind].visible.shape, np.uint8)
    for polygon in objects[behind].polygons:
        cv2.fillPoly(whole, [np.round(polygon).astype(np.int32)], 1)
    return float((objects[front].visible & (whole > 0)).sum()) / objects[behind].amodal_area_px


def _centre(mask: NDArray[np.bool_]) -> tuple[float, float]:
    ys, xs = np.nonzero(mask)
    return float(xs.mean()), float(ys.mean())
