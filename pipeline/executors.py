"""Where tasks run: in this process, or on dask.distributed. A task is a shard; only its small result travels."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from pipeline.config import InputError
from stages.params import RunParams

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function over tasks."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (number of the task, its result) as they come; the first error ends the run."""


class LocalExecutor:
    """One after another, in this process."""

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """As :meth:`Executor.map`, in order."""
        for number, task in enumerate(tasks):
            yield number, function(task)

    def finish_behind(self, begin: Callable[[Task], Callable[[], Result]], tasks: Sequence[Task]) -> None:
        """``begin(task)()`` for every task; what ``begin`` returns runs in another thread while the next task is begun.

        At most one is unfinished when another is begun, and none when this ends, even by an error or Ctrl-C.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="finish") as pool:
            behind: list[Future[Result]] = []
            for task in tasks:
                try:
                    finish = begin(task)
                except BaseException as error:
                    if behind and (other := behind.pop().exception()):
                        error.add_note(f"The work before it failed, too: {type(other).__name__}: {other}")
                    raise
                while behind:
                    behind.pop().result()
                behind.append(pool.submit(finish))
            while behind:
                behind.pop().result()


class DaskExecutor:
    """On dask.distributed, which is connected to (or started) when the first task comes; a worker keeps its models."""

    def __init__(self, run: RunParams, stack: contextlib.ExitStack) -> None:
        self.run = run
        self.stack = stack
        self._client: Any = None

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """As :meth:`Executor.map`, in the order in which they end."""
        from distributed import as_completed

        client = self._connect()
        futures = [client.submit(function, task, pure=False) for task in tasks]
        numbers = {future.key: number for number, future in enumerate(futures)}
        try:
            for future, result in as_completed(futures, with_results=True):
                yield numbers[future.key], result
                future.release()
        finally:
            client.cancel(futures)

    def _connect(self) -> Any:
        if self._client is None:
            from distributed import Client, LocalCluster

            if self.run.scheduler:
                try:
                    self._client = self.stack.enter_context(Client(self.run.scheduler))
                except OSError as error:
                    raise InputError(f"--scheduler: cannot reach {self.run.scheduler}: {error}") from error
            else:
                cluster = LocalCluster(
                    n_workers=self.run.workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                )
                self._client = self.stack.enter_context(Client(self.stack.enter_context(cluster)))
        return self._client


@contextlib.contextmanager
def open_executor(run: RunParams) -> Iterator[Executor]:
    """The executor that ``run`` names; what it starts (a LocalCluster on 127.0.0.1) ends with the block."""
    with contextlib.ExitStack() as stack:
        yield LocalExecutor() if run.executor == "local" else DaskExecutor(run, stack)
