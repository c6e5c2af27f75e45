"""Chat completions as the API has them: the body of a request, and the answer in a document (OpenAI's API reference)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from stages.questions.params import ModelParams
from stages.questions.prices import cost_usd
from stages.questions.requests import Answer, Message, Request

MAX_ANSWER_BYTES = 1 << 20
"""Larger answers are refused: ``max_tokens`` is at most 100 000, and anything longer is not an answer to a question."""


class MalformedError(ValueError):
    """A document is not a chat completion."""


def chat_body(request: Request) -> dict[str, Any]:
    """Return the body of ``POST /chat/completions``. Pictures are loaded and sent as JPEG in a data: URL."""
    sampling = {name: value for name, value in vars(request.sampling).items() if value is not None}
    messages = [{"role": message.role, "content": _content(message)} for message in request.messages]
    whole = {"model": request.model, "messages": messages, **sampling, **json.loads(request.body or "{}")}
    return {name: value for name, value in whole.items() if value is not None}


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not message.pictures:
        return message.text
    urls = [f"data:image/jpeg;base64,{base64.b64encode(picture.load()).decode()}" for picture in message.pictures]
    return [*({"type": "image_url", "image_url": {"url": url}} for url in urls), {"type": "text", "text": message.text}]


def answer_from(document: Any, model: ModelParams, worst_usd: float) -> Answer:
    """Read a chat completion. ``worst_usd``: the cost if the endpoint does not count tokens.

    Raises:
        MalformedError: it is not an object with a list ``choices``.
    """
    choices = document.get("choices") if isinstance(document, Mapping) else None
    if not isinstance(choices, list):
        raise MalformedError(f"found {str(document)[:200]!r}, expected a chat completion with choices")
    choice = choices[0] if choices and isinstance(choices[0], Mapping) else {}
    message = choice.get("message")
    usage = usage_of(document)
    return Answer(
        text=_text(message if isinstance(message, Mapping) else {}),
        finish_reason=str(choice.get("finish_reason") or ""),
        model=str(document.get("model") or model.model),
        input_tokens=usage[0],
        output_tokens=usage[1],
        usd=cost_usd(model, *usage) if any(usage) else worst_usd,
    )


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or message.get("refusal")
    if isinstance(content, list):  # a list of parts, as some servers send it
        content = "".join(
            part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def usage_of(document: Mapping[str, Any]) -> tuple[int, int]:
    """Input and output tokens as counted in an answer; 0 if not stated."""
    usage = document.get("usage")
    found = [usage.get(name) if isinstance(usage, Mapping) else 0 for name in ("prompt_tokens", "completion_tokens")]
    tokens_in, tokens_out = (each if isinstance(each, int) and each > 0 else 0 for each in found)
    return tokens_in, tokens_out
