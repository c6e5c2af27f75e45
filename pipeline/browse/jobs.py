"""Work that takes longer than a request may: done in threads. The page asks again until the result is there."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotDone
from typing import Any

FORGOTTEN_S = 10.0
"""Work that nobody has asked for in this time is given up."""
_KEPT = 96
"""This many results are kept; those that were asked for longest ago are forgotten. Most are one number per image."""

Advance = Callable[[int, int], None]
"""Called with how much is done, and with the total."""


class NotYetError(Exception):
    """The work is not finished. ``title``: what it is; ``done`` of ``total``."""

    def __init__(self, title: str, done: int, total: int) -> None:
        super().__init__(f"{title}: {done} of {total}")
        self.title, self.done, self.total = title, done, total


class BusyError(Exception):
    """Nothing else is begun until the work in progress is finished. Says what that is."""


class _Forgotten(Exception):  # noqa: N818
    """Nobody waits for the work any longer."""


class Jobs:
    """Results by key.

    Args:
        patience_s: how long a request waits before it is told that the work goes on.
        threads: this many results are worked out at a time.
        queue: whether further work waits for a thread; otherwise it is refused.
    """

    def __init__(self, patience_s: float = 0.3, threads: int = 2, queue: bool = True) -> None:
        self._patience_s, self._threads, self._queue = patience_s, threads, queue
        self._jobs: OrderedDict[Hashable, _Job] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, "browse")

    def result(self, key: Hashable, title: str, work: Callable[[Advance], Any]) -> Any:
        """The result of ``work``, which begins when its key is first asked for; an error that it raises is raised once.

        Raises:
            NotYetError: it is not finished; ask again.
            BusyError: it was not begun, because other work is in progress and there is no queue.
        """
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                running = [each.title for each in self._jobs.values() if not each.future.done()]
                if not self._queue and len(running) >= self._threads:
                    raise BusyError(f"busy with {running[0]}; try again when that is finished")
                job = self._jobs[key] = _Job(title)
                job.future = self._pool.submit(job.run, work)
                while len(self._jobs) > _KEPT:
                    self._jobs.popitem(last=False)
            self._jobs.move_to_end(key)
            job.asked_at = time.monotonic()
        try:
            return job.future.result(self._patience_s)
        except NotDone:
            if not job.future.done():
                raise NotYetError(title, job.done, job.total) from None
            self._forget(key, job)
            raise
        except _Forgotten:
            self._forget(key, job)
            raise NotYetError(title, 0, job.total) from None
        except BaseException:
            self._forget(key, job)
            raise

    def close(self) -> None:
        """Give up all work."""
        with self._lock:
            for job in self._jobs.values():
                job.asked_at = float("-inf")
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _forget(self, key: Hashable, job: _Job) -> None:
        with self._lock:
            if self._jobs.get(key) is job:
                del self._jobs[key]


class _Job:
    def __init__(self, title: str) -> None:
        self.title, self.done, self.total, self.asked_at = title, 0, 0, time.monotonic()
        self.future: Future[Any] = Future()

    def run(self, work: Callable[[Advance], Any]) -> Any:
        return work(self._advance)

    def _advance(self, done: int, total: int) -> None:
        self.done, self.total = done, total
        if time.monotonic() - self.asked_at > FORGOTTEN_S:
            raise _Forgotten
