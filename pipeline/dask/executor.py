"""Runs tasks on dask.distributed: workers are checked before they get work, and only what a task returned counts as a result."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pipeline.config import InputError, Settings
from pipeline.dask import remote
from pipeline.dask.cards import nanny_of, visible_cards
from pipeline.dask.crew import Crew
from pipeline.dask.probe import probe_of
from pipeline.errors import WorkersLostError

Task = TypeVar("Task")
Result = TypeVar("Result")

_POLL_SECONDS = 0.5
_FETCH_SECONDS = 30.0
_THREADS, _AHEAD = 2, 2
"""Threads of a worker that is started here: while one commits a shard, the other computes the next one. And how many tasks a worker
with fewer threads is given, so that the next task is there when one ends."""
_LOSSES = 3
"""How often a task is given out again after every worker that had it was lost; Dask itself tries another worker first."""
_PENDING = "pending"
"""Kind of an answer that has not come yet."""


class DaskExecutor:
    """Runs tasks on Dask workers, connected to (or started) when the first task comes; a worker keeps its models."""

    def __init__(self, settings: Settings, stack: contextlib.ExitStack) -> None:
        self.settings = settings
        self.stack = stack
        self._crew: Crew | None = None

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """As :meth:`Executor.map`, in the order in which they end.

        Raises:
            InputError: the scheduler cannot be reached, or a worker has other code, another store or another data set.
            WorkersLostError: the scheduler or the workers went away, or there were none for ``run.worker_timeout_s``.
        """
        crew = self._connected()
        client = crew.client
        waiting = deque(range(len(tasks)))
        flying: dict[Any, tuple[int, frozenset[str]]] = {}
        losses: Counter[int] = Counter()
        ended: SimpleQueue[Any] = SimpleQueue()

        def again(future: Any) -> None:
            number, _ = flying.pop(future)
            waiting.appendleft(number)
            losses[number] += 1
            if losses[number] > _LOSSES:
                raise WorkersLostError(
                    f"every worker that was given {tasks[number]!r:.200} was lost, {losses[number]} times"
                )

        try:
            while waiting or flying:
                usable = crew.usable()
                for future in [
                    f for f, (_, had) in flying.items() if f.status == "pending" and not had & usable.keys()
                ]:
                    client.cancel([future])
                    again(future)
                room = sum(max(_AHEAD, threads) for threads in usable.values()) - len(flying)
                for number in [waiting.popleft() for _ in range(min(room, len(waiting)))]:
                    payload = remote.pack(function, tasks[number])
                    future = client.submit(crew.remote, payload, pure=False, workers=list(usable))
                    flying[future] = number, frozenset(usable)
                    future.add_done_callback(ended.put)
                for future in _some(ended, flying):
                    kind, value = self._answer(future)
                    if kind == remote.LOST_CARD:
                        crew.retire(*value)
                        again(future)
                    elif kind == remote.DONE:
                        yield flying.pop(future)[0], value
        finally:
            if client.status == "running":
                with contextlib.suppress(Exception):
                    client.cancel(list(flying))

    def require(self, check: Callable[[Task], None], what: Task) -> None:
        """As :meth:`Executor.require`. InputError names a worker where it fails; others as :meth:`map`."""
        self._connected().require(check, what)

    def _answer(self, future: Any) -> tuple[str, Any]:
        """Kind and value of a task's answer: a result, a lost card, or that it has to be waited for. Whatever else is raised."""
        assert self._crew is not None
        status = future.status
        if status == "cancelled":
            raise WorkersLostError(
                f"the Dask scheduler {self._crew.address} went away, or gave up a task: {future.exception()}"
            )
        if status == "error":
            raise _error_of_dask(future.exception())
        if status != "finished":  # lost with its worker before it was fetched: Dask computes it again
            return _PENDING, None
        try:
            packed = future.result(timeout=_FETCH_SECONDS)
        except TimeoutError:
            return _PENDING, None
        kind, value = remote.unpack(packed)
        if kind == remote.FAILED:
            raise value
        if kind == remote.UNLOADABLE:
            raise InputError(f"a Dask worker cannot load a task: {value}; {self._crew.how_to_start()}")
        return kind, value

    def _connected(self) -> Crew:
        if self._crew is None:
            from distributed import Client, LocalCluster

            run = self.settings.run
            if run.scheduler:
                try:
                    client = self.stack.enter_context(Client(run.scheduler))
                except OSError as error:
                    raise InputError(
                        f"--scheduler: cannot reach {run.scheduler}: {error}; start one there (docs/cluster.md), "
                        "or leave out --scheduler"
                    ) from error
            else:
                try:
                    cluster = LocalCluster(
                        n_workers=run.workers,
                        threads_per_worker=_THREADS,
                        processes=True,
                        worker_class=nanny_of(() if run.device == "cpu" else visible_cards()),
                        host="127.0.0.1",
                        dashboard_address="127.0.0.1:0",
                        silence_logs=logging.ERROR,
                    )
                except (OSError, RuntimeError) as error:
                    raise WorkersLostError(f"{run.workers} workers could not be started here: {error}") from error
                client = self.stack.enter_context(Client(self.stack.enter_context(cluster)))
            self.join(client)
        assert self._crew is not None
        return self._crew

    def join(self, client: Any) -> None:
        """Work with what a client is connected to."""
        probe = self.stack.enter_context(probe_of(self.settings.store_path))
        self._crew = Crew(client, self.settings, probe)


def _some(ended: SimpleQueue[Any], flying: Mapping[Any, Any]) -> list[Any]:
    """Futures of ``flying`` that ended; waits a moment for one. All are looked at: a lost connection reports none."""
    with contextlib.suppress(Empty):
        ended.get(timeout=_POLL_SECONDS)
        while True:
            ended.get_nowait()
    return [future for future in flying if future.status != "pending"]


def _error_of_dask(error: BaseException) -> BaseException:
    """A task's own errors come back as answers: this one is Dask's."""
    if isinstance(error, Exception) and type(error).__name__ == "KilledWorker":
        return error
    return InputError(
        f"Dask could not run a task: {type(error).__name__}: {error}; the scheduler and the workers need the Python and the "
        "packages of requirements.lock"
    )
