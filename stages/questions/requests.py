"""What a model is asked, and what it answered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Picture:
    """A picture in a request.

    Args:
        digest: sha256 of the image file and of what is done to its pixels (size, outlines, crop). It represents the picture in
            the key of a request, so that another version of the JPEG encoder does not make every request new.
        width_px, height_px: the size that is sent, to estimate tokens.
        load: returns the JPEG. Called only when the request is sent.
    """

    digest: str
    width_px: int
    height_px: int
    load: Callable[[], bytes] = field(compare=False, repr=False)


@dataclass(frozen=True)
class Message:
    """One message of a conversation; its pictures come before its text."""

    role: Role
    text: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """The parameters of a request, under their names in the API. ``seed`` None: no seed is sent."""

    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Request:
    """A chat completion to ask for.

    Args:
        step: its purpose: describe, ask, verify, control, rephrase, ...
        subject: what it is about, in messages and logs: an image_id or a target_id. It is not part of the key.
        model: the name that the endpoint knows the model by.
        body: JSON of further fields of the request; null removes a field. May be empty.
        prompt: name and digest of the template that the messages were made from, for the record. Not part of the key, which has
            the messages themselves.
    """

    step: str
    subject: str
    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    prompt: str = ""
    body: str = ""

    @cached_property
    def key(self) -> str:
        """sha256, in hex, of everything that decides the answer: model, messages, digests of pictures, parameters."""
        messages = [[each.role, each.text, [picture.digest for picture in each.pictures]] for each in self.messages]
        value: dict[str, Any] = {"model": self.model, "messages": messages, **vars(self.sampling)}
        if self.body:
            value["body"] = self.body
        return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Args:
        text: empty if the answer has no text (an empty choice, a tool call).
        finish_reason: as the endpoint gives it: stop, length, content_filter, tool_calls, ...
        model: the name that the endpoint answered with.
        input_tokens, output_tokens: as the endpoint counts them; 0 if it does not say.
        usd: what it cost by the price table of the params; 0 without prices.
    """

    text: str
    finish_reason: str
    model: str
    input_tokens: int
    output_tokens: int
    usd: float


@dataclass(frozen=True)
class Unanswered:
    """A request that the endpoint refuses permanently (its status makes retries useless); ``reason`` in words, without a key."""

    reason: str


Reply = Answer | Unanswered
