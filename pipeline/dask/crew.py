"""The workers of a Dask scheduler: which of them may be given work, and what a person is told of the others."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from typing import Any

from pipeline.config import ROOT, InputError, Settings
from pipeline.dask import remote
from pipeline.dask.checkout import Checkout, describe, disagreements
from pipeline.dask.probe import renew
from pipeline.errors import INTERRUPTED, WorkersLostError, lost_card
from pipeline.shard import settings_of
from stages.checkpoints import WeightsError

_LOOK_SECONDS = 1.0
_SAY_SECONDS = 60.0
_PAUSE_SECONDS = 1.0
_POLL_SECONDS = 0.1
_CARD_FAILURES = 2
"""How often a card may fail, in any process, before it gets no more work."""
_ITS_CARD = "its GPU failed"
_ANSWER_SECONDS = 5.0
"""A worker that is connected is given this long to describe itself before it counts as silent."""


@dataclass(frozen=True)
class Question:
    """What a worker is asked before it gets work.

    Args:
        settings: as JSON.
        probe: a file in the store of the process that asks.
        needs: checks, each with its argument; they raise where the worker lacks something.
    """

    settings: str
    probe: Path | None
    needs: tuple[tuple[Callable[[Any], None], Any], ...]


@dataclass(frozen=True)
class Answer:
    """How a worker would compute; the first need that it does not meet; what CUDA says where its card turned out to be lost."""

    checkout: Checkout
    lacks: str | None = None
    card: str | None = None


def describe_worker(asked: Question) -> Answer:
    """Describe the worker that this runs on, and make the checks."""
    checkout = describe(settings_of(asked.settings), asked.probe)
    for check, what in asked.needs:
        try:
            check(what)
        except (InputError, WeightsError) as error:
            return Answer(checkout, lacks=str(error))
        except RuntimeError as error:
            if said := lost_card(error):
                return Answer(checkout, card=said)
            raise
    return Answer(checkout)


def _end() -> None:
    """End the worker's process as soon as this call is answered. Runs on the worker."""
    Timer(0.1, os._exit, (INTERRUPTED,)).start()


class Crew:
    """Workers that were asked what they are. Only those that agree with this process are usable.

    ``probe``: an object in the store, which they have to see (:mod:`pipeline.dask.probe`).
    """

    def __init__(self, client: Any, settings: Settings, probe: Path | None = None) -> None:
        self.client = client
        self.remote = remote.runner()
        self.address: str = client.scheduler.address
        self._settings, self._probe = settings.model_dump_json(), probe
        self._needs: list[tuple[Callable[[Any], None], Any]] = []
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

    def require(self, check: Callable[[Any], None], what: Any) -> None:
        """Run a check on every worker, and later on each that joins, before it gets work.

        Waits until all that are connected have answered. One that is silent for ``run.worker_timeout_s`` gets no work until it
        has.

        Raises:
            InputError: the check fails on a worker; names it. Others as :meth:`usable`.
        """
        if (check, what) in self._needs:
            return
        self._needs.append((check, what))
        self._asked.clear()  # so that all of them are asked again
        self._usable.clear()
        until = time.monotonic() + self._timeout_s
        while not self.usable() or (self._silent() and time.monotonic() < until):
            self._looked = -float("inf")
            time.sleep(_POLL_SECONDS)

    def _silent(self) -> set[str]:
        """Workers that have not answered yet."""
        return self._asked.keys() - self._usable.keys() - self._unfit.keys()

    def _look(self) -> None:
        if self.client.status != "running":
            raise WorkersLostError(f"the Dask scheduler {self.address} went away")
        if self._local:
            self._bring_back()
        info = self.client.scheduler_info(n_workers=-1)
        workers = dict(info.get("workers", {}))
        for known in (self._asked, self._usable, self._unfit):
            for address in known.keys() - workers.keys():
                del known[address]
        new = workers.keys() - self._asked.keys()
        if new and self._probe is not None:
            renew(self._probe)
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

    def _bring_back(self) -> None:
        """Start workers again that the cluster of this command has given up: those that did not come back in time after a crash."""
        cluster = self.client.cluster
        if len(cluster.workers) < (wanted := len(cluster.worker_spec)):
            cluster.scale(wanted)  # to as many as it has: those that are missing are started

    def _ask(self, address: str, answer: SimpleQueue[Any]) -> None:
        """Ask a worker what it is, apart from its tasks, so that a busy one answers, too."""
        payload = remote.pack(describe_worker, Question(self._settings, self._probe, tuple(self._needs)))
        try:
            found = self.client.run(remote.in_a_thread(), payload, workers=[address], on_error="return")
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
        found, lacks, lost = found.checkout, found.lacks, found.card
        if lines := disagreements(self._here, found):
            raise InputError(
                f"the Dask worker {address} (process {found.process} on {found.host}, started in {found.root}) would not compute "
                "what is asked for here:\n"
                + "".join(f"  {line}\n" for line in lines)
                + f"stop it; {self.how_to_start()}"
            )
        if lacks is not None:
            raise InputError(
                f"the Dask worker {address} (process {found.process} on {found.host}, started in {found.root}) lacks what the "
                f"work here needs: {lacks}\ngive it that, or stop it; {self.how_to_start()}"
            )
        place = found.host, found.cards[0] if found.cards else ""
        if self._failed[place] >= _CARD_FAILURES:
            self._unfit[address] = _ITS_CARD
            return
        self._usable[address] = threads
        if found.cards and address not in self._cards:
            self._share(address, *place)
        self._cards[address] = place
        if lost is not None:
            self.retire(address, lost)

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
        """Warn where a worker computes on the same card as another one: each then has half of it, and its memory runs out."""
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
        silent = self._silent()
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
