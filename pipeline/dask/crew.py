"""The workers of a Dask scheduler: which of them may be given work, and what a person is told of the others."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections import Counter
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.dask import remote
from pipeline.dask.checkout import Checkout, describe, disagreements
from pipeline.errors import INTERRUPTED, WorkersLostError
from pipeline.shard import settings_of

_LOOK_SECONDS = 1.0
_SAY_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_CARD_FAILURES = 2
"""So often a card may fail before it gets no more work, in whatever process."""
_ITS_CARD = "its GPU failed"
_ANSWER_SECONDS = 5.0
"""A worker that is connected is given this long to describe itself before it counts as silent."""


def describe_worker(asked: tuple[str, Path | None]) -> Checkout:
    """Runs on a worker: how it would compute with these settings, and whether it sees this object of the store."""
    settings, probe = asked
    return describe(settings_of(settings), probe)


def _end() -> None:
    """Runs on a worker: its process ends as soon as this was answered."""
    Timer(0.1, os._exit, (INTERRUPTED,)).start()


class Crew:
    """Workers that were asked what they are. Only those that agree with this process are usable.

    ``probe``: an object in the store, which they have to see (:mod:`pipeline.dask.probe`).
    """

    def __init__(self, client: Any, settings: Settings, probe: Path | None = None) -> None:
        self.client = client
        self.remote = remote.runner()
        self.address: str = client.scheduler.address
        self._ask_for = settings.model_dump_json(), probe
        self._timeout_s = settings.run.worker_timeout_s
        self._local = client.cluster is not None
        self._here = describe(settings, probe)
        self._asked: dict[str, SimpleQueue[Any]] = {}  # address -> its description, once it came
        self._usable: dict[str, int] = {}  # address -> threads
        self._unfit: dict[str, str] = {}  # address -> why
        self._cards: dict[str, tuple[str, str]] = {}  # address -> host and first card
        self._failed: Counter[tuple[str, str]] = Counter()  # host and first card -> how often it failed
        self._looked = -float("inf")
        self._alone_since: float | None = None
        self._said = -float("inf")

    def usable(self) -> dict[str, int]:
        """Address -> threads of the workers that may be given tasks.

        Says on stderr, at once and every minute, that no worker is there.

        Raises:
            InputError: a worker has other code, other weights, another store or another data set.
            WorkersLostError: the scheduler went away, or there was no usable worker for ``run.worker_timeout_s``.
        """
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS or not self._usable:
            self._looked = now
            self._look()
        if self._usable:
            self._alone_since = None
        else:
            self._wait(now)
        return self._usable

    def _look(self) -> None:
        if self.client.status != "running":
            raise WorkersLostError(f"the Dask scheduler {self.address} went away")
        info = self.client.scheduler_info(n_workers=-1)
        workers = dict(info.get("workers", {}))
        for known in (self._asked, self._usable, self._unfit):
            for address in known.keys() - workers.keys():
                del known[address]
        new = workers.keys() - self._asked.keys()
        for address in new:
            self._asked[address] = SimpleQueue()
            Thread(target=self._ask, args=(address, self._asked[address]), daemon=True).start()
        until = time.monotonic() + _PAUSE_SECONDS
        for address, answer in list(self._asked.items()):
            if address not in self._usable and address not in self._unfit:
                with contextlib.suppress(Empty):
                    pause = max(0.0, until - time.monotonic()) if address in new and not self._usable else 0.0
                    self._judge(
                        address, int(workers[address]["nthreads"]), answer.get(timeout=pause or None, block=bool(pause))
                    )

    def _ask(self, address: str, answer: SimpleQueue[Any]) -> None:
        """Asked apart from its tasks, so that a busy worker answers, too."""
        payload = remote.pack(describe_worker, self._ask_for)
        try:
            found = self.client.run(self.remote, payload, workers=[address], on_error="return")
        except Exception as error:  # noqa: BLE001 (whatever Dask raises of a connection that ends)
            found = {address: error}
        answer.put(found.get(address, OSError("it is not there any more")))

    def _judge(self, address: str, threads: int, answer: Any) -> None:
        if isinstance(answer, OSError):  # it ended meanwhile; should it still be there, it is asked again
            del self._asked[address]
            return
        if isinstance(answer, BaseException):
            raise InputError(f"the Dask worker {address} cannot say what it is: {answer}; {self.how_to_start()}")
        kind, found = remote.unpack(answer)
        if kind == remote.FAILED:  # e.g. its settings have other parameters
            raise InputError(
                f"the Dask worker {address} cannot do what is asked for here: {found}; {self.how_to_start()}"
            )
        if kind == remote.UNLOADABLE:
            self._unfit[address] = found
            self._say(
                f"the Dask worker {address} cannot load the project and gets no work: {found}; {self.how_to_start()}"
            )
            return
        if lines := disagreements(self._here, found):
            raise InputError(
                f"the Dask worker {address} (process {found.process} on {found.host}, started in {found.root}) would not compute "
                "what is asked for here:\n"
                + "".join(f"  {line}\n" for line in lines)
                + f"stop it; {self.how_to_start()}"
            )
        place = found.host, found.cards[0] if found.cards else ""
        if self._failed[place] >= _CARD_FAILURES:
            self._unfit[address] = _ITS_CARD
            return
        self._usable[address] = threads
        if found.cards:
            self._share(address, *place)
        self._cards[address] = place

    def retire(self, address: str, said: str) -> None:
        """Give a worker whose card failed no more work, and end its process. A nanny starts another, which is tried once more."""
        place = self._cards.get(address, ("", ""))
        if self._usable.pop(address, None) is None:
            return  # another of its tasks said so already
        self._failed[place] += 1
        self._unfit[address] = _ITS_CARD
        last = self._failed[place] >= _CARD_FAILURES
        self._say(
            f"warning: the GPU of the Dask worker {address} failed ({said}); its work goes to the others, and the card is "
            + ("left out" if last else "tried once more in a new process")
        )
        Thread(
            target=self.client.run, args=(_end,), kwargs={"workers": [address], "on_error": "ignore"}, daemon=True
        ).start()

    def _share(self, address: str, host: str, card: str) -> None:
        """Say it where a worker computes on the same card as another one: each then has half of it, and its memory runs out."""
        others = [other for other, place in self._cards.items() if place == (host, card) and other in self._usable]
        if others and not self._local:
            self._say(
                f"warning: the Dask workers {others[0]} and {address} both use card {card} of {host}; give each its own: "
                f"CUDA_VISIBLE_DEVICES=N python -m dask worker {self.address} --nworkers 1 --nthreads 2"
            )

    def _wait(self, now: float) -> None:
        if self._alone_since is None:
            self._alone_since = now
        waited = now - self._alone_since
        silent = self._asked.keys() - self._unfit.keys()
        if waited >= self._timeout_s:
            raise WorkersLostError(
                f"{self._state(len(silent))} for {waited:.0f} s (run.worker_timeout_s); {self.how_to_start()}"
            )
        if now - self._said >= _SAY_SECONDS and (not silent or waited >= _ANSWER_SECONDS):
            self._said = now
            rest = f"waiting for one, {self._timeout_s - waited:.0f} s more"
            self._say(f"{self._state(len(silent))}; {rest}; {self.how_to_start()}")

    def _state(self, silent: int) -> str:
        if not self._asked:
            return f"no worker is connected to the Dask scheduler {self.address}"
        failed = sum(why == _ITS_CARD for why in self._unfit.values())
        counts = {
            "cannot load the project": len(self._unfit) - failed,
            "have GPUs that failed": failed,
            "gave no answer": silent,
        }
        parts = [f"{count} {what}" for what, count in counts.items() if count]
        return f"no worker of the Dask scheduler {self.address} can be used ({', '.join(parts)})"

    def how_to_start(self) -> str:
        """What to type for a worker that can be used."""
        if self._local:
            return "this command starts its own workers; run it again"
        return f"to start one: cd {shlex.quote(str(ROOT))} && python -m dask worker {self.address} --nworkers 1 --nthreads 2"

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
