"""A torch DataLoader over a stream: ``loader(split.stream(...))``. The only file of the store that imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from .errors import StoreError
from .internals import signalled
from .read.options import whole
from .stream.batches import Batch, BatchReader
from .stream.schedule import Schedule, Step
from .stream.stream import Stream, walk

__all__ = ["Loader", "loader", "to_tensors"]


ALONE = (
    "The stream decides which samples make which batch, and splits them over the ranks: choose in split.stream(...) or mix(...), "
    "and by batch_size, rank and world_size of loader(...)"
)


class SplitTwiceError(StoreError, TypeError):
    """Something tried to split or batch what the stream has already split and batched; the message says what to do instead."""


def loader(
    stream: Stream,
    batch_size: int | None = None,
    *,
    rank: int | None = None,
    world_size: int | None = None,
    num_workers: int = 0,
    pin_memory: bool | None = None,
    **options: Any,
) -> Loader:
    """A DataLoader whose batches are those of ``stream``, as tensors. It begins at the stream's place, and does not move it.

    Args:
        batch_size: samples per batch of this rank; default: the stream's.
        rank, world_size: of this process; default: the stream's, or, where it was given none, those of ``torch.distributed``.
            No sampler is needed: accelerate, Lightning and the Hugging Face Trainer leave the loader as it is.
        num_workers: 0 reads ahead in the stream's threads, which is the fastest on one machine: batches are read straight
            into the memory that they are handed out in. Processes are for work in a ``collate_fn``.
        pin_memory: page-locked batches; default: if CUDA is available.
        options: of torch's DataLoader: ``collate_fn`` (from a batch to what you want), ``persistent_workers``,
            ``multiprocessing_context``, ``prefetch_factor``, ``timeout``, ...

    ``state_dict()`` may be called between any two batches; a loader that loads it goes on with the next batch, with any number of
    ranks and workers and any batch size.
    """
    if not isinstance(stream, Stream):
        raise TypeError(
            f"loader: found {type(stream).__name__}, expected a stream of a split, such as loader(split.stream('masks.area'))"
        )
    return Loader(stream, batch_size, rank, world_size, num_workers, pin_memory, **options)


def to_tensors(batch: Batch) -> dict[str, Any]:
    """The batch with a tensor for each array (no copy); everything else as it is."""
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


def to_page_locked(batch: Batch) -> dict[str, Any]:
    """As :func:`to_tensors`, all of them page-locked; what was not read into such memory is copied there."""
    return {key: _locked(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


class Loader(DataLoader[dict[str, Any]]):
    """See :func:`loader`. Like a :class:`Stream`, it has one place: the next iteration goes on where one was left early."""

    use_stateful_dataloader = True  # accelerate: save_state and load_state keep the place of a prepared loader

    def __init__(
        self,
        stream: Stream,
        batch_size: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        **options: Any,
    ) -> None:  # defaults, since Lightning makes another loader from the attributes that it finds
        if taken := sorted({"dataset", "sampler", "batch_sampler", "shuffle", "drop_last"} & set(options)):
            raise SplitTwiceError(f"found {', '.join(taken)}. {ALONE}")
        self.stream, num_workers = stream.resized(batch_size, rank, world_size), whole("num_workers", num_workers)
        self._asks_ranks = rank is None and self.stream.schedule.world_size == 1
        self._placed: Callable[[Any], Any] | None = None
        pin_memory = torch.cuda.is_available() if pin_memory is None else pin_memory
        pinned = pin_memory and num_workers == 0
        reader = BatchReader(stream.reader.request, stream.reader.ragged, _page_locked) if pinned else stream.reader
        self._source = Stream(reader, self.stream.schedule, stream.threads)
        self._to_tensors = to_page_locked if pinned else to_tensors
        if num_workers:
            for name, fields in stream.reader.request.fields.items():
                for split in stream.reader.splits:
                    split.column(name).share(fields)
            if any(column.far for split in stream.reader.splits for column in split.columns.values()):
                # A forked process lacks the threads of the object store's client.
                options.setdefault("multiprocessing_context", "spawn")
        self._collate: Callable[[dict[str, Any]], Any] = options.pop("collate_fn", None) or _as_it_is
        super().__init__(
            _Batches(self.stream),
            batch_size=None,
            sampler=_Steps(self.stream.schedule),
            num_workers=num_workers,
            collate_fn=self._collate,
            pin_memory=pin_memory and num_workers > 0,
            **options,
        )
        # DeepSpeed reads it here. Torch, told that the data set makes the batches, does not allow setting it.
        self.__dict__["batch_size"] = self.stream.schedule.batch_size

    def __len__(self) -> int:
        self._find_ranks()
        return len(self.stream)

    @property
    def _is_accelerate_prepared(self) -> bool:
        """``accelerator.prepare`` reads this first, and returns the loader as it is. From then on the loader moves batches to the
        device."""
        self._placed = _to_device_of_accelerate()
        return True

    @_is_accelerate_prepared.setter
    def _is_accelerate_prepared(self, value: bool) -> None:
        """Does nothing: ``accelerator.prepare`` sets this on whatever it prepared."""

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        self._find_ranks()
        return self._batches()

    def _batches(self) -> Iterator[dict[str, Any]]:
        schedule = self.stream.schedule
        try:
            yield from walk(schedule, self._read)
        except (RuntimeError, EOFError, ConnectionError) as error:  # the last two while it hands a tensor over
            told = signalled(error) if self.num_workers else error
            if "DataLoader worker" not in str(told):
                raise
            raise StoreError(
                f"a loader worker died in epoch {schedule.epoch} after sample {schedule.position} of {schedule.samples} (out of "
                f"memory, or killed): {told}; state_dict() says where to go on"
            ) from error

    def _find_ranks(self) -> None:
        """Take the ranks of ``torch.distributed``, which a framework may have begun after the loader was made."""
        if self._asks_ranks and dist.is_available() and dist.is_initialized():
            self.stream.schedule.split(dist.get_rank(), dist.get_world_size())

    def _read(self) -> Iterator[tuple[Step, Any]]:
        read: Iterator[tuple[Step, Any]]
        if self.num_workers:
            read = zip(self.stream.schedule.steps(), super().__iter__(), strict=True)
        else:
            read = map(self._converted, self._source.read_ahead())
        return read if self._placed is None else map(partial(_apply, self._placed), read)

    def _converted(self, read: tuple[Step, dict[str, Any]]) -> tuple[Step, Any]:
        return read[0], self._collate(self._to_tensors(read[1]))

    def set_epoch(self, epoch: int) -> None:
        """As :meth:`Stream.set_epoch`."""
        self.stream.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`Stream.state_dict`: after the last batch that was taken, however many were read ahead."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As :meth:`Stream.load_state_dict`."""
        self.stream.load_state_dict(state)


