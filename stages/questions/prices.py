"""The cost of requests: in the worst case before they are sent, and actual after they were answered."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from stages.questions.journal import Journal
from stages.questions.params import ModelParams
from stages.questions.requests import Message, Picture, Request

BYTES_PER_TOKEN = 3
"""Bytes of text per token, to estimate from above: English has 4 to 5 with the tokenizers of GPT, Qwen and Llama. Other scripts may
have fewer, so that an estimate may be too low; actual costs use the endpoint's counts, so errors do not add up."""
TOKENS_PER_MESSAGE = 8
"""Tokens for the role and the delimiters of a message."""
BOUNDS = ("max_tokens", "max_completion_tokens")
"""Fields of a request that bound its answer."""
PX_PER_TOKEN = 28
"""Side of the square of pixels that is one token of Qwen's vision-language models: 14 px patches, two by two."""


class PlanRow(NamedTuple):
    """The requests of a step to a model. ``requests``: all of them; tokens and cost cover only those not answered yet.

    ``output_tokens``: an upper bound. ``usd``: the worst case; None without prices.
    """

    step: str
    model: str
    requests: int
    answered: int
    input_tokens: int
    output_tokens: int
    usd: float | None


def text_tokens(text: str) -> int:
    """An upper estimate of the tokens of a text."""
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN)


def picture_tokens(picture: Picture, model: ModelParams) -> int:
    """The tokens of a picture: ``tokens_per_picture`` of the model, else one for every 28 x 28 px."""
    if model.tokens_per_picture is not None:
        return model.tokens_per_picture
    return math.ceil(picture.width_px / PX_PER_TOKEN) * math.ceil(picture.height_px / PX_PER_TOKEN)


def input_tokens(request: Request, model: ModelParams) -> int:
    """An upper estimate of the tokens that a request sends."""
    return sum(_message_tokens(message, model) for message in request.messages)


def _message_tokens(message: Message, model: ModelParams) -> int:
    pictures = sum(picture_tokens(picture, model) for picture in message.pictures)
    return TOKENS_PER_MESSAGE + text_tokens(message.text) + pictures


def cost_usd(model: ModelParams, tokens_in: int, tokens_out: int) -> float:
    """The price of tokens; 0 where the model has no prices."""
    price_in, price_out = model.usd_per_million_input or 0.0, model.usd_per_million_output or 0.0
    return (tokens_in * price_in + tokens_out * price_out) / 1e6


def worst_usd(request: Request, model: ModelParams) -> float:
    """The most that a request may cost: its estimated input, and the longest answer."""
    return cost_usd(model, input_tokens(request, model), output_tokens(request))


def output_tokens(request: Request) -> int:
    """The longest answer that a request allows: its ``max_tokens``, or the largest bound that ``body`` in the params sets."""
    given: dict[str, Any] = json.loads(request.body or "{}")
    bounds: list[int] = [given[name] for name in BOUNDS if isinstance(given.get(name), int)]
    return max([*bounds, *([] if "max_tokens" in given else [request.sampling.max_tokens])])


def plan(journal: Journal, model: ModelParams, requests: Iterable[Request]) -> list[PlanRow]:
    """Say what asking a model would take, a row per step in the order of the requests; identical requests count once."""
    rows: dict[str, PlanRow] = {}
    seen: set[str] = set()
    priced = None not in (model.usd_per_million_input, model.usd_per_million_output)
    for request in requests:
        if request.key in seen:
            continue
        seen.add(request.key)
        row = rows.get(request.step, PlanRow(request.step, model.model, 0, 0, 0, 0, 0.0 if priced else None))
        if request.key in journal:
            row = row._replace(requests=row.requests + 1, answered=row.answered + 1)
        else:
            row = row._replace(
                requests=row.requests + 1,
                input_tokens=row.input_tokens + input_tokens(request, model),
                output_tokens=row.output_tokens + output_tokens(request),
                usd=None if row.usd is None else row.usd + worst_usd(request, model),
            )
        rows[request.step] = row
    return list(rows.values())


def shown(request: Request) -> str:
    """Return a request as text to print: its parameters and messages, with the size and digest of pictures.

    Terminal control characters are escaped.
    """
    head = f"{request.step} of {request.subject}, model {request.model}, {vars(request.sampling)}, key {request.key}"
    lines = [head]
    for message in request.messages:
        lines.append(f"--- {message.role}")
        lines += [f"[picture {each.width_px} x {each.height_px} px, {each.digest}]" for each in message.pictures]
        lines += message.text.split("\n")
    return "\n".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)
