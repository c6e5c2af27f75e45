"""Parses an asker's answer into pairs of question and answer, whatever form the model gave them.

Models number, bullet, embolden, fence, rename and translate what they were asked to write as ``1. [Q]: ... [A]: ...``. What can
be read without guessing is read; the rest is rejected with a reason. An answer counts only if it is one of the image's objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from stages.questions.items import Pair, Reason, Rejected, Thing
from stages.questions.names import Names, find, names_of
from stages.questions.prompts import WIDE
from stages.questions.replies import after_thinking
from stages.questions.requests import Answer, Reply, Unanswered

MAX_CHARACTERS = 2**20
MAX_LINES = 20_000
MAX_PAIRS = 1000
"""Largest number of pairs of one answer; further ones are refused. A request asks for at most about fifty."""
MAX_RAW = 2000
"""Characters of a question, an answer and the text of a pair that are kept: rules refuse questions of that length."""

_WIDE_QUOTE = 0xFF02  # kept, as a plain one would end a JSON string
_PLAIN = {
    **{code: plain for code, plain in WIDE.items() if code != _WIDE_QUOTE},
    **dict.fromkeys(map(ord, "【〔"), "["),
    **dict.fromkeys(map(ord, "】〕"), "]"),
    **dict.fromkeys(map(ord, "。"), ". "),
    **dict.fromkeys(map(ord, "\r\u2028\u2029\v\f"), "\n"),
    **dict.fromkeys(map(ord, "\u200b\u200c\u2060\ufeff\u00ad"), ""),
}
_WORD = r"(?<![^\W_])(?<!&)(q(?:uestion)?|a(?:nswer)?)\s?#?"
_MARK = re.compile(
    rf"(?i)(?:\[\s?{_WORD}\d{{0,3}}\s?\]|<{_WORD}>|{_WORD}\d{{0,3}}[*_]{{0,3}}\s?(?=:)|{_WORD}\d{{1,3}}[.)](?!\d)"
    r"|[-=]{1,3}>|[→⇒])[*_]{0,3}\s?:?"
)
"""``[Q]:``, ``<answer>``, ``Question 2:``, ``A1.``, ``->``; the group that matched tells whether it marks a question."""
_CLOSING = re.compile(r"(?i)</(?:question|answer|q|a)>")
_LEADER = re.compile(r"[\s>#*_+•·–—|-]*+(?:[\[(]?(?:\d{1,3}|[a-z](?=\)))\s?[.):\]|](?!\d)[\s*_|]*+)?")
"""Bullets, quoting, headings, edges of tables and a number before the text of a line."""
_NOISE = re.compile(r"(?i)[\W_\d]*(?:(?:question|answer|pair|example|qa?|a)[\W_\d]*)?")
"""A line that says nothing, such as a heading ``Question 1``."""
_REFUSAL = re.compile(
    r"(?i)\b(?:i(?:['’]m| am)(?: very| so| really)? (?:sorry|unable|afraid|not (?:able|allowed))|i apologi[sz]e|"
    r"i (?:cannot|can(?:no|['’])t|won['’]t)|as an? (?:ai|language model)|against (?:my|our) (?:guidelines|policy))\b"
)
_MARKUP = re.compile(r"[*`]+")
_QUOTES = str.maketrans("“”„«»＂", '""""""')
_STRING = r'"(?:[^"\\]++|\\.)*+(?:"|\Z)'
_JSON = re.compile(
    rf'(?is)"\[?(?:(q|question|query)|a|answer|object|label|target)\]?"\s*+:\s*+({_STRING}|\[(?:[\s,]++|{_STRING})*+\])'
)
"""A key and its string, or its list of strings.

