"""What the steps pass to each other: images with their objects, pairs of question and answer, and reasons for rejections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

MAX_WHAT = 400
"""Number of characters of a rejected text that are kept."""


@dataclass(frozen=True)
class Thing:
    """A category that an image shows, and which may be the answer to a question.

    Args:
        label: as the data set names it, such as ``car_(automobile)`` or ``stop_sign``.
        name: as it is shown to a model: ``car``, ``stop sign``. Unique within an image.
        synonyms: other names of the category, which an answer may use: LVIS has ``auto`` and ``automobile`` for ``car``.
        definition: in words, if the data set has one; else empty.
        instances: numbers of the image's instances of the category, in ``instances`` of the source split.
        incomplete: the image may show more of it than is annotated (``not_exhaustive_category_ids`` of LVIS).
    """

    label: str
    name: str
    synonyms: tuple[str, ...]
    definition: str
    instances: tuple[int, ...]
    incomplete: bool = False


@dataclass(frozen=True)
class Scene:
    """An image that questions are made about.

    Args:
        group: the name of the group of section ``choose`` that it was chosen for.
        path: of the file, absolute. sha256: of its bytes.
        things: its categories, in the order of their first instances. absent: names of categories that it does not show, as far as
            its annotation says so for certain.
    """

    image_id: str
    group: str
    path: str
    sha256: str
    height_px: int
    width_px: int
    things: tuple[Thing, ...]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A question and its answer, as a model gave them and as they were understood.

    Args:
        number: its place among what the model said about the image, from 0.
        question: the cleaned question: one line, no numbering, no markup.
        answer: as the model said it, cleaned. labels: the labels of the image's things that it means.
        raw: the lines of the model's answer from which it was read.
    """

    image_id: str
    number: int
    question: str
    answer: str
    labels: tuple[str, ...]
    raw: str


class Reason(StrEnum):
    """Why a pair, or all that a model said about an image, was rejected."""

    UNANSWERED = "the endpoint refused the request"
    NO_TEXT = "the model gave no text"
    REFUSAL = "the model refused"
    NO_PAIRS = "nothing of the form question and answer"
    NO_ANSWER = "a question without an answer"
    NO_QUESTION = "an answer without a question"
    CUT = "cut off at max_tokens"
    UNKNOWN_ANSWER = "the answer is none of the objects"
    SEVERAL_ANSWERS = "several answers where one was asked for"
    NAMES_ANSWER = "the question names the answer"
    NAMES_PLACE = "the question says where the answer is"
    TOO_MANY = "more questions with this answer than allowed"
    DUPLICATE = "the same question again"
    NEAR_DUPLICATE = "nearly the same question as another one"
    LEAKED = "nearly a question of a protected split"
    TOO_SHORT = "too short"
    TOO_LONG = "too long"
    LANGUAGE = "not in English"
    MARKUP = "control tokens, markup or invisible characters"
    TOO_LARGE = "the answer of the model is too large"
    NO_MASK = "the answer has no pixel, or more than is annotated"
    VERIFIER = "the verifier disagrees"
    AMBIGUOUS = "the verifier says that something else fits, too"
    UNREADABLE_VERDICT = "the verifier's answer is no verdict"
    BLIND = "answered without the picture"
    NOT_ASKED = "does not ask for what it was to ask for"
    PERSON = "rejected by a person"
    QUOTA = "its category has enough questions"


@dataclass(frozen=True)
class Rejected:
    """A pair that was rejected, or (``number`` None) all that was said about an image.

    ``what``: the pair in the model's words. ``detail``: what was found, such as the word. Both are cut to ``MAX_WHAT`` characters.
    """

    image_id: str
    number: int | None
    reason: Reason
    what: str
    detail: str = ""

    def __post_init__(self) -> None:
        """Cut the model's text, which may be a megabyte."""
        object.__setattr__(self, "what", self.what[:MAX_WHAT])
        object.__setattr__(self, "detail", self.detail[:MAX_WHAT])

    @property
    def row(self) -> Mapping[str, Any]:
        """The row for ``rejected.jsonl``."""
        return {
            "image_id": self.image_id,
            "number": self.number,
            "reason": self.reason.name.lower(),
            "why": str(self.reason),
            "what": self.what,
            "detail": self.detail,
        }


Step = Literal["verify", "control", "person"]


@dataclass(frozen=True)
class Verdict:
    """What a model or a person said of a question and its answer.

    Args:
        step: who was asked: the verifier, the control without the picture, or a person.
        model: the name that the endpoint answered with; empty for a person.
        said: the verdict as it was understood. Verifier: ``yes``, ``no`` or ``other``; control: labels with `` | `` between
            them, or ``unknown``; person: ``keep`` or ``reject``. Empty where it could not be read.
        raw: the original text, cut to the kept length of an answer (stages/questions/replies.py).
        reason: to reject the question, or None. The control gives ``BLIND`` if it answered correctly, which by default is only
            a flag.
    """

    step: Step
    model: str
    said: str
    raw: str
    reason: Reason | None


@dataclass(frozen=True)
class Origin:
    """Where a question came from: ``prompt``, the messages as JSON [[role, text], ...]; the whole answer; and the model."""

    prompt: str
    response: str
    model: str


@dataclass(frozen=True)
class Made:
    """A question that is kept, with its answer and how it was made.

    Args:
        number: its place among what was said about the image, by which a sheet and ``rejected.jsonl`` name it.
        texts: the question and its other wordings. is_sentence: they are sentences, not noun phrases.
        kind: generated, rephrased, absent or several.
        labels: what answers it, in the order of the answer; empty for a false premise.
        answer: in words, if that was asked for.
        correction: for a false premise, what could be asked instead.
        incomplete: the image may show more of it than is annotated.
        origin: what it came from.
        usd: cost of the requests about it alone, plus its share of those about its image.
    """

    image_id: str
    number: int
    texts: tuple[str, ...]
    is_sentence: bool
    kind: str
    labels: tuple[str, ...]
    origin: Origin
    answer: str | None = None
    correction: str | None = None
    incomplete: bool = False
    verdicts: tuple[Verdict, ...] = ()
    usd: float = 0.0
