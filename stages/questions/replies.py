"""Prepares a model's reply for reading: its text, or why it has no usable text; and lines of the form ``label: value``."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from stages.questions.items import Reason
from stages.questions.requests import Answer, Reply, Unanswered

MAX_REPLY_CHARS = 2**16
"""A longer answer is not read; no step asks for even a tenth of it."""
MAX_RAW_CHARS = 2000
"""Number of characters of an answer that are kept with its target."""
_AROUND = ' \t*_`"“”'  # markup and quotation marks around a value
_LONE = re.compile("[\ud800-\udfff]")


def readable(reply: Reply) -> Answer | Reason:
    """The answer without the reasoning before it, or why nothing can be read: UNANSWERED, NO_TEXT or TOO_LARGE."""
    if isinstance(reply, Unanswered):
        return Reason.UNANSWERED
    if len(reply.text) > MAX_REPLY_CHARS:
        return Reason.TOO_LARGE
    text = after_thinking(reply.text).strip()
    return replace(reply, text=text) if text else Reason.NO_TEXT


def whole_lines(reply: Answer) -> list[str]:
    """The non-blank lines of an answer. If it was cut off (``length``), the last line is left out."""
    lines = [line.strip() for line in reply.text.splitlines() if line.strip()]
    return lines[:-1] if reply.finish_reason == "length" else lines


def raw_of(reply: Reply) -> str:
    """The part of an answer that is kept: its beginning after any reasoning, in valid UTF-8; without an answer, the reason."""
    text = reply.reason if isinstance(reply, Unanswered) else reply.text.rpartition("</think>")[2]
    return _LONE.sub("\N{REPLACEMENT CHARACTER}", text[:MAX_RAW_CHARS])


def labelled(lines: Collection[str], labels: Collection[str]) -> list[tuple[str, str]]:
    """Label and value of every line ``label: value``, in order; other lines are ignored.

    Numbers, markup and brackets around the label do not matter, nor does its case (``2. **Polite**:``, ``[Question]:``). A
    value on the line after its label is found. Markup and quotation marks around a value are removed.

    Args:
        labels: in lower case; the returned labels are from these.
    """
    choices = "|".join(sorted(map(re.escape, labels), key=len, reverse=True))
    form = re.compile(rf"[\W\d_]*({choices})[\W_]*?[:：](.*)", re.IGNORECASE)
    found: list[tuple[str, str]] = []
    waiting: str | None = None
    for line in lines:
        match = form.fullmatch(line)
        label, value = (match[1].lower(), cleaned(match[2])) if match else (waiting, cleaned(line))
        waiting = label if match and not value else None
        if label is not None and value:
            found.append((label, value))
    return found


def cleaned(text: str) -> str:
    """The text in one line, without surrounding markup and quotation marks."""
    return " ".join(text.split()).strip(_AROUND)


def after_thinking(text: str) -> str:
    """What a model said after its reasoning; empty if it was cut off while still reasoning."""
    said = text.rpartition("</think>")[2]  # the opening mark may be only in the model's own template
    return "" if said.lstrip().startswith("<think>") else said
