"""Asks through the batch endpoint: files of requests that are answered within a day (OpenAI's API reference, Batch).

A batch carries the name that the journal gave it, so that a batch created just before a kill is found again and not sent twice.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import openai

from stages.progress import progress
from stages.questions.connection import TRIES, batch_client, key_of, redacted
from stages.questions.errors import BudgetSpent, EndpointError, LimitReached
from stages.questions.journal import Journal, Sending, sending
from stages.questions.params import ModelParams
from stages.questions.prices import worst_usd
from stages.questions.requests import Reply, Request, Unanswered
from stages.questions.wire import MAX_ANSWER_BYTES, MalformedError, answer_from, chat_body

MAX_REQUESTS, MAX_BYTES = 50_000, 100_000_000
"""Largest number of requests and bytes of a file. OpenAI accepts 50 000 requests and 200 MB."""
POLL_S = 30.0
"""Interval between two checks whether a batch has ended."""
_URL: Literal["/v1/chat/completions"] = "/v1/chat/completions"
_NAME = "journal"
"""The key in a batch's metadata for its name."""
_ENDED = ("completed", "expired", "cancelled", "failed")


def ask_batches(journal: Journal, model: ModelParams, requests: Sequence[Request], skip_failing: bool = False) -> None:
    """Ask different requests in batches, wait for them, and record the replies; batches of a killed run are picked up first.

    What a batch does not answer (it expired, or the endpoint failed) goes into another batch, as long as each batch answers
    some requests.

    Raises:
        EndpointError: there is no key or a wrong one, a batch is refused, or it ended without any reply.
        BudgetSpent, LimitReached: the next request does not fit and no batch is in progress.
    """
    todo = {request.key: request for request in requests}
    with _errors(model), batch_client(model) as client, progress("questions: batches", len(todo), "request") as advance:

        def collect(names: Sequence[str]) -> bool:
            recorded = [key for name in names for key in _collect(journal, model, client, name)]
            replied = [key for key in recorded if todo.pop(key, None) is not None]
            advance(len(replied))
            return bool(recorded)

        collect(_begun(journal, model, client))
        while todo:
            try:
                names = _submit_all(journal, model, client, list(todo.values()))
            except (BudgetSpent, LimitReached) as error:
                error.left = len(todo)
                raise
            if not collect(names):
                _without_reply(journal, model, todo, skip_failing)
                return


def _begun(journal: Journal, model: ModelParams, client: openai.OpenAI) -> list[str]:
    """Names of the batches of a killed run that exist at the endpoint. The requests of the others are sent again."""
    here = (model.endpoint, model.model)
    mine = {name: batch for name, batch in journal.batches.items() if (batch.endpoint, batch.model) == here}
    for name, batch in mine.items():
        if batch.created is None:
            found = _find(client, name)
            journal.created(name, found) if found else journal.closed(name)
    return [name for name in mine if name in journal.batches]


def _submit_all(journal: Journal, model: ModelParams, client: openai.OpenAI, waiting: list[Request]) -> list[str]:
    """Create batches of as many requests as budget and limit allow, at least one; return their names."""
    names: list[str] = []
    while waiting:
        sendings = [sending(request, worst_usd(request, model)) for request in waiting[:MAX_REQUESTS]]
        fit = journal.fitting(sendings)
        if not fit and names:  # batches in progress may cost less than is reserved for them
            break
        lines, size = [], 0
        for request in waiting[: max(fit, 1)]:
            line = {"custom_id": request.key, "method": "POST", "url": _URL, "body": chat_body(request)}
            lines.append(json.dumps(line).encode() + b"\n")
            size += len(lines[-1])
            if size > MAX_BYTES:
                break
        names.append(_submit(journal, model, client, sendings[: len(lines)], b"".join(lines)))
        waiting = waiting[len(lines) :]
    return names


def _submit(journal: Journal, model: ModelParams, client: openai.OpenAI, sendings: list[Sending], data: bytes) -> str:
    """Create one batch, and return its name."""
    name = uuid.uuid4().hex
    journal.send(sendings, name, model.endpoint)
    file = client.files.create(file=(f"{name}.jsonl", data), purpose="batch")
    journal.created(name, _create(model, client, file.id, name))
    return name


