"""Where tasks run: in this process, or on dask.distributed. A task is a shard; only its small result travels."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

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


class DaskExecutor:
    """On the workers of a ``distributed.Client``; a worker keeps its models from task to task."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """As :meth:`Executor.map`, in the order in which they end."""
        from distributed import as_completed

        futures = [self.client.submit(function, task, pure=False) for task in tasks]
        numbers = {future.key: number for number, future in enumerate(futures)}
        try:
            for future, result in as_completed(futures, with_results=True):
                yield numbers[future.key], result
                future.release()
        finally:
            self.client.cancel(futures)


@contextlib.contextmanager
def open_executor(run: RunParams) -> Iterator[Executor]:
    """The executor that ``run`` names; a LocalCluster is started on 127.0.0.1 and stopped with the block."""
    if run.executor == "local":
        yield LocalExecutor()
        return
    import dask
    from distributed import Client, LocalCluster

    # Fetching on fork or with threads in a worker would give a model to two tasks at once.
    dask.config.set({"distributed.worker.daemon": False, "distributed.comm.timeouts.connect": "60s"})
    with contextlib.ExitStack() as stack:
        if run.scheduler:
            client = stack.enter_context(Client(run.scheduler))
        else:
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=run.workers,
                    threads_per_worker=1,
                    processes=True,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=logging.ERROR,
                )
            )
            client = stack.enter_context(Client(cluster))
        yield DaskExecutor(client)