The last string may be truncated. The quantifiers are possessive, so that no text takes long.
"""
_JSON_QUESTION = re.compile(r'(?i)"\[?(?:q|question|query)\]?"\s*+:')


@dataclass
class _Found:
    """A possible pair. raw: the part of the text it was read from. ended: whether its answer is complete, as more text follows."""

    question: str | None = None
    answer: str | None = None
    raw: list[str] = field(default_factory=list)
    ended: bool = True


def parse_pairs(image_id: str, answer: Reply, things: tuple[Thing, ...]) -> tuple[list[Pair], list[Rejected]]:
    """The pairs that an asker's answer holds, and the rejected parts, both in its order and numbered together.

    The time grows linearly with the answer. A megabyte, 20 000 lines or 1000 pairs are too large.

    Args:
        things: the things of the image; a pair's answer must be one of them.
    """
    reply = trouble(image_id, answer)
    if isinstance(reply, Rejected):
        return [], [reply]
    text = reply.text.replace("\r\n", "\n").translate(_PLAIN)
    if text.count("\n") > MAX_LINES:
        return [], [Rejected(image_id, None, Reason.TOO_LARGE, text, f"over {MAX_LINES} lines")]
    found: list[_Found] = []
    for each in _from_json(text) if _JSON_QUESTION.search(text) else _from_lines(text):
        if len(found) == MAX_PAIRS:
            return [], [Rejected(image_id, None, Reason.TOO_LARGE, text, f"over {MAX_PAIRS} pairs")]
        found.append(each)
    if not found:
        refused = _REFUSAL.search(text[:MAX_RAW])
        reason = Reason.REFUSAL if refused else Reason.CUT if reply.finish_reason == "length" else Reason.NO_PAIRS
        return [], [Rejected(image_id, None, reason, text.strip(), refused[0] if refused else "")]
    for each in found if reply.finish_reason != "length" else found[:-1]:
        each.ended = True
    names = names_of(things)
    judged = [_judged(image_id, number, each, names) for number, each in enumerate(found)]
    return [each for each in judged if isinstance(each, Pair)], [each for each in judged if isinstance(each, Rejected)]


def trouble(image_id: str, reply: Reply) -> Answer | Rejected:
    """The answer without the reasoning before it, if its text is not too large; else why all of it is rejected."""
    if isinstance(reply, Unanswered):
        return Rejected(image_id, None, Reason.UNANSWERED, "", reply.reason)
    if not reply.text.strip():
        refused = reply.finish_reason == "content_filter"
        return Rejected(image_id, None, Reason.REFUSAL if refused else Reason.NO_TEXT, "", reply.finish_reason)
    if len(reply.text) > MAX_CHARACTERS:
        size = f"{len(reply.text)} characters, expected at most {MAX_CHARACTERS}"
        return Rejected(image_id, None, Reason.TOO_LARGE, reply.text, size)
    text = after_thinking(reply.text)
    if not text.strip():
        reason = Reason.CUT if reply.finish_reason == "length" else Reason.NO_TEXT
        return Rejected(image_id, None, reason, reply.text, "thoughts alone")
    return replace(reply, text=text)


def _judged(image_id: str, number: int, found: _Found, names: Names) -> Pair | Rejected:
    """The pair, with the thing that its answer names; or why it is rejected."""
    raw = "\n".join(found.raw)[:MAX_RAW]

    def rejected(reason: Reason, detail: str = "") -> Rejected:
        return Rejected(image_id, number, reason, raw, detail)

    question, answer = _cleaned(found.question or ""), _cleaned(found.answer or "")
    if not answer and "?" in question and not question.endswith("?"):  # one mark for both
        question, _, answer = (_cleaned(each) for each in question.rpartition("?"))
        question += "?"
    if not found.ended:
        return rejected(Reason.CUT, answer or question)
    if not question:
        return rejected(Reason.NO_QUESTION, answer)
    if not answer:
        return rejected(Reason.NO_ANSWER, question)
    named = find(answer, names)
    if named is None:
        return rejected(Reason.UNKNOWN_ANSWER, answer)
    if isinstance(named, list):
        return rejected(Reason.SEVERAL_ANSWERS, f"{answer}: {', '.join(thing.name for thing in named)}")
    return Pair(image_id, number, question, answer, (named.label,), raw)


def _cleaned(text: str) -> str:
    """On one line, without markup, and without surrounding quotation marks and punctuation that do not belong to it."""
    line = " ".join(_MARKUP.sub("", text.translate(_QUOTES)).split())
    line = line.strip(" _|-–—:>")
    while len(line) > 1 and (line[0], line[-1]) in {('"', '"'), ("'", "'"), ("(", ")")} and line.count(line[0]) <= 2:
        line = line[1:-1].strip()
    if line.count('"') % 2:  # one of two quotation marks: the other surrounds the answer
        line = line.removeprefix('"').removesuffix('"').strip()
    return line


def _from_json(text: str) -> Iterator[_Found]:
    """Pairs by the keys of objects, wherever in the text these stand, even if the last one is truncated."""
    found, end = _Found(), 0
    for each in _JSON.finditer(text):
        part = "question" if each[1] else "answer"
        if "}" in text[end : each.start()] or getattr(found, part) is not None:
            if found.raw:
                yield found
            found = _Found()
        setattr(found, part, _json_text(each[2]))
        found.raw.append(each[0][:MAX_RAW])
        found.ended = each[2].endswith(('"', "]")) and len(each[2]) > 1
        end = each.end()
    if found.raw:
        found.ended = found.ended and found.answer is not None and found.question is not None
        yield found


def _json_text(value: str) -> str:
    """A string, or the strings of a list with semicolons between them; a truncated one unchanged."""
    try:
        read: Any = json.loads(value, strict=False)
    except ValueError:
        return value.strip('"')
    return "; ".join(map(str, read)) if isinstance(read, list) else str(read)


def _from_lines(text: str) -> Iterator[_Found]:
    """Pairs by marks such as ``[Q]:`` and ``Answer:``, by arrows, and by question marks; a line may hold several, or go on."""
    found, in_list = None, False
    for line in _CLOSING.sub("", text).split("\n"):
        leader = _LEADER.match(line)
        rest = line[leader.end() :] if leader else line
        if _NOISE.fullmatch(rest[:40]) and len(rest) <= 40:
            in_list = False
            if found and found.answer:
                found.ended = True
            continue
        parts = _parts(rest)
        for number, (mark, said, written) in enumerate(parts):
            answered = number + 1 < len(parts) and parts[number + 1][0] == "a"
            what = mark or _meaning(found, said, answered, in_list and len(rest) < len(line))
            if what == "q" or (what == "a" and (found is None or found.answer)):
                if found:
                    yield found
                found = _Found(ended=False)
            in_list = what in ("a", "item")
            if found is None or what == "remark":
                if found and found.answer:
                    found.ended = True
                continue
            found.raw.append(written.strip()[:MAX_RAW])
            _take(found, what, said[:MAX_RAW], mark == "" and not answered)
    if found:
        yield found


def _parts(line: str) -> list[tuple[str, str, str]]:
    """A line cut at its marks: ``q``, ``a``, or empty before the first; the text after each; and both together."""
    parts, mark, start, at = [], "", 0, 0
    for each in _MARK.finditer(line):
        parts.append((mark, line[at : each.start()], line[start : each.start()]))
        mark = "q" if each.lastindex and each[each.lastindex][0] in "qQ" else "a"
        start, at = each.span()
    parts.append((mark, line[at:], line[start:]))
    return parts if parts[0][1].strip(" *_`") else parts[1:]


def _meaning(found: _Found | None, said: str, answered: bool, item: bool) -> str:
    """The meaning of a text without a mark: q, a, more of the question, another item of a list of answers, or a remark.

    answered: an answer follows on the same line. item: it stands in a list right after an answer.
    """
    asks = answered or "?" in said
    if found is None or found.answer:
        return "q" if asks else "item" if item and found else "remark"
    question = _cleaned(found.question or "")
    if "?" not in question:
        return "more"
    if question.endswith("?"):
        return "q" if asks else "a"
    return "more" if answered else "q" if asks else "remark"


def _take(found: _Found, what: str, said: str, alone: bool) -> None:
    """Add what was said to a pair. alone: a text without a mark, and no answer follows it on its line."""
    question, asked, answer = said.rpartition("?")
    if what == "q" and alone and asked and _cleaned(answer):
        found.question, what, said = f"{question}?", "a", answer
    if what == "q":
        found.question = said
    elif what == "more":
        found.question = f"{found.question} {said}"[:MAX_RAW]
    else:
        found.answer = said if what == "a" else f"{found.answer}; {said}"[:MAX_RAW]
        found.ended = said.rstrip(" *_`\"'").endswith((".", "!"))
