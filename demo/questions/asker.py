"""A rule-based asker that makes mistakes: it knows the scenes, and so which of its answers are right.

Every question is one that :mod:`demo.data.questions` asks about the scene. Some answers are faulty, chosen by a seed that the
checks do not see: half of the faults are forms that real models gave, half are answers with the wrong object.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from demo.data.asked import number_in
from demo.data.mixture import draw

MODEL = "demo-asker"
FAULTY = 0.4
"""Fraction of the pairs that have a fault."""
WHOLE = 0.06
"""Fraction of the answers that are useless as a whole: a refusal, no text, a tool call."""
_HEAD = re.compile(r"\[Summary\]: (.*)\n\[Important Objects\]: (.*)\n\[Number\]: (\d+)")


@dataclass(frozen=True)
class Said:
    """A pair given by the asker.

    Args:
        labels: the right answer. answer: the given answer. fault: the name of the fault; empty without a fault.
        right: whether the answer is the right one, in whatever form.
    """

    number: int
    question: str
    labels: str
    answer: str
    fault: str
    right: bool


def ask(body: dict[str, Any], seed: int) -> tuple[dict[str, Any], list[Said]]:
    """The answer to a request for questions, as a choice of the API, and the truth about its pairs."""
    heads = _HEAD.findall(str(body["messages"][-1]["content"]))
    if not heads:
        raise ValueError("found no [Summary], [Important Objects] and [Number]; expected the template ask-1")
    summary, objects, count = heads[-1]
    number, names = number_in(summary), objects.split(" | ")
    rng = np.random.default_rng((seed, number))
    chosen = _questions(number, tuple(names), int(count), rng)
    if rng.random() < WHOLE:
        return _useless(rng), [Said(number, text, label, "", "useless", False) for text, label in chosen]
    said, lines = [], []
    for place, (text, label) in enumerate(chosen):
        line, entry = _pair(number, place, text, label, names, rng)
        lines.append(line)
        said.append(entry)
    choice = {"message": {"role": "assistant", "content": "\n".join(lines)}, "finish_reason": "stop"}
    return choice, said


@lru_cache(maxsize=8)
def _asked_of(number: int) -> tuple[tuple[tuple[str, ...], str], ...]:
    """Wordings and label of every long question whose answer is all that a scene shows of one class."""
    drawn = draw(number)
    of_class: dict[str, set[int]] = {}
    for index, thing in enumerate(drawn.scene.objects):
        of_class.setdefault(thing.label, set()).add(index)
    return tuple(
        (question.texts, drawn.scene.objects[question.objects[0]].label)
        for question in drawn.questions
        if question.is_sentence
        and question.objects
        and set(question.objects) == of_class[drawn.scene.objects[question.objects[0]].label]
    )


def _questions(number: int, names: tuple[str, ...], count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions and labels, at most two of a label."""
    found: list[tuple[str, str]] = []
    known = _asked_of(number)
    for place in rng.permutation(len(known)).tolist():
        texts, label = known[place]
        if label in names and sum(other == label for _, other in found) < 2 and len(found) < count:
            found.append((str(rng.choice(texts)), label))
    return found


def _pair(
    number: int, place: int, text: str, label: str, names: Sequence[str], rng: np.random.Generator
) -> tuple[str, Said]:
    """A pair in the requested form, or with a fault."""
    form = "{n}. [Q]: {q} [A]: {a}"
    if rng.random() >= FAULTY:
        return form.format(n=place + 1, q=text, a=label), Said(number, text, label, label, "", True)
    if rng.random() < 0.5:
        others = [name for name in names if name != label]
        if others:
            wrong = str(rng.choice(others))
            return form.format(n=place + 1, q=text, a=wrong), Said(number, text, label, wrong, "wrong object", False)
    fault = str(rng.choice(list(FORMS)))
    question, answer, form, right = FORMS[fault]
    other = next((name for name in names if name != label), "table")
    question = question.format(q=text, a=label, o=other)
    answer = answer.format(a=label, o=other, A=label.title())
    return form.format(n=place + 1, q=question, a=answer), Said(number, question, label, answer, fault, right)


FORMS: dict[str, tuple[str, str, str, bool]] = {
    "numbered with a bracket": ("{q}", "{a}", "{n}) [Q]: {q} [A]: {a}", True),
    "Q1.": ("{q}", "{a}", "Q{n}. {q}\nA{n}. {a}", True),
    "markdown": ("{q}", "{a}", "{n}. **Question:** {q}\n   **Answer:** *{a}*", True),
    "plural": ("{q}", "the {a}s", "{n}. [Q]: {q} [A]: {a}", True),
    "full stop": ("{q}", "{A}.", "{n}. [Q]: {q} [A]: {a}", True),
    "no answer": ("{q}", "", "{n}. [Q]: {q}", False),
    "two answers": ("{q}", "{a} or {o}", "{n}. [Q]: {q} [A]: {a}", False),
    "not in the list": ("{q}", "elephant", "{n}. [Q]: {q} [A]: {a}", False),
    "names the answer": (
        "Which {a} in the picture would one use? Please segment it.",
        "{a}",
        "{n}. [Q]: {q} [A]: {a}",
        False,
    ),
    "names the place": (
        "Which thing is in the top left corner of the picture?",
        "{a}",
        "{n}. [Q]: {q} [A]: {a}",
        False,
    ),
    "another language": (
        "Welches Ding auf dem Bild braucht man dafür wohl am ehesten?",
        "{a}",
        "{n}. [Q]: {q} [A]: {a}",
        False,
    ),
    "a control token": ("{q} <SEG_MASK_1>", "{a}", "{n}. [Q]: {q} [A]: {a}", False),
}
"""Fault -> question, answer, form of the pair, and whether the pair is useful despite the fault.

q, a, o: the right question and answer, and another object.
"""


def _useless(rng: np.random.Generator) -> dict[str, Any]:
    """A choice without a pair."""
    kind = int(rng.integers(4))
    if kind == 0:
        return {
            "message": {"role": "assistant", "content": "I'm sorry, but I can't help with that."},
            "finish_reason": "stop",
        }
    if kind == 1:
        return {"message": {"role": "assistant", "content": None}, "finish_reason": "stop"}
    if kind == 2:
        return {
            "message": {"role": "assistant", "content": "1. [Q]: Which thing in the picture would one"},
            "finish_reason": "length",
        }
    call = {"id": "1", "type": "function", "function": {"name": "segment", "arguments": "{}"}}
    return {"message": {"role": "assistant", "content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
