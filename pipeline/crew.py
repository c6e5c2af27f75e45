"""The workers of a Dask scheduler: which of them may be given work, and what a person is told of the others."""

from __future__ import annotations

import sys
import time
from typing import Any

from pipeline import remote
from pipeline.checkout import Checkout, describe, disagreements
from pipeline.config import ROOT, InputError, Settings
from pipeline.errors import WorkersLostError
from pipeline.shard import settings_of

_LOOK_SECONDS = 1.0
_SAY_SECONDS = 60.0
_ANSWER_SECONDS = 5.0
"""A worker that is connected is given this long to describe itself before it counts as silent."""


def describe_worker(settings: str) -> Checkout:
    """Runs on a worker: how it would compute with these settings."""
    return describe(settings_of(settings))


class Crew:
    """Workers that were asked what they are. Only those that agree with this process are usable."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self.client = client
        self.remote = remote.runner()
        self.address: str = client.scheduler.address
        self._settings = settings.model_dump_json()
        self._timeout_s = settings.run.worker_timeout_s
        self._local = client.cluster is not None
        self._here = describe(settings)
        self._asked: dict[str, Any] = {}  # address -> the future of its description
        self._usable: dict[str, int] = {}  # address -> threads
        self._unfit: dict[str, str] = {}  # address -> why
        self._looked = -float("inf")
        self._alone_since: float | None = None
        self._said = -float("inf")

    def usable(self) -> dict[str, int]:
        """Address -> threads of the workers that may be given tasks.

        Says on stderr, at once and every minute, when there is none.

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
        payload = remote.pack(describe_worker, self._settings)
        for address in workers.keys() - self._asked.keys():
            self._asked[address] = self.client.submit(
                self.remote, payload, pure=False, workers=[address], priority=10, key=f"describe-{address}-{id(self)}"
            )
        for address, future in self._asked.items():
            if address not in self._usable and address not in self._unfit and future.status in ("finished", "error"):
                self._judge(address, int(workers[address]["nthreads"]), future)

    def _judge(self, address: str, threads: int, future: Any) -> None:
        if future.status == "error":
            raise InputError(
                f"the Dask worker {address} cannot say what it is: {future.exception()}; {self.how_to_start()}"
            )
        kind, found = remote.unpack(future.result())
        if kind == remote.FAILED:
            raise found
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
        self._usable[address] = threads

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
        parts = [f"{len(self._unfit)} cannot load the project"] * bool(self._unfit) + [
            f"{silent} gave no answer"
        ] * bool(silent)
        return f"no worker of the Dask scheduler {self.address} can be used ({', '.join(parts)})"

    def how_to_start(self) -> str:
        """What to type for a worker that can be used."""
        if self._local:
            return "this command starts its own workers; run it again"
        return f"to start one: cd {ROOT} && python -m dask worker {self.address} --nworkers 1 --nthreads 1"

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)
