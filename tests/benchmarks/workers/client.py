"""Dask's client, scheduler and workers under a virtual clock, as far as ``pipeline.dask`` uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from tests.benchmarks.workers.clock import Clock, Outcome

Function = Callable[..., Coroutine[Any, Any, Any]]


class Worker:
    """A worker: tasks run in the order in which they came, ``threads`` at a time."""

    def __init__(self, clock: Clock, threads: int, hop_s: float) -> None:
        self.clock, self.hop_s = clock, hop_s
        self.tasks: list[tuple[Callable[[], Any], Outcome, float]] = []
        self.busy = 0
        for _ in range(threads):
            clock.start(self._work, self)

    def _work(self) -> None:
        while True:
            self.clock.wait(lambda: bool(self.tasks))
            task, outcome, at = self.tasks.pop(0)
            self.clock.sleep(at - self.clock.now)  # it is still on its way
            self.busy += 1
            found: list[Any] = []
            error: list[BaseException] = []
            try:
                found.append(task())
            except BaseException as raised:  # noqa: BLE001 (Dask's own, as the project's errors are answers)
                error.append(raised)
            self.busy -= 1
            self.clock.start(lambda found=found, error=error, outcome=outcome: self._tell(outcome, found, error))

    def _tell(self, outcome: Outcome, found: list[Any], error: list[BaseException]) -> None:
        self.clock.sleep(self.hop_s)

        def answer() -> Any:
            if error:
                raise error[0]
            return found[0]

        outcome.settle(answer)

    @property
    def load(self) -> int:
        """Tasks that it has."""
        return len(self.tasks) + self.busy


class Client:
    """``distributed.Client``, connected to a cluster of workers.

    Args:
        submit_s: seconds that this process takes to send a task, and to take an answer.
        hop_s: seconds from one process to another.
    """

    status = "running"
    cluster = SimpleNamespace(workers={}, worker_spec={})
    scheduler = SimpleNamespace(address="tcp://virtual")

    def __init__(self, clock: Clock, workers: int, threads: int, submit_s: float, hop_s: float) -> None:
        self.clock, self.submit_s, self.hop_s = clock, submit_s, hop_s
        self.workers = {f"tcp://worker-{number}": Worker(clock, threads, hop_s) for number in range(workers)}
        self.threads = threads

    def scheduler_info(self, n_workers: int) -> Mapping[str, Any]:
        """Which workers there are."""
        return {"workers": {address: {"nthreads": self.threads} for address in self.workers}}

    def run(self, function: Function, *given: Any, workers: Sequence[str], on_error: str) -> dict[str, Any]:
        """Run a function on workers, next to their tasks."""
        return {address: asyncio.run(function(*given)) for address in workers}

    def submit(self, function: Callable[..., Any], given: bytes, *, pure: bool, workers: Sequence[str]) -> Outcome:
        """Give a task to the worker that has the least to do."""
        self.clock.sleep(self.submit_s)
        outcome = Outcome(self.clock)
        worker = min((self.workers[address] for address in workers), key=lambda one: one.load)
        worker.tasks.append((lambda: function(given), outcome, self.clock.now + 2 * self.hop_s))
        return outcome

    def cancel(self, futures: Sequence[Outcome]) -> None:
        """Does nothing, as tasks are only cancelled at the end."""
