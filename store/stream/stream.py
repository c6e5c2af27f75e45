"""Streams batches of numpy arrays in the order of :mod:`store.stream.schedule`, read ahead in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np

from ..read.open_columns import OpenColumns
from ..read.options import flag, whole
from ..storage.requests import IN_FLIGHT
from .batches import Batch, BatchReader
from .candidates import Candidates
from .request import Request, named
from .sample_set import SampleSet, sample_set
from .schedule import Schedule, Step

T = TypeVar("T")

LEVELS = ("image", "target")
LARGE_SAMPLE_BYTES = 1 << 18


class Stream:
    """An iterable over the batches of an epoch; made by :meth:`Split.stream` or :func:`mix`.

    It has one place, which all its iterators share: each batch is the next one from there, whoever asks for it. An iterator
    gives what is left of the epoch; one that is left early leaves the place after its last batch, where the next one goes on.
    After the last batch the place is the beginning of the next epoch.
    """

    def __init__(self, reader: BatchReader, schedule: Schedule, threads: int) -> None:
        self.reader, self.schedule, self.threads = reader, schedule, whole("threads", threads)

    def __repr__(self) -> str:
        return f"Stream({', '.join(self.reader.wanted)}; {self.schedule.samples} samples, epoch {self.schedule.epoch})"

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.schedule)

    @property
    def failed(self) -> dict[str, tuple[tuple[int, str], ...]]:
        """Source -> (image_index, reason) of the images that were skipped."""
        return {name: found.failed for name, found in self.schedule.sets.items()}

    @property
    def absent(self) -> dict[str, tuple[tuple[int, str], ...]]:
        """Source -> (image_index, what was expected) of the images left out as they have no annotation."""
        return {name: found.absent for name, found in self.schedule.sets.items()}

    def __iter__(self) -> Iterator[Batch]:
        return walk(self.schedule, self.read_ahead)

    def read_ahead(self) -> Iterator[tuple[Step, Batch]]:
        """Each step with its batch; ``threads`` of them are being read while the caller works."""
        steps = self.schedule.steps()
        if self.threads == 0:
            for step in steps:
                yield step, self.read(step)
            return
        pool, process = self._pool(), os.getpid()
        waiting: deque[tuple[Step, Future[Batch]]] = deque()
        try:
            while True:
                if os.getpid() != process:  # a fork came in between, and the threads stayed with the parent
                    pool, process = self._pool(), os.getpid()
                    waiting = deque((step, pool.submit(self.read, step)) for step, _ in waiting)
                ahead = islice(steps, 2 * self.threads + 1 - len(waiting))
                waiting.extend((step, pool.submit(self.read, step)) for step in ahead)
                if not waiting:
                    return
                yield _first(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="elisa-store")

    def read(self, step: Step) -> Batch:
        """Read one batch; ``"repeated"`` bool [B] is there with ``tail="repeat"``."""
        batch = self.reader.read(step.samples)
        if self.schedule.tail == "repeat":
            batch["repeated"] = np.array(step.repeated, bool)
        return batch

    def resized(self, batch_size: int | None = None, rank: int | None = None, world_size: int | None = None) -> Stream:
        """The same samples in other batches (None: as here): a stream that starts where this one stands and keeps its own place."""
        schedule = copy(self.schedule)
        schedule.batch_size = schedule.batch_size if batch_size is None else whole("batch_size", batch_size, 1)
        if (rank is None) != (world_size is None):
            raise ValueError(f"found rank={rank} and world_size={world_size}, expected both or none")
        if rank is not None and world_size is not None:
            schedule.split(rank, world_size)
        return Stream(self.reader, schedule, self.threads)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch, unless the stream stands in it: there it stays, so a resume is not undone."""
        self.schedule.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, after the last batch that was taken from it."""
        return self.schedule.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where ``state`` was taken, whatever ranks, threads and batch size it was taken with."""
        self.schedule.load_state_dict(state)


def walk(schedule: Schedule, read: Callable[[], Iterator[tuple[Step, T]]]) -> Iterator[T]:
    """Yield what is left of the epoch that the schedule stands in, and move the schedule along.

    When it was moved in between (by another iterator, a state, ``set_epoch``), it goes on from there; it ends with the epoch,
    whoever took the last batch.

    Args:
        read: begins to read, from where the schedule stands: each step with what is read for it.
    """
    schedule.begin()
    ended = schedule.ended
    while schedule.ended == ended:
        steps = read()
        for step, batch in steps:
            schedule.advance(step)
            moves = schedule.moves
            yield batch
            del batch  # its memory is for the batch that is read next
            if schedule.moves != moves:
                break
        else:
            schedule.finish()
        del steps  # and with it the threads or workers that read


