"""Asks an OpenAI-compatible endpoint, with many requests at once, and records every answer as soon as it arrives."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stages.progress import left, progress
from stages.questions.connection import Create, Failed, Refused, async_client, attempt, key_of
from stages.questions.errors import BudgetSpent, EndpointError, LimitReached
from stages.questions.journal import Journal, Sending, sending
from stages.questions.params import ModelParams
from stages.questions.prices import worst_usd
from stages.questions.requests import Answer, Reply, Request, Unanswered
from stages.questions.wire import MAX_ANSWER_BYTES, MalformedError, answer_from, chat_body

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
"""First and longest wait between attempts at a request, unless the endpoint asks for another time; it doubles."""
LONGEST_PAUSE_S = 900.0
"""An endpoint that asks to wait for longer than this stops the run instead."""
REFUSED_IN_A_ROW = 10
"""After this many refused requests without an answer in between, the endpoint or the model's parameters are considered wrong."""


class Job(NamedTuple):
    """A request of any kind. ``body``: makes the body to send, in a thread. ``read``: extracts the answer from the response."""

    sending: Sending
    body: Callable[[], dict[str, Any]]
    read: Callable[[dict[str, Any]], Answer]


def ask_all(
    journal: Journal,
    model: ModelParams,
    requests: Iterable[Request],
    again: bool = False,
    skip_failing: bool = False,
) -> list[Reply]:
    """Return the replies to requests in their order; only requests without a reply in the journal are sent, each once.

    ``Picture.load`` is called in threads, for several requests at once.

    Args:
        again: ask those again that the endpoint refused earlier.
        skip_failing: a request whose attempts all fail counts as refused even if no other request was answered meanwhile.

    Raises:
        EndpointError: the key is missing or wrong, or every attempt at the endpoint fails.
        BudgetSpent, LimitReached: before the first request that does not fit.
        ValueError: a request is for another model.
    """
    keys: list[str] = []
    todo: dict[str, Request] = {}
    for request in requests:
        if request.model != model.model:
            raise ValueError(
                f"{request.step} of {request.subject}: found model {request.model!r}, expected {model.model!r}"
            )
        keys.append(request.key)
        if request.key not in journal or (again and isinstance(journal.answer(request.key), Unanswered)):
            todo.setdefault(request.key, request)
    if todo and model.mode == "batch":
        from stages.questions.batch import ask_batches

        ask_batches(journal, model, list(todo.values()), skip_failing)
    elif todo:
        jobs = [_chat_job(request, model) for request in todo.values()]
        title = f"questions: {', '.join(dict.fromkeys(request.step for request in todo.values()))}"
        ask_jobs(journal, model, jobs, lambda client: client.chat.completions, title, MAX_ANSWER_BYTES, skip_failing)
    return [journal.answer(key) for key in keys]


def _chat_job(request: Request, model: ModelParams) -> Job:
    usd = worst_usd(request, model)
    return Job(sending(request, usd), lambda: chat_body(request), lambda document: answer_from(document, model, usd))


def ask_jobs(
    journal: Journal,
    model: ModelParams,
    jobs: list[Job],
    resource: Callable[[Any], Any],
    title: str,
    max_bytes: int,
    skip_failing: bool = False,
) -> None:
    """Ask different requests, up to ``model.concurrency`` at once, and record their replies.

    Args:
        resource: resource of the client, such as ``chat.completions``. max_bytes: largest answer; larger ones are not read to
            the end.

    Raises:
        The errors of :func:`ask_all`, after the requests in progress were awaited and recorded.
    """
    key_of(model)  # before anything is sent
    with progress(title, len(jobs), "request") as advance:
        run = _Run(journal, model, iter(jobs), max_bytes, skip_failing, advance)
        try:
            asyncio.run(_ask(run, resource, min(model.concurrency, len(jobs))))
        except (BudgetSpent, LimitReached) as error:
            error.left = len(jobs) - run.replies
            raise


async def _ask(run: _Run, resource: Callable[[Any], Any], workers: int) -> None:
    async with async_client(run.model) as client:
        create = resource(client).with_streaming_response.create
        results = await asyncio.gather(*(_work(run, create) for _ in range(workers)), return_exceptions=True)
    for error in results:
        if error is not None:
            raise error


@dataclass
class _Run:
    """State that the workers share."""

    journal: Journal
    model: ModelParams
    jobs: Iterator[Job]
    max_bytes: int
    skip_failing: bool
    advance: Callable[[int], None]
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    paused_until: float = 0.0  # time of the loop's clock before which the endpoint asks not to send anything
    told: bool = False  # whether the user was told that attempts fail
    answered: int = 0
    replies: int = 0
    refused_in_a_row: int = 0


