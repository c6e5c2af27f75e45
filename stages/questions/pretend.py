"""Answers as models might give them, for ``--dry-run``: they are used to count the requests of later steps, and are not stored."""

from __future__ import annotations

from collections.abc import Iterable

from stages.questions.items import Scene
from stages.questions.requests import Answer, Reply, Request

DESCRIPTION = "There are several things in this picture, and people who use them for what they have to do today. " * 8
"""About 150 words, like ten sentences."""
_REWORDED = "\n".join(
    f"{style}: Which of these would be the thing to use for {{0}}, as the {style} has it?"
    for style in ("instruction", "polite", "noun phrase", "role play")
)


class Pretender:
    """Answers requests about some scenes: every question obeys the rules, and every verdict is yes."""

    def __init__(self, scenes: Iterable[Scene], questions: int, several: int, words: tuple[int, int]) -> None:
        self._scenes = {scene.image_id: scene for scene in scenes}
        self._per_image, self._of_several = questions, several
        self._count = 0
        least, most = words
        self._lead = "Which one would you find for" if most >= 9 else "Which is"
        self._tags = max(3 if most >= 9 else 1, least - len(self._lead.split()))

    def reply(self, request: Request) -> Reply:
        """An answer of the form that the request's step reads."""
        text = getattr(self, f"_{request.step}")(request.subject)
        return Answer(text, "stop", request.model, 0, 0, 0.0)

    def _next(self) -> str:
        """Letters that are different for every question, so that there are no duplicates."""
        self._count += 1
        digits = f"{self._count * 7919 % 10**8:08d}"
        return " ".join(
            "".join(chr(ord("a") + (int(each) * 3 + place) % 26) for each in digits)
            for place in range(0, 5 * self._tags, 5)
        )

    def _describe(self, _: str) -> str:
        return f"{DESCRIPTION}{self._next()}."

    def _ask(self, image_id: str) -> str:
        things = self._scenes[image_id].things
        return "\n".join(
            f"{number + 1}. [Q]: {self._lead} {self._next()}? [A]: {things[number % len(things)].name}"
            for number in range(self._per_image)
        )

    def _several(self, image_id: str) -> str:
        names = " | ".join(thing.name for thing in self._scenes[image_id].things[:2])
        return "\n".join(f"question: {self._lead} {self._next()}?\nobjects: {names}" for _ in range(self._of_several))

    def _verify(self, _: str) -> str:
        return "VERDICT: yes"

    def _control(self, _: str) -> str:
        return "ANSWER: unknown"

    def _rephrase(self, _: str) -> str:
        return _REWORDED.format(self._next())

    def _answer(self, target_id: str) -> str:
        return "It is there."

    def _absent(self, image_id: str) -> str:
        return f"question: Where is it?\ninstead: {self._scenes[image_id].things[0].name}"
