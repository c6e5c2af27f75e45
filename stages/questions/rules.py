"""Rules for every question: those that LLM-Seg's paper states in its prompt (section 4) but does not check, and our own.

The worked example that the paper prints breaks them: it asks what somebody wears on the back and answers with a helmet, and it
asks for a sign when the answer is ``stop_sign``. So a rule in a prompt is only a request; here it is checked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from stages.datasets.words import CONTROL
from stages.questions.items import Pair, Reason, Rejected, Thing
from stages.questions.names import content_words, mentioned, stem, words_of
from stages.questions.params import CheckParams

LETTERS_PER_WORD = 12
"""Largest number of characters per allowed word of a question, so that a thousand letters do not count as one word."""
_PICTURE = r"(?:image|picture|photo|photograph|scene|frame|view|shot|screen)"
_SIDE = r"(?:left|right|top|bottom|upper|lower)"
_PART = r"(?:corner|half|edge|border|part|portion|third|quarter|quadrant|side|area|section)"
_AT = (
    r"(?:on|to|at|in|from|near|towards?|along)\s+(?:the|its|his|her|your|our)\s+(?:(?:far|very|extreme|immediate)\s+)?"
)
_STOPS = r"(?=\s*(?:$|[?.,;:!]|(?:of|and|or|that|which|who|is|are|can|could|would|should|may|might|has|have)\b))"
_PLACES = re.compile(
    rf"""(?ix)\b(?:
      {_AT}(?:left|right){_STOPS}                                              # on the left, to the right of
    | {_AT}(?:top|bottom|middle|cent(?:er|re))(?=\s*(?:$|[?.,;:!]|(?:and|that|which|is|are|can|could|would|may|might)\b))
    | {_AT}(?:{_SIDE}\s+)*corners?
    | (?:left|right)[\s-]?hand | (?:left|right|top|bottom)[\s-]?most
    | {_SIDE}[\s-]+(?:{_SIDE}|{_PART}|cent(?:er|re)|middle)                    # upper left, bottom half
    | (?:{_PART}|{_SIDE}|middle|cent(?:er|re))s?\s+of\s+(?:the|this)\s+(?:whole\s+)?{_PICTURE}
    | back[\s-]?ground | fore[\s-]?ground
    | (?:closest|close|nearest|near|farthest|furthest|far|away)\s+(?:to\s+|from\s+)?(?:the\s+)?(?:camera|viewer|photographer)
    | [xy]\s*=\s*\d+ | coordinates?
    )\b | [(\[]\s*\d+(?:\.\d+)?\s*,\s*\d+(?:\.\d+)?                            # (120, 40)"""
)
_MARKUP = re.compile(r"(?i)\[\s?/?[qa]\s?\d*\]|</?[a-z]\w*[^<>]{0,100}>|https?://|```|\{[^{}]{0,100}\}")
ENGLISH = frozenset(
    re.findall(
        r"\w+",
        "the this that these those which what who whose whom where when why how if there here and with without for from into to "
        "would could can should might does did been being have had use used using you your they their them its it someone "
        "somebody something anyone anything everyone one people person more find show point identify locate tell please object "
        "objects item items thing things while during after before because",
    )
)
"""Words: an English question has some of them. Words that other European languages have too, such as ``in``, are left out."""
_WORDS_PER_ENGLISH = 8


def check(pairs: Sequence[Pair], things: Sequence[Thing], params: CheckParams) -> tuple[list[Pair], list[Rejected]]:
    """The pairs of one image that obey all rules, and the others, each with the first rule that it breaks; both in their order.

    If the same question has two answers, both pairs are rejected: at least one is wrong, and it is unknown which.

    Args:
        pairs: of one image, as :func:`stages.questions.parse.parse_pairs` returns them.
        things: the things of the image.
    """
    known = {thing.label: thing for thing in things}
    labels_of: dict[str, set[tuple[str, ...]]] = {}
    for pair in pairs:
        labels_of.setdefault(normalized(pair.question), set()).add(pair.labels)
    kept: list[Pair] = []
    rejected: list[Rejected] = []
    asked: set[str] = set()
    answers: dict[tuple[str, ...], int] = {}
    for pair in pairs:
        text, count = normalized(pair.question), answers.get(pair.labels, 0)
        named = [known[label] for label in pair.labels if label in known]
        found: tuple[Reason, str] | None
        if not named or len(named) < len(pair.labels):
            found = Reason.UNKNOWN_ANSWER, ", ".join(pair.labels)
        else:
            faults = (_fault(pair.question, thing, params) or _incomplete(thing, params) for thing in named)
            found = next(filter(None, faults), None)
        if found is None and len(labels_of[text]) > 1:
            found = Reason.DUPLICATE, f"asked with other answers: {'; '.join(sorted(map(', '.join, labels_of[text])))}"
        if found is None and text in asked:
            found = Reason.DUPLICATE, text
        if found is None and count == params.per_answer:
            found = Reason.TOO_MANY, f"{', '.join(pair.labels)}: {params.per_answer} before"
        if found is not None:
            rejected.append(rejection(pair, *found))
            continue
        asked.add(text)
        answers[pair.labels] = count + 1
        kept.append(pair)
    return kept, rejected


def check_text(text: str, thing: Thing, params: CheckParams) -> Reason | None:
    """The first rule that a text, taken by itself, breaks as a question whose answer is the thing; None if it obeys all."""
    found = _fault(text, thing, params)
    return found and found[0]


def rejection(pair: Pair, reason: Reason, detail: str = "") -> Rejected:
    """A pair that was rejected, with what was found."""
    what = f"{pair.question} -> {pair.answer}"
    return Rejected(pair.image_id, pair.number, reason, what, detail)


def normalized(question: str) -> str:
    """The words of a question, in lower case, joined by spaces; two questions are the same if these are equal."""
    return " ".join(words_of(question))


def _fault(text: str, thing: Thing, params: CheckParams) -> tuple[Reason, str] | None:
    """The first rule that a text breaks, and what breaks it."""
    least, most = params.words
    if len(text) > most * LETTERS_PER_WORD:  # checked first, as the others would search a megabyte
        return Reason.TOO_LONG, f"{len(text)} characters, expected at most {most * LETTERS_PER_WORD}"
    if found := _control(text):
        return Reason.MARKUP, found
    words = words_of(text)
    if len(words) < least:
        return Reason.TOO_SHORT, f"{len(words)} words, expected at least {least}"
    if len(words) > most:
        return Reason.TOO_LONG, f"{len(words)} words, expected at most {most}"
    if found := _foreign(text, words):
        return Reason.LANGUAGE, found
    if found := _naming(text, words, thing, params):
        return Reason.NAMES_ANSWER, found
    if params.places and (place := _PLACES.search(text)):
        return Reason.NAMES_PLACE, place[0].strip()
    return None


def _incomplete(thing: Thing, params: CheckParams) -> tuple[Reason, str] | None:
    if thing.incomplete and not params.allow_incomplete:
        return Reason.NO_MASK, f"the image may show more of {thing.name} than is annotated"
    return None


def _control(text: str) -> str:
    """A control token, invisible character or markup of the text; empty if it has none of these."""
    found = CONTROL.search(text) or _MARKUP.search(text)
    return found[0] if found else next((repr(each) for each in text if not each.isprintable()), "")


def _foreign(text: str, words: Sequence[str]) -> str:
    """Why a text is not accepted as English: letters beyond ASCII, or too few common English words."""
    letters = [each for each in text if each.isalpha()]
    beyond = [each for each in letters if not each.isascii()]
    if len(beyond) * 10 > len(letters):
        return f"letters such as {''.join(beyond[:5])}"
    known = sum(word in ENGLISH for word in words)
    expected = -(-len(words) // _WORDS_PER_ENGLISH)
    return "" if known >= expected else f"{known} common English words, expected at least {expected}"


def _naming(text: str, words: Sequence[str], thing: Thing, params: CheckParams) -> str:
    """The name of the thing, or the word of a name, that the text contains; empty if it contains none."""
    if name := mentioned(text, thing):
        return name
    if params.names == "name":
        return ""
    content = content_words(thing)
    joined = ["".join(each) for each in pairwise(words)]  # back pack
    return next((word for word in (*words, *joined) if stem(word) in content), "")
