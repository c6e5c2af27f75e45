"""Makes one attempt at an endpoint and interprets its failures: the only module that knows the client's errors."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
import openai

from stages.questions.errors import EndpointError
from stages.questions.params import ModelParams

NO_KEY = "none"
"""Sent as key if an endpoint needs no key, as the client requires one."""
Create = Callable[..., AbstractAsyncContextManager[Any]]
"""A ``with_streaming_response.create`` of the client."""
_STOPS = (401, 402, 403)
"""Statuses that every other request would get too: a wrong key, no money, no permission."""
TRIES = (408, 409, 425, 429)
"""Statuses below 500 after which another attempt may succeed."""
_GATEWAY = (502, 504, 520, 522, 524)
"""Statuses of a gateway whose server may still have answered and charged for it."""


class Refused(Exception):  # noqa: N818
    """The endpoint refuses this request permanently. ``billed``: it was answered, so it was charged for."""

    def __init__(self, reason: str, billed: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.billed = reason, billed


class Failed(Exception):  # noqa: N818
    """An attempt failed, and another one may succeed.

    Args:
        billed: the endpoint may have answered and charged for it.
        busy: it asks for fewer requests (429). wait_s: how long it asks to wait; None: not stated.
    """

    def __init__(self, reason: str, billed: bool, busy: bool = False, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.billed, self.busy, self.wait_s = reason, billed, busy, wait_s


def key_of(model: ModelParams) -> str:
    """Return the key of a model's endpoint, from the environment.

    Raises:
        EndpointError: the variable is not set, or its value cannot be a key.
    """
    if model.key_from is None:
        return NO_KEY
    key = os.environ.get(model.key_from, "").strip()
    if not key:
        raise EndpointError(
            f"{model.endpoint} needs a key, and the environment variable {model.key_from} is not set; type "
            f"export {model.key_from}=..., or set key_from of the model to null where the endpoint needs none"
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise EndpointError(
            f"the environment variable {model.key_from} holds spaces or characters that no key has; set it again"
        )
    return key


def async_client(model: ModelParams) -> openai.AsyncOpenAI:
    """The client for many requests at once. It does not retry by itself, as every attempt is logged and budgeted."""
    return openai.AsyncOpenAI(base_url=model.endpoint, api_key=key_of(model), timeout=model.timeout_s, max_retries=0)


def batch_client(model: ModelParams) -> openai.OpenAI:
    """The client for files and batches. It retries by itself, as these requests cost nothing."""
    return openai.OpenAI(
        base_url=model.endpoint, api_key=key_of(model), timeout=model.timeout_s, max_retries=model.retries
    )


def redacted(text: str, key: str) -> str:
    """A message of the endpoint, in one line of at most 500 characters, without the key."""
    short = " ".join(text.replace(key, "[key]").split()) if key != NO_KEY else " ".join(text.split())
    return short if len(short) <= 500 else f"{short[:497]}..."


async def attempt(create: Create, body: Mapping[str, Any], model: ModelParams, max_bytes: int) -> dict[str, Any]:
    """Send a request once and return the JSON object that answers it.

    Raises:
        Refused: asking again is useless; or the answer has more than ``max_bytes``, of which no more are read.
        Failed: asking again may help.
        EndpointError: the endpoint cannot be asked at all.
    """
    try:
        data = bytearray()
        async with asyncio.timeout(model.timeout_s), create(**body) as response:
            async for block in response.iter_bytes():
                data += block
                if len(data) > max_bytes:
                    raise Refused(f"its answer has more than {max_bytes} bytes", billed=True)
    except openai.APIStatusError as error:
        raise meaning(error, model) from None  # its text may contain the key
    except TimeoutError as error:
        raise Failed(f"no answer within {model.timeout_s:g} s", billed=True) from error
    except (openai.APIConnectionError, httpx2.HTTPError) as error:
        raise broken(error, model) from error
    if data.lstrip()[:1] == b"<":
        raise EndpointError(
            f"{model.endpoint} answers with a web page, expected JSON: check endpoint of the model in the params, which mostly "
            f"ends in /v1 ({bytes(data[:60])!r}). What was answered is kept"
        )
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Failed(f"an answer that is no JSON: {bytes(data[:60])!r}", billed=True) from error
    if not isinstance(document, dict):
        raise Failed(f"an answer that is no JSON object: {bytes(data[:60])!r}", billed=True)
    return document


def broken(error: Exception, model: ModelParams) -> Failed:
    """The error for a broken connection."""
    cause = error.__cause__ if isinstance(error, openai.APIConnectionError) and error.__cause__ else error
    never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
    what = "no connection" if never_sent else "the connection broke"
    return Failed(redacted(f"{what}: {cause or type(cause).__name__}", key_of(model)), billed=not never_sent)


def meaning(error: openai.APIStatusError, model: ModelParams) -> Exception:
    """The error for a status: EndpointError, Failed or Refused."""
    status = error.status_code
    reason = redacted(f"status {status}: {_said(error)}", key_of(model))
    if status in _STOPS or error.code == "insufficient_quota":
        named = model.key_from or "no key"
        return EndpointError(
            f"{model.endpoint} refuses model {model.model} with {named}: {reason}. What was answered is kept"
        )
    if status in TRIES or status >= 500:
        wait_s = wait_of(error.response.headers) if status in (429, 503) else None
        return Failed(reason, billed=status in _GATEWAY, busy=status == 429, wait_s=wait_s)
    return Refused(reason)


def _said(error: openai.APIStatusError) -> str:
    said = error.body.get("message") if isinstance(error.body, Mapping) else error.body
    return str(said or error.message)


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint asks to wait (``Retry-After``: seconds or a date; ``retry-after-ms``); None: not stated."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            wait_s = float(headers[name]) / unit
        except (KeyError, ValueError):
            continue
        if wait_s >= 0:
            return wait_s
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