class _Batches(Dataset[dict[str, Any]]):
    """What workers hold: step -> batch. They read in no threads of their own."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def __len__(self) -> int:  # what a sampler would share out among ranks
        raise SplitTwiceError(f"the data set of a loader has batches of a stream, no samples to choose from. {ALONE}")

    def __getitem__(self, step: Step) -> dict[str, Any]:
        return to_tensors(self.stream.read(step))


class _Steps(DistributedSampler[Step]):
    """The steps that are left of the epoch, worked out in the main process, so that workers need no state.

    It has the steps of one rank, and is a DistributedSampler so that Lightning does not put another one in its place.
    """

    def __init__(self, schedule: Schedule) -> None:
        # Without DistributedSampler's own __init__, which asks the data set for its length.
        self.schedule = schedule

    def __iter__(self) -> Iterator[Step]:
        return self.schedule.steps()

    def __len__(self) -> int:
        return len(self.schedule)

    def set_epoch(self, epoch: int) -> None:
        """Does nothing: an epoch that was left early goes on. To begin another one there is :meth:`Loader.set_epoch`."""


def _apply(change: Callable[[Any], Any], read: tuple[Step, Any]) -> tuple[Step, Any]:
    return read[0], change(read[1])


def _to_device_of_accelerate() -> Callable[[Any], Any]:
    """What moves the tensors in a batch, however nested, to this process's device."""
    from accelerate.state import PartialState
    from accelerate.utils import send_to_device

    return partial(send_to_device, device=PartialState().device, non_blocking=True)


def _as_it_is(batch: Any) -> Any:
    return batch


def _page_locked(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A page-locked array whose ``base`` is its tensor.

    torch's allocator is the only pool for such memory: copies to the GPU are noted there (CUDA events), and a block is not
    handed out again before they are done. It knows a block by the tensor that it made, not by others at the same address.
    """
    kind = torch.from_numpy(np.empty(0, dtype)).dtype
    array: npt.NDArray[Any] = torch.empty(shape, dtype=kind, pin_memory=True).numpy()
    return array


def _locked(array: npt.NDArray[Any]) -> torch.Tensor:
    """The tensor that an array of :func:`_page_locked` belongs to; for any other array, a page-locked copy."""
    if isinstance(array.base, torch.Tensor):
        return array.base
    copy = _page_locked(array.shape, array.dtype)
    copy[...] = array
    return _locked(copy)
