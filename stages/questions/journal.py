"""Records requests and answers in append-only files, so that nothing answered is asked or paid for again.

A journal is a folder with two JSON Lines files. ``prompts.jsonl`` has what was sent, one line per request: messages, and
digests of pictures. ``log.jsonl`` has the events, for each request in this order: ``sent``, with its cost in the worst case,
before it is sent; then ``answered``, ``unanswered`` (refused permanently) or ``released`` (this attempt failed and cost
nothing). A request with ``sent`` but none of these was lost by a kill or a time-out. The endpoint may have charged for it, so
it counts as spent.

The requests of a batch share one line ``sent``; ``created`` says which batch of the endpoint they became, and ``closed`` that
its replies are recorded. Keys of endpoints are in neither file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from stages.questions.errors import AskingError, BudgetSpent, JournalError, LimitReached
from stages.questions.lines import Lines
from stages.questions.requests import Answer, Reply, Request, Unanswered
from store.storage.files import make_folder, sync_folder

VERSION = 1
"""Version of the form of the files."""
LOG, PROMPTS = "log.jsonl", "prompts.jsonl"
_RESTORE = "restore both files from a copy, or move their folder away to ask everything again"
_ROUNDING_USD = 1e-9
"""Tolerance for rounding errors in sums of prices."""


class Sending(NamedTuple):
    """What is logged before a request is sent. ``usd``: its worst-case cost. ``record``: its entry in ``prompts.jsonl``."""

    key: str
    step: str
    subject: str
    model: str
    usd: float
    record: Mapping[str, Any]


@dataclass
class OpenBatch:
    """A batch whose replies are not recorded yet. ``created``: its id at the endpoint; None: it may not have been created."""

    endpoint: str
    model: str
    keys: tuple[str, ...] = field(repr=False)
    created: str | None = None


def sending(request: Request, usd: float) -> Sending:
    """The log entry of a request to a chat model. ``usd``: its worst-case cost."""
    messages = [
        {
            "role": message.role,
            "text": message.text,
            "pictures": [
                {"sha256": picture.digest, "width_px": picture.width_px, "height_px": picture.height_px}
                for picture in message.pictures
            ],
        }
        for message in request.messages
    ]
    record: dict[str, Any] = {"prompt": request.prompt, "messages": messages, "sampling": vars(request.sampling)}
    if request.body:
        record["body"] = request.body
    return Sending(request.key, request.step, request.subject, request.model, usd, record)


@contextmanager
def open_journal(
    folder: Path, budget_usd: float | None = None, limit: int | None = None, write: bool = True
) -> Iterator[Journal]:
    """Open the journal in a folder.

    Args:
        budget_usd: what all requests may cost, those of earlier runs included. limit: how many new requests may be sent while
            it is open. None: no bound.
        write: lock it for this process, and create it if it is missing; else it is only read, which is possible while another
            process writes.

    Raises:
        JournalError: another process has locked it, or its files are damaged.
    """
    journal = Journal(folder, budget_usd, limit, write)
    try:
        yield journal
    finally:
        journal.close()


class Journal:
    """Requests, their answers and their cost. :func:`open_journal` makes one.

    Memory: about 400 bytes per request; prompts and answers stay on the disk.
    """

    def __init__(self, folder: Path, budget_usd: float | None, limit: int | None, write: bool) -> None:
        self.folder, self.budget_usd, self.limit = folder, budget_usd, limit
        self.spent_usd = 0.0
        """What was paid, plus the worst case of requests in progress or lost."""
        self.batches: dict[str, OpenBatch] = {}
        """Batches whose replies are not recorded yet, by the name that the journal gave them."""
        self._replies: dict[str, int] = {}  # key -> offset in the log
        self._records: dict[str, int] = {}  # key -> offset in the prompts
        self._held: dict[str, float] = {}  # key -> worst case of the attempt that has no outcome yet
        self._new: set[str] = set()
        if write:
            make_folder(folder)
        self._log = Lines(folder / LOG, write)
        try:
            self._prompts = Lines(folder / PROMPTS, write)
        except BaseException:
            self._log.close()
            raise
        try:
            self._load()
            if write and not self._log.end:
                self._append({"journal": VERSION})
                sync_folder(folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files, which unlocks them for another process."""
        self._log.close()
        self._prompts.close()

    def __contains__(self, key: str) -> bool:
        """Whether a request has an answer or was refused."""
        return key in self._replies

    def __len__(self) -> int:
        """How many requests have a reply."""
        return len(self._replies)

    def answer(self, key: str) -> Reply:
        """Return the reply to a request by its key; KeyError if it is missing."""
        entry = self._log.read(self._replies[key])
        if "unanswered" in entry:
            return Unanswered(entry["reason"])
        return Answer(**{name: entry[name] for name in Answer.__dataclass_fields__})

    def request(self, key: str) -> dict[str, Any]:
        """Return what was sent, by a request's key: step, subject, model, prompt, messages, sampling; KeyError if never sent."""
        record = self._prompts.read(self._records[key])
        if record.get("key") != key:
            raise JournalError(f"{self._prompts.path}: found another request where {key} was written; {_RESTORE}")
        return record

    def fitting(self, sendings: Sequence[Sending]) -> int:
        """How many of the requests, from the first on, fit budget and limit. A request already sent since opening is not new."""
        total = self.spent_usd
        room = math.inf if self.limit is None else self.limit - len(self._new)
        for count, each in enumerate(sendings):
            total += each.usd
            room -= each.key not in self._new
            if room < 0 or (self.budget_usd is not None and total > self.budget_usd + _ROUNDING_USD):
                return count
        return len(sendings)

    def send(self, sendings: Sequence[Sending], batch: str | None = None, endpoint: str = "") -> None:
        """Log requests to a model that are about to be sent, and reserve what they may cost.

        Args:
            batch: a common name, if they become a batch of ``endpoint``.

        Raises:
            BudgetSpent, LimitReached: they do not fit; nothing is logged.
        """
        if (fit := self.fitting(sendings)) < len(sendings):
            raise self._refusal(sendings, fit)
        unknown = [each for each in sendings if each.key not in self._records]
        about = {each.key: {"key": each.key, "step": each.step, "subject": each.subject} for each in sendings}
        lines = [{**about[each.key], "model": each.model, **each.record} for each in unknown]
        at = self._prompts.append(lines) if lines else []
        places = {each.key: place for each, place in zip(unknown, at, strict=True)}
        sent = [
            {**about[each.key], "usd": each.usd, "at": places.get(each.key, self._records.get(each.key))}
            for each in sendings
        ]
        of_batch = {} if batch is None else {"batch": batch, "endpoint": endpoint}
        self._append({"sent": sent, "model": sendings[0].model, **of_batch})
        self._new.update(each.key for each in sendings)

    def _refusal(self, sendings: Sequence[Sending], fit: int) -> AskingError:
        total = self.spent_usd + sum(each.usd for each in sendings[: fit + 1])
        if self.budget_usd is not None and total > self.budget_usd + _ROUNDING_USD:
            return BudgetSpent(self.spent_usd, self.budget_usd, sendings[fit].usd)
        return LimitReached(self.limit or 0)

    def record(self, key: str, reply: Reply, usd: float | None = None) -> None:
        """Log the reply to a request that was sent. ``usd``: its cost, if it differs from what the reply says."""
        if isinstance(reply, Unanswered):
            self._append({"unanswered": key, "reason": reply.reason, "usd": usd or 0.0})
        else:
            self._append({"answered": key, **vars(reply)})

    def release(self, key: str, reason: str) -> None:
        """Log that an attempt failed and cost nothing."""
        self._append({"released": key, "reason": reason})

    def created(self, batch: str, name: str) -> None:
        """Log the id that the endpoint gave a batch."""
        self._append({"created": batch, "id": name})

    def closed(self, batch: str, billed: bool = False) -> None:
        """Log that all replies that a batch will have are recorded. ``billed``: its other requests may have been charged for."""
        self._append({"closed": batch, "billed": billed})

    def waits(self, key: str) -> bool:
        """Whether a request was sent but has no logged outcome."""
        return key in self._held

    def held_usd(self, key: str) -> float:
        """The worst-case cost of a request that was sent but has no logged outcome; 0 for others."""
        return self._held.get(key, 0.0)

    def _append(self, entry: dict[str, Any]) -> None:
        (offset,) = self._log.append([entry])
        self._apply(offset, entry)

    def _load(self) -> None:
        for offset, entry in self._log.scan():
            try:
                if (offset == 0) != (entry.get("journal") == VERSION):
                    raise ValueError("journal")
                self._apply(offset, entry)
            except (KeyError, TypeError, ValueError) as error:
                raise JournalError(
                    f"{self._log.path}: byte {offset} has {str(entry)[:80]}, which is not an entry of a journal of version "
                    f"{VERSION}; expected one that this version wrote: {_RESTORE}"
                ) from error
        if self._records and max(self._records.values()) >= self._prompts.end:
            raise JournalError(f"{self._prompts.path}: it ends before the last request of {LOG}; {_RESTORE}")

    def _apply(self, offset: int, entry: dict[str, Any]) -> None:
        """Take an entry of the log into account, whether it was read or just written."""
        if "sent" in entry:
            for each in entry["sent"]:
                self._records[each["key"]] = each["at"]
                self._held[each["key"]] = each["usd"]  # an earlier attempt without an outcome stays spent
                self._spend(each["usd"])
            if "batch" in entry:
                keys = tuple(each["key"] for each in entry["sent"])
                self.batches[entry["batch"]] = OpenBatch(entry["endpoint"], entry["model"], keys)
        elif "answered" in entry or "unanswered" in entry:
            key = entry["answered"] if "answered" in entry else entry["unanswered"]
            self._spend(entry["usd"] - self._held.pop(key, 0.0))
            self._replies[key] = offset
        elif "released" in entry:
            self._spend(-self._held.pop(entry["released"], 0.0))
        elif "created" in entry:
            self.batches[entry["created"]].created = entry["id"]
        elif "closed" in entry:
            for key in self.batches.pop(entry["closed"]).keys:
                held = self._held.pop(key, 0.0)
                self._spend(0.0 if entry["billed"] else -held)
        elif "journal" not in entry:
            raise ValueError("unknown")

    def _spend(self, usd: float) -> None:
        self.spent_usd = round(self.spent_usd + usd, 12)  # so that reserving and releasing leaves no rounding error
