"""More texts for a question that was kept: rephrasings (LISA's appendix on data), and an answer in words (ELISA)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from stages.questions.items import MAX_WHAT, Pair, Reason, Rejected, Thing
from stages.questions.names import mentioned
from stages.questions.params import CheckParams, RephraseParams
from stages.questions.prompts import load_prompt
from stages.questions.replies import cleaned, labelled, raw_of, readable, whole_lines
from stages.questions.requests import Reply, Request, Sampling
from stages.questions.rules import check_text, normalized

STYLES = {"instruction": True, "polite": True, "noun phrase": False, "role play": True}
"""Ways to rephrase a question (LISA's appendix) -> whether it is a sentence, as ReasonSeg's ``is_sentence`` says."""
ANSWER_WORDS = (3, 40)
"""Fewest and most words of an answer in words."""

_ALIKE = {"imperative": "instruction", "polite request": "polite", "phrase": "noun phrase", "role-play": "role play"}
_SENTENCE = re.compile(r"[^\W_][^<>\[\]{}|\\*#`~_]*[.!]")
"""No markup, and no mask token such as [SEG] or <SEG_MASK_1>."""


@dataclass(frozen=True)
class TextGroup:
    """Texts of one target that are all sentences, or all noun phrases: a target in the store has a single ``is_sentence``."""

    is_sentence: bool
    texts: tuple[str, ...]


def rephrase_request(pair: Pair, params: RephraseParams, model: str) -> Request:
    """Ask for the question in each of the :data:`STYLES`. The model is not told the answer, so that it cannot give it away."""
    prompt = load_prompt(params.prompt)
    messages = prompt.messages(question=pair.question)
    sampling = Sampling(params.max_tokens, params.temperature)
    return Request("rephrase", f"{pair.image_id}/{pair.number}", model, messages, sampling, prompt.record)


def read_rephrased(
    reply: Reply, pair: Pair, things: Sequence[Thing], params: RephraseParams, check: CheckParams
) -> tuple[tuple[TextGroup, ...], tuple[Rejected, ...]]:
    """The texts of a target, sentences first, and the rephrasings that were rejected.

    The question itself is always included and comes first. With fewer than five ``params.texts``, the first styles are used.

    Args:
        things: the things that are the question's answer. A rephrasing must obey the rules for each of them.
    """
    answer = readable(reply)
    if isinstance(answer, Reason):
        return _groups([(True, pair.question)]), (Rejected(pair.image_id, pair.number, answer, raw_of(reply)),)
    said = labelled(whole_lines(answer), [*STYLES, *_ALIKE])
    kept, faults, seen = [(True, pair.question)], list[Rejected](), {normalized(pair.question)}
    if not said:
        faults.append(Rejected(pair.image_id, pair.number, Reason.NO_PAIRS, answer.text))
    by_style: dict[str, str] = {}
    for label, text in said:
        by_style.setdefault(_ALIKE.get(label, label), text)
    for style in STYLES:
        if style not in by_style or len(kept) == params.texts:
            continue
        text = by_style[style]
        reason = next(filter(None, (check_text(text, thing, check) for thing in things)), None)
        if reason is None and normalized(text) in seen:
            reason = Reason.DUPLICATE
        if reason is not None:
            faults.append(Rejected(pair.image_id, pair.number, reason, text, style))
            continue
        seen.add(normalized(text))
        kept.append((STYLES[style], text))
    return _groups(kept), tuple(faults)


def answer_request(pair: Pair, things: Sequence[Thing], params: RephraseParams, model: str) -> Request:
    """Ask for a sentence that answers a question with the things that are its answer."""
    prompt = load_prompt("answer-1")
    messages = prompt.messages(question=pair.question, answer=[thing.name for thing in things])
    sampling = Sampling(params.max_tokens, params.temperature)
    return Request("answer", f"{pair.image_id}/{pair.number}", model, messages, sampling, prompt.record)


def read_answer(reply: Reply, pair: Pair, things: Sequence[Thing]) -> str | Rejected:
    """The answer in words, or why the reply is rejected.

    It is one line of plain text that ends as a sentence does, of 3 to 40 words and at most 400 characters, and names each of the
    ``things``. Mask tokens and markup are refused, as training code puts its own mask tokens around the text (ELISA).
    """

    def no(reason: Reason, what: str, detail: str = "") -> Rejected:
        return Rejected(pair.image_id, pair.number, reason, what, detail)

    answer = readable(reply)
    if isinstance(answer, Reason):
        return no(answer, raw_of(reply))
    lines = whole_lines(answer)
    said = [text for _, text in labelled(lines, ("answer",))] or (list(map(cleaned, lines)) if len(lines) == 1 else [])
    if len(said) != 1:
        return no(Reason.NO_ANSWER, answer.text, f"{len(said)} answers in {len(lines)} lines, expected one")
    (text,) = said
    least, most = ANSWER_WORDS
    words = len(text.split())
    if words > most or len(text) > MAX_WHAT:
        return no(Reason.TOO_LONG, text, f"{words} words, {len(text)} characters")
    if words < least:
        return no(Reason.TOO_SHORT, text, f"{words} words")
    if not text.isprintable() or not _SENTENCE.fullmatch(text):
        return no(Reason.MARKUP, text, "expected one plain sentence that ends with a full stop")
    lacking = [thing.name for thing in things if mentioned(text, thing) is None]
    return no(Reason.UNKNOWN_ANSWER, text, f"does not name {', '.join(lacking)}") if lacking else text


def _groups(texts: Sequence[tuple[bool, str]]) -> tuple[TextGroup, ...]:
    """Texts by whether they are sentences, which come first."""
    groups = (
        TextGroup(kind, tuple(text for is_sentence, text in texts if is_sentence is kind)) for kind in (True, False)
    )
    return tuple(group for group in groups if group.texts)
