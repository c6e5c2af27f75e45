"""Questions whose answer is two or more things of an image together (GSVA's gRefCOCO form, PixelLM's MUSE)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from stages.questions.items import Pair, Reason, Rejected, Scene, Thing
from stages.questions.names import match
from stages.questions.params import CheckParams, RephraseParams
from stages.questions.prompts import load_prompt
from stages.questions.replies import labelled, raw_of, readable, whole_lines
from stages.questions.requests import Reply, Request, Sampling
from stages.questions.rules import check_text, normalized

_FORM = ("question", "objects")
_BETWEEN = re.compile(r"[|;]"), re.compile(r"[|;,&]|\band\b")
"""Separators between the things of an answer: first those that a name cannot contain, then those that it rarely contains."""


def several_request(scene: Scene, summary: str | Sequence[str], params: RephraseParams, model: str) -> Request:
    """Ask for ``params.several`` questions whose answers are two or more things of the image.

    Args:
        summary: description or tags of the image; may be empty.

    Raises:
        ValueError: the image shows fewer than two things.
    """
    if len(scene.things) < 2:
        raise ValueError(
            f"{scene.image_id}: found {len(scene.things)} things, expected two or more to ask for together"
        )
    prompt = load_prompt("several-1")
    names = [thing.name for thing in scene.things]
    messages = prompt.messages(objects=names, questions=str(params.several), summary=summary or "(none)")
    sampling = Sampling(params.max_tokens, params.temperature)
    return Request("several", scene.image_id, model, messages, sampling, prompt.record)


def read_several(
    reply: Reply, scene: Scene, params: RephraseParams, check: CheckParams, first: int = 0
) -> tuple[tuple[Pair, ...], tuple[Rejected, ...]]:
    """Pairs whose ``labels`` are two or more things of the image, in the order of the answer; and what was rejected.

    Each part of an answer must name exactly one thing. The question must obey the rules for all of them.

    Args:
        first: number of the first pair, so that the image's other pairs have different numbers.
    """
    answer = readable(reply)
    if isinstance(answer, Reason):
        return (), (Rejected(scene.image_id, None, answer, raw_of(reply)),)
    said = labelled(whole_lines(answer), _FORM)
    found = [(question, objects) for (label, question), (then, objects) in pairwise(said) if (label, then) == _FORM]
    if not found:
        return (), (Rejected(scene.image_id, None, Reason.NO_PAIRS, answer.text),)
    kept, faults, seen = list[Pair](), list[Rejected](), set[str]()
    for number, (question, objects) in enumerate(found, first):
        things = _things(objects, scene.things)
        reason = _fault(question, things, check)
        if reason is None and normalized(question) in seen:
            reason = Reason.DUPLICATE
        if reason is None and len(kept) == params.several:
            reason = Reason.TOO_MANY
        if reason is not None:
            faults.append(Rejected(scene.image_id, number, reason, f"{question} -> {objects}"))
            continue
        seen.add(normalized(question))
        labels = tuple(thing.label for thing in things)
        kept.append(
            Pair(scene.image_id, number, question, objects, labels, f"question: {question}\nobjects: {objects}")
        )
    return tuple(kept), tuple(faults)


def _things(objects: str, known: Sequence[Thing]) -> tuple[Thing, ...]:
    """The things that an answer names, in its order and each once; empty if a part of it names no thing, or may mean several."""
    for between in _BETWEEN:
        found = [match(part, known) for part in between.split(objects) if part.strip(" .")]
        things = [thing for thing in found if isinstance(thing, Thing)]
        if len(things) == len(found) > 1:
            return tuple({thing.label: thing for thing in things}.values())
    return ()


def _fault(question: str, things: Sequence[Thing], check: CheckParams) -> Reason | None:
    if len(things) < 2:
        return Reason.UNKNOWN_ANSWER
    if not check.allow_incomplete and any(thing.incomplete for thing in things):
        return Reason.NO_MASK
    return next(filter(None, (check_text(question, thing, check) for thing in things)), None)
