"""False premises (SESAME): questions about what an image does not show, and what could be asked for instead.

What is asked for is absent by the annotation, and the question names it. Otherwise nobody could be sure that it has no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from stages.questions.items import Reason, Rejected, Scene, Thing
from stages.questions.names import match, mentioned
from stages.questions.params import CheckParams, RephraseParams
from stages.questions.prompts import load_prompt
from stages.questions.replies import labelled, raw_of, readable, whole_lines
from stages.questions.requests import Reply, Request, Sampling
from stages.questions.rules import check_text


@dataclass(frozen=True)
class FalsePremise:
    """A question about what the image does not show.

    Args:
        absent: name of the category, which is absent by the annotation. The question names it.
        label: of a thing that is there and could be asked for instead.
        correction: an answer in words that says so. Written by code, so that it claims nothing else.
        raw: what the model said.
    """

    image_id: str
    absent: str
    question: str
    label: str
    correction: str
    raw: str


def absent_names(scene: Scene, count: int) -> tuple[str, ...]:
    """Up to ``count`` names of categories that are absent for certain, drawn by image and name.

    Only what the annotation says is absent counts (LVIS: ``neg_category_ids``), and of that no name that is part of the name of a
    thing in the image, or has one as its part: ``light`` where there is a traffic light.
    """
    others = [name for name in dict.fromkeys(scene.absent) if not any(_alike(name, thing) for thing in scene.things)]
    return tuple(sorted(others, key=lambda name: hashlib.sha256(f"{scene.image_id}/{name}".encode()).digest())[:count])


def absent_request(
    scene: Scene, absent: str, summary: str | Sequence[str], params: RephraseParams, model: str
) -> Request:
    """Ask for a question about a category that the image does not show, and what there is instead.

    Args:
        absent: one of :func:`absent_names`. summary: description or tags of the image; may be empty.

    Raises:
        ValueError: ``absent`` is not verified to be absent.
    """
    if absent not in scene.absent:
        raise ValueError(
            f"{scene.image_id}: {absent!r} is not known to be absent; expected one of its absent categories"
        )
    prompt = load_prompt("absent-1")
    names = [thing.name for thing in scene.things]
    messages = prompt.messages(absent=absent, objects=names, summary=summary or "(none)")
    sampling = Sampling(params.max_tokens, params.temperature)
    return Request("absent", scene.image_id, model, messages, sampling, prompt.record)


def read_absent(reply: Reply, scene: Scene, absent: str, check: CheckParams) -> FalsePremise | Rejected:
    """The question, if it names what is absent, and names neither place nor name of a thing of the image to ask for instead."""

    def no(reason: Reason, what: str, detail: str = absent) -> Rejected:
        return Rejected(scene.image_id, None, reason, what, detail)

    answer = readable(reply)
    if isinstance(answer, Reason):
        return no(answer, raw_of(reply))
    said = labelled(whole_lines(answer), ("question", "instead"))
    if [label for label, _ in said] != ["question", "instead"]:
        return no(Reason.NO_PAIRS, answer.text, f"{absent}: expected a line question: and a line instead:")
    (_, question), (_, instead) = said
    thing = match(instead, scene.things)
    if not isinstance(thing, Thing):
        return no(Reason.SEVERAL_ANSWERS if thing else Reason.UNKNOWN_ANSWER, question, f"{absent}: {instead}")
    reason = check_text(question, thing, check)
    if reason is not None:
        return no(reason, question)
    if mentioned(question, _category(absent)) is None:
        return no(Reason.NOT_ASKED, question, f"expected it to name what is absent: {absent}")
    correction = f"There is no {absent} in the picture. What could be asked for instead is the {thing.name}."
    return FalsePremise(scene.image_id, absent, question, thing.label, correction, raw_of(answer))


def _alike(name: str, thing: Thing) -> bool:
    others = (thing.name, thing.label, *thing.synonyms)
    return mentioned(name, thing) is not None or any(mentioned(other, _category(name)) for other in others)


def _category(name: str) -> Thing:
    """A category with nothing known but its name."""
    return Thing(name, name, (), "", ())