def _create(model: ModelParams, client: openai.OpenAI, file: str, name: str) -> str:
    """Create a batch of an uploaded file and return its id. If the answer is lost, look for the batch before creating it again."""
    for failures in range(model.retries + 1):
        try:
            batch = client.with_options(max_retries=0).batches.create(
                input_file_id=file, endpoint=_URL, completion_window="24h", metadata={_NAME: name}
            )
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError):
            if failures == model.retries:
                raise
            time.sleep(min(2.0**failures, POLL_S))
            if found := _find(client, name):
                return found
        else:
            return batch.id
    raise AssertionError("the last failure is raised")


def _find(client: openai.OpenAI, name: str) -> str | None:
    """The id of the batch of this name, if the endpoint has it."""
    return next(
        (batch.id for batch in client.batches.list(limit=100) if (batch.metadata or {}).get(_NAME) == name), None
    )


def _collect(journal: Journal, model: ModelParams, client: openai.OpenAI, name: str) -> list[str]:
    """Wait until a batch has ended, record its replies, and return the keys of the requests that got a reply."""
    created = journal.batches[name].created
    assert created is not None, "a batch that is waited for was created"
    try:
        while (batch := client.batches.retrieve(created)).status not in _ENDED:
            time.sleep(POLL_S)
        files = [client.files.content(each).content for each in (batch.output_file_id, batch.error_file_id) if each]
    except openai.NotFoundError:
        gone = f"{model.endpoint} has no batch {created} any more, or its files are gone"
        print(
            f"questions: {gone}; what it may have cost counts as spent, and its requests are asked again",
            file=sys.stderr,
        )
        journal.closed(name, billed=True)
        return []
    recorded = [key for content in files for key in _record(journal, model, content)]
    journal.closed(name)
    if batch.status == "failed":
        errors = (batch.errors.data if batch.errors else None) or []
        said = redacted("; ".join(str(each.message) for each in errors[:3]) or "no reason given", key_of(model))
        raise EndpointError(f"{model.endpoint} refuses batch {created}: {said}. What was answered is kept")
    return recorded


def _record(journal: Journal, model: ModelParams, content: bytes) -> Iterator[str]:
    """Record the replies in a file for requests whose replies are not recorded yet; return their keys."""
    for line in content.splitlines():
        try:
            found = json.loads(line)
            key, response = str(found["custom_id"]), found.get("response")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            print(f"questions: a batch has a line that is not a reply: {line[:80]!r}", file=sys.stderr)
            continue
        if not journal.waits(key):  # already recorded by a run that was killed
            continue
        if len(line) > MAX_ANSWER_BYTES:
            reply: Reply | None = Unanswered(f"its answer has more than {MAX_ANSWER_BYTES} bytes")
        else:
            reply = _reply(response, model, journal.held_usd(key))
        if reply is not None:
            refused = isinstance(response, dict) and response.get("status_code") != 200
            journal.record(key, reply, 0.0 if refused else journal.held_usd(key))
            yield key


def _reply(response: Any, model: ModelParams, worst: float) -> Reply | None:
    """A batch's reply to a request; None if another attempt may succeed (it expired, or the endpoint failed)."""
    status = response.get("status_code") if isinstance(response, dict) else None
    if status == 200:
        try:
            return answer_from(response.get("body"), model, worst)
        except MalformedError as error:
            return Unanswered(redacted(f"not an answer: {error}", key_of(model)))
    if isinstance(status, int) and 400 <= status < 500 and status not in TRIES:
        return Unanswered(redacted(f"status {status}: {json.dumps(response.get('body'))}", key_of(model)))
    return None


def _without_reply(journal: Journal, model: ModelParams, todo: dict[str, Request], skip_failing: bool) -> None:
    """Stop if batches answered nothing at all, as another batch would not either."""
    if not skip_failing:
        raise EndpointError(
            f"{model.endpoint}: batches of {len(todo)} requests ended without any reply. Expected some: run the same command again "
            "when the endpoint works, or leave failing requests out (--skip-failing)"
        )
    for key in todo:
        journal.record(key, Unanswered("a batch ended without a reply"))


@contextmanager
def _errors(model: ModelParams) -> Iterator[None]:
    """Make the client's errors name their endpoint, without its key."""
    try:
        yield
    except openai.APIError as error:
        raise EndpointError(
            f"{model.endpoint}: {redacted(str(error), key_of(model))}. What was answered is kept, and batches go on: run the same "
            "command again to pick them up"
        ) from None  # the text of the client's error may contain the key
