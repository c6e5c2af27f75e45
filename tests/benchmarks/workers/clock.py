"""Virtual time for real code: only one thread runs at a time, and seconds pass only where they are charged."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from queue import Empty
from typing import Any

FOREVER = float("inf")


class Actor:
    """A thread under a clock. ``place``: what it runs on, such as a worker; threads that it starts run there too."""

    def __init__(self, function: Callable[[], Any], place: Any) -> None:
        self.function, self.place = function, place
        self.ready: Callable[[], bool] = lambda: True
        self.until = 0.0
        self.done = False
        self.go = threading.Semaphore(0)


class Ended(BaseException):
    """Raised in actors that still wait when their clock ends."""


class Clock:
    """``now``: virtual seconds since the beginning. It goes on only while every actor waits.

    Actors run in the order in which they began to wait, so that what happens is the same every time. The clock ends with the
    block that it is given to; so do its threads.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[Actor] = []
        self._back = threading.Semaphore(0)
        self._here = threading.local()
        self._errors: list[BaseException] = []
        self._ended = False

    def __enter__(self) -> Clock:
        return self

    def __exit__(self, *error: Any) -> None:
        self._ended = True
        while self._waiting:
            self._waiting.pop().go.release()
            self._back.acquire()

    @property
    def place(self) -> Any:
        """Where the code that asks is running."""
        return self._here.actor.place

    def start(self, function: Callable[[], Any], place: Any = None) -> Actor:
        """Let a function run as an actor, from now on; ``place`` defaults to that of the actor which starts it."""
        actor = Actor(function, self.place if place is None else place)
        threading.Thread(target=self._run, args=(actor,), daemon=True).start()
        self._waiting.append(actor)
        return actor

    def _run(self, actor: Actor) -> None:
        actor.go.acquire()
        self._here.actor = actor
        try:
            if not self._ended:
                actor.function()
        except Ended:
            pass
        except BaseException as error:  # noqa: BLE001 (raised where the clock is run)
            self._errors.append(error)
        actor.done = True
        self._back.release()

    def run(self, until: Callable[[], bool]) -> None:
        """Let actors run until a condition holds, which is looked at between their turns.

        Raises:
            RuntimeError: all of them wait for what cannot happen. Whatever an actor raises is raised here.
        """
        while not until():
            actor = next((one for one in self._waiting if one.ready()), None)
            if actor is None:
                actor = min(self._waiting, key=lambda one: one.until, default=None)
                if actor is None or actor.until == FOREVER:
                    raise RuntimeError(f"at {self.now} s {len(self._waiting)} actors wait for each other")
                self.now = max(self.now, actor.until)
            self._waiting.remove(actor)
            actor.go.release()
            self._back.acquire()
            if self._errors:
                raise self._errors[0]

    def wait(self, ready: Callable[[], bool], seconds: float = FOREVER) -> bool:
        """Let others run until a condition holds or virtual seconds have passed; whether it holds."""
        if not self._ended and not ready():
            actor: Actor = self._here.actor
            actor.ready, actor.until = ready, self.now + seconds
            self._waiting.append(actor)
            self._back.release()
            actor.go.acquire()
        if self._ended:
            raise Ended
        return ready()

    def sleep(self, seconds: float) -> None:
        """Let virtual seconds pass."""
        if seconds > 0:
            self.wait(lambda: False, seconds)

    def monotonic(self) -> float:
        """Replacement of :func:`time.monotonic`."""
        return self.now


class Outcome:
    """A future of :mod:`concurrent.futures` or of Dask, as far as the project uses one."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.status = "pending"
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Any], Any]] = []

    def settle(self, function: Callable[[], Any]) -> None:
        """Run a function for its result or error."""
        try:
            self._value = function()
        except BaseException as error:  # noqa: BLE001 (raised by result)
            self._error = error
        self.status = "finished" if self._error is None else "error"
        for callback in self._callbacks:
            callback(self)

    def done(self) -> bool:
        """Whether it is settled."""
        return self.status != "pending"

    def result(self, timeout: float | None = None) -> Any:
        """The result, once it is there."""
        if error := self.exception(timeout):
            raise error
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The error, or None."""
        self.clock.wait(lambda: self.status != "pending", FOREVER if timeout is None else timeout)
        if self.status == "pending":
            raise CancelledError
        return self._error

    def add_done_callback(self, function: Callable[[Any], Any]) -> None:
        """Call a function with this when it is settled."""
        if self.status == "pending":
            self._callbacks.append(function)
        else:
            function(self)


class Pool:
    """A ThreadPoolExecutor."""

    def __init__(self, clock: Clock, threads: int, thread_name_prefix: str = "") -> None:
        self.clock, self.free = clock, threads
        self._submitted: list[Outcome] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: Any) -> None:
        self.shutdown()

    def submit(self, function: Callable[..., Any], *given: Any) -> Outcome:
        """Run a function as soon as a thread is free, in the order in which they were submitted."""
        outcome = Outcome(self.clock)

        def run() -> None:
            self.clock.wait(lambda: self.free > 0)
            self.free -= 1
            outcome.settle(lambda: function(*given))
            self.free += 1

        self._submitted.append(outcome)
        self.clock.start(run)
        return outcome

    def shutdown(self, cancel_futures: bool = False) -> None:
        """Wait until all is done."""
        for outcome in self._submitted:
            outcome.exception()
        self._submitted.clear()


class Queue:
    """A SimpleQueue."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._items: list[Any] = []

    def put(self, item: Any) -> None:
        """Add an item."""
        self._items.append(item)

    def get(self, timeout: float | None = None) -> Any:
        """Take the first item; queue.Empty if none comes within the virtual seconds."""
        if not self.clock.wait(lambda: bool(self._items), FOREVER if timeout is None else timeout):
            raise Empty
        return self._items.pop(0)

    def get_nowait(self) -> Any:
        """Take the first item; queue.Empty if the queue is empty."""
        return self.get(0.0)


class Lock:
    """A lock for each place that actors run on."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._taken: set[int] = set()

    def __enter__(self) -> None:
        place = id(self.clock.place)
        self.clock.wait(lambda: place not in self._taken)
        self._taken.add(place)

    def __exit__(self, *error: Any) -> None:
        self._taken.discard(id(self.clock.place))
