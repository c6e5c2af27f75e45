"""Requests and models for the tests of asking."""

from __future__ import annotations

from typing import Any

from stages.questions.params import ModelParams
from stages.questions.requests import Message, Picture, Request, Sampling


def model_at(base_url: str, **change: Any) -> ModelParams:
    """A model whose thousand tokens cost a dollar, in and out, and whose endpoint needs no key."""
    given = {
        "key_from": None, "usd_per_million_input": 1000.0, "usd_per_million_output": 1000.0, "timeout_s": 5, "retries": 3,
    }  # fmt: skip
    return ModelParams(endpoint=base_url, model="m", **{**given, **change})


def request_of(text: str, *pictures: Picture, step: str = "ask", max_tokens: int = 20) -> Request:
    """A request with a text, about a subject of the same name."""
    message = Message("user", text, pictures)
    return Request(step, text[:40], "m", (Message("system", "be short"), message), Sampling(max_tokens), "ask-1")