async def _work(run: _Run, create: Create) -> None:
    """Send one request after the other until all are sent, or until a worker stops all."""
    try:
        for job in run.jobs:
            body = await asyncio.to_thread(job.body)
            await _ask_one(run, create, job, body)
            if run.stopped.is_set():
                return
    except BaseException:
        run.stopped.set()
        raise


async def _ask_one(run: _Run, create: Create, job: Job, body: dict[str, Any]) -> None:
    """Try a request until it has a reply, no attempt is left, or a worker stops all."""
    begun = seen = run.answered
    failures, wait_s = 0, 0.0
    while await _turn(run, wait_s):
        run.journal.send([job.sending])
        try:
            answer = _read(job, await attempt(create, body, run.model, run.max_bytes))
        except Refused as error:
            _refuse(run, job, error)
            return
        except EndpointError as error:
            run.journal.release(job.sending.key, str(error))
            raise
        except Failed as error:
            if not error.billed:
                run.journal.release(job.sending.key, error.reason)
            failures += 1
            if error.busy and run.answered > seen:  # a rate limit is not a failure while other requests are answered
                failures, seen = 0, run.answered
            if failures > run.model.retries:
                _give_up(run, job, error, run.answered > begun)
                return
            wait_s = _wait(run, error, failures)
            if not (run.told or run.answered):
                run.told = True
                print(f"questions: {run.model.endpoint}: {error.reason}; trying again", file=sys.stderr, flush=True)
        else:
            run.journal.record(job.sending.key, answer)
            run.answered += 1
            run.refused_in_a_row = 0
            _count(run)
            return


def _read(job: Job, document: dict[str, Any]) -> Answer:
    try:
        return job.read(document)
    except MalformedError as error:
        raise Failed(f"not an answer: {error}", billed=True) from error


async def _turn(run: _Run, wait_s: float) -> bool:
    """Wait this time, and as long as the endpoint asks not to send anything; return whether to go on."""
    clock = asyncio.get_running_loop().time
    until = clock() + wait_s
    while (rest := max(until, run.paused_until) - clock()) > 0 and not run.stopped.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(run.stopped.wait(), rest)
    return not run.stopped.is_set()


def _wait(run: _Run, error: Failed, failures: int) -> float:
    """Seconds until the next attempt. If the endpoint is busy, all workers pause."""
    own = min(FIRST_WAIT_S * 2.0 ** max(failures - 1, 0), LONGEST_WAIT_S) * random.uniform(0.75, 1.0)  # not all at once
    wait_s = error.wait_s or own
    if wait_s > LONGEST_PAUSE_S:
        raise EndpointError(
            f"{run.model.endpoint} asks to wait {left(wait_s)}: {error.reason}. What was answered is kept; run the same command "
            "again then"
        )
    if error.busy or error.wait_s is not None:
        run.paused_until = max(run.paused_until, asyncio.get_running_loop().time() + wait_s)
    return wait_s


def _refuse(run: _Run, job: Job, error: Refused) -> None:
    run.journal.record(job.sending.key, Unanswered(error.reason), job.sending.usd if error.billed else 0.0)
    _count(run)
    run.refused_in_a_row += not error.billed
    if run.refused_in_a_row >= REFUSED_IN_A_ROW:
        raise EndpointError(
            f"{run.model.endpoint} refused {run.refused_in_a_row} requests in a row, the last one ({job.sending.step} of "
            f"{job.sending.subject}) with {error.reason}. Expected an endpoint that takes these requests: check endpoint, model "
            "and parameters, and ask the refused ones again (--again)"
        )


def _give_up(run: _Run, job: Job, error: Failed, others: bool) -> None:
    """Count a request as refused if others were answered meanwhile, as the request is then to blame and not the endpoint."""
    tried = f"{run.model.retries + 1} attempts failed, the last one with {error.reason}"
    if error.busy or not (others or run.skip_failing):
        raise EndpointError(
            f"{run.model.endpoint}: {job.sending.step} of {job.sending.subject}: {tried}, and nothing else was answered meanwhile. "
            "What was answered is kept: run the same command again when the endpoint works, or leave "
            "failing requests out (--skip-failing)"
        )
    print(f"questions: {job.sending.step} of {job.sending.subject} is left out: {tried}", file=sys.stderr)
    run.journal.record(job.sending.key, Unanswered(tried), job.sending.usd if error.billed else 0.0)
    _count(run)


def _count(run: _Run) -> None:
    run.replies += 1
    run.advance(1)
