"""A model behind the test server that knows which step it is asked for, by the form of the request, and answers by rules."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from tests.stages.questions.server import text_of

USES = {
    "cat": "sleeps most of the day",
    "cup": "holds a hot drink",
    "dog": "barks at strangers",
    "kite": "needs a strong wind",
}


def answer(body: dict[str, Any]) -> str:
    """The answer of a model that keeps the form; it disagrees with about a quarter of what it verifies."""
    system, text = body["messages"][0]["content"], text_of(body)
    objects = re.search(r"\[(?:Important )?Objects\]: (.*)", text)
    names = objects[1].split(" | ") if objects else []
    tag = hashlib.sha256(text.encode()).hexdigest()
    if "ten sentences" in text:
        seen = hashlib.sha256(repr(body["messages"]).encode()).hexdigest()
        return f"There are animals and things. They wait at number {int(seen[:6], 16)}."
    if "VERDICT" in system:
        return f"VERDICT: {'no' if int(tag, 16) % 4 == 0 else 'yes'}\nREASON: so it looks."
    if "ANSWER:" in system:
        return "ANSWER: unknown"
    if "role play:" in system:
        question = text.partition(": ")[2]
        forms = (
            "instruction: Find this for me: ",
            "polite: Would you please tell me: ",
            "noun phrase: the one that this is about: ",
        )
        return "\n".join(f"{form}{question}" for form in forms)
    if "question: the question that asks for the missing" in system:
        missing = re.search(r"\[Missing\]: (.*)", text)
        assert missing
        return f"question: Where is the {missing[1]} that one would need?\ninstead: {names[0]}"
    if "objects as they stand in the list, in the order" in system:
        trip = int(tag[:6], 16)
        return f"question: Which two of these would you take with you on trip number {trip}?\nobjects: {names[0]} | {names[1]}"
    if "answer: the sentence" in system:
        named = re.search(r"\[Object\]: (.*)", text)
        assert named
        return f"answer: It is the {named[1]} that this is about."
    assert names, system
    number = int(text.count("(number") or 0) + int(tag[:4], 16)
    lines = [
        f"{place + 1}. [Q]: Which of these, say number {number + place}, {USES[name]}? [A]: {name}"
        for place, name in enumerate(names)
    ]
    return "\n".join(
        [
            *lines,
            f"9. [Q]: Where is the {names[0]} of the house? [A]: {names[0]}",
            "10. [Q]: Who would come last? [A]: elephant",
        ]
    )
