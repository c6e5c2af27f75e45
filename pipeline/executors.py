"""Where tasks run: in this process, or on dask.distributed. A task is a shard; only its small result travels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from pipeline.config import Settings

Task = TypeVar("Task")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function over tasks."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (number of the task, its result) as they come; the first error ends the run."""

    def require(self, check: Callable[[Any], None], what: Any) -> None:
        """Run a check in every process that may be given tasks, now and later; raises what it raises."""


class LocalExecutor:
    """One after another, in this process."""

    def map(self, function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[tuple[int, Result]]:
        """As :meth:`Executor.map`, in order."""
        for number, task in enumerate(tasks):
            yield number, function(task)

    def require(self, check: Callable[[Task], None], what: Task) -> None:
        """As :meth:`Executor.require`."""
        check(what)

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


@contextlib.contextmanager
def open_executor(settings: Settings) -> Iterator[Executor]:
    """The executor that ``run`` names; what it starts (a LocalCluster on 127.0.0.1) ends with the block."""
    if settings.run.executor == "local":
        yield LocalExecutor()
        return
    from pipeline.dask.executor import DaskExecutor

    with contextlib.ExitStack() as stack:
        yield DaskExecutor(settings, stack)