def _first(waiting: deque[tuple[Step, Future[Batch]]]) -> tuple[Step, Batch]:
    """The batch that was asked for first; nothing here holds it any longer."""
    step, future = waiting.popleft()
    return step, future.result()


class Subset(Protocol):
    """Some images of a split, by image_index in their order: :class:`store.records.Records`."""

    split: OpenColumns
    numbers: Sequence[int]


def stream(
    splits: OpenColumns | Subset | Mapping[str, OpenColumns | Subset],
    columns: str | Sequence[str] | Mapping[str, str],
    batch_size: int = 32,
    *,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    level: str = "image",
    ragged: bool = False,
    candidates: Candidates | int | None = None,
    tail: str = "keep",
    failed: str = "raise",
    threads: int | None = None,
    weights: Mapping[str, float] | None = None,
    length: int | None = None,
    without: Mapping[str, Sequence[int]] | None = None,
) -> Stream:
    """Batches of numpy arrays, of one split or of several by weight.

    This is ``split.stream(columns, ...)`` as well as ``mix({"a": split, "b": other}, columns, ...)``.

    Args:
        splits: a split or some of its images, or several by name. Array columns must have one shape in all of them.
        columns: what to read, and nothing else is read: columns (``mask_embeddings/NAME``, ``masks``) and fields of
            tables (``targets.texts``), one or several; or a mapping, key in the batch -> column.
        shuffle: a true permutation of all samples, decided by ``seed`` and ``epoch`` alone; else in order of image_index, or in
            that of the images that were selected.
        rank, world_size: sample p of the epoch's order goes to rank p modulo world_size.
        level: a sample is an ``image`` (with a list of its targets), or a ``target``.
        ragged: vectors of all samples one after the other, with offsets, instead of padded with zeros.
        candidates: which masks to offer, or how many of the largest; default: all that were embedded.
        tail: ``keep``, ``drop`` or ``repeat`` what fills no batch on every rank; the last two give all ranks equally
            many batches.
        failed: ``raise`` if images failed in a column that is asked for, or ``skip`` them.
        threads: how many read ahead; 0 reads when asked. Default: 2, or 1 where samples are small (below 256 kB), as
            threads then mostly wait for the interpreter lock; from an object store, as many as it takes to have 64 samples on the
            way.
        weights: name -> share of the samples of an epoch; default: as many as each has.
        length: samples of an epoch over all ranks; default: all there are. With weights or a length the turns are random
            and each source goes through shuffled laps of its own, which go on over epochs.
        without: name -> image_index of images that are left out.

    The keys of a batch: :meth:`store.stream.batches.BatchReader.read`. An array's memory is used again as soon as nobody
    holds it, or anything made of it.
    """
    if level not in LEVELS:
        raise ValueError(f"found level={level!r}, expected one of {', '.join(LEVELS)}")
    if isinstance(splits, Mapping):
        sources = {name: _parts(each) for name, each in splits.items()}
    else:
        split, numbers = _parts(splits)
        sources = {split.split: (split, numbers)}
    if not sources:
        raise ValueError("found no split to stream, expected one or more")
    per_target = level == "target"
    request = Request([split for split, _ in sources.values()], named(columns), per_target, Candidates.of(candidates))
    sets: dict[str, SampleSet] = {
        name: sample_set(split, request.needed, per_target, failed, (without or {}).get(name, ()), numbers)
        for name, (split, numbers) in sources.items()
    }
    schedule = Schedule(sets, batch_size, shuffle, seed, rank, world_size, tail, weights, length, epoch)
    return Stream(BatchReader(request, flag("ragged", ragged)), schedule, threads_for(request, batch_size, threads))


def _parts(given: OpenColumns | Subset) -> tuple[OpenColumns, Sequence[int] | None]:
    """A split, and which of its images (None: all)."""
    return (given, None) if isinstance(given, OpenColumns) else (given.split, given.numbers)


def threads_for(request: Request, batch_size: int, threads: int | None = None) -> int:
    """``threads`` of :func:`stream`, or the default."""
    if threads is not None:
        return threads
    if request.far:
        return max(2, min(16, -(-IN_FLIGHT // batch_size)))
    return 2 if request.sample_bytes >= LARGE_SAMPLE_BYTES else 1


mix = stream
"""The name of :func:`stream` for several splits."""
