"""A torch DataLoader over a stream: ``loader(split.stream(...))``. The only file of the store that imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .errors import StoreError
from .internals import signalled
from .read.options import whole
from .stream.batches import Batch, BatchReader
from .stream.schedule import Schedule, Step
from .stream.stream import Stream, walk

__all__ = ["Loader", "loader", "to_tensors"]


ALONE = (
    "A stream splits its epoch over the ranks itself: give rank and world_size to split.stream(...) or mix(...), and let nobody "
    "else do it. accelerate: leave the loader out of accelerator.prepare(...), and move the batches to accelerator.device. "
    "Lightning: Trainer(use_distributed_sampler=False); Fabric: setup_dataloaders(batches, use_distributed_sampler=False)"
)


class SplitTwiceError(StoreError, TypeError):
    """Somebody wants to split or batch again what the stream has split and batched; the message says what to do instead."""


def loader(stream: Stream, num_workers: int = 0, pin_memory: bool | None = None, **options: Any) -> Loader:
    """A DataLoader whose batches are those of ``stream``, as tensors.

    Args:
        num_workers: 0 reads ahead in the stream's threads, which is the fastest on one machine: batches are read straight
            into the memory that they are handed out in. Processes are for work in a ``collate_fn``.
        pin_memory: page-locked batches; default: where CUDA is there.
        options: of torch's DataLoader: ``collate_fn`` (from a batch to what you want), ``persistent_workers``,
            ``multiprocessing_context``, ``prefetch_factor``, ``timeout``, ...

    ``state_dict()`` between any two batches is where the next one goes on, with any number of ranks and workers and any
    batch size. DDP: give ``rank`` and ``world_size`` to the stream, not a DistributedSampler to this.
    """
    return Loader(stream, num_workers, torch.cuda.is_available() if pin_memory is None else pin_memory, **options)


def to_tensors(batch: Batch) -> dict[str, Any]:
    """The batch with a tensor for each array (no copy); everything else as it is."""
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


def to_page_locked(batch: Batch) -> dict[str, Any]:
    """As :func:`to_tensors`, all of them page-locked; what was not read into such memory is copied there."""
    return {key: _locked(value) if isinstance(value, np.ndarray) else value for key, value in batch.items()}


class Loader(DataLoader[dict[str, Any]]):
    """See :func:`loader`. Its place is that of the :class:`Stream`: what was left early goes on with the next iteration."""

    def __init__(self, stream: Stream, num_workers: int, pin_memory: bool, **options: Any) -> None:
        if taken := sorted(
            {"batch_size", "dataset", "sampler", "batch_sampler", "shuffle", "drop_last"} & set(options)
        ):
            raise SplitTwiceError(f"{', '.join(taken)}: the stream decides that, give it to split.stream(...). {ALONE}")
        self.stream, num_workers = stream, whole("num_workers", num_workers)
        pinned = pin_memory and num_workers == 0
        reader = BatchReader(stream.reader.request, stream.reader.ragged, _page_locked) if pinned else stream.reader
        self._source = Stream(reader, stream.schedule, stream.threads)
        self._to_tensors = to_page_locked if pinned else to_tensors
        if num_workers:
            for name, fields in stream.reader.request.fields.items():
                for split in stream.reader.splits:
                    split.column(name).share(fields)
            if any(column.far for split in stream.reader.splits for column in split.columns.values()):
                options.setdefault(
                    "multiprocessing_context", "spawn"
                )  # a forked process has none of the client's threads
        self._collate: Callable[[dict[str, Any]], Any] = options.pop("collate_fn", None) or _as_it_is
        super().__init__(
            _Batches(stream),
            batch_size=None,
            sampler=_Steps(stream.schedule),
            num_workers=num_workers,
            collate_fn=self._collate,
            pin_memory=pin_memory and num_workers > 0,
            **options,
        )

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def _is_accelerate_prepared(self) -> bool:
        """What ``accelerator.prepare`` looks at first, before it would make another loader of parts of this one."""
        raise SplitTwiceError(f"this loader is not to be prepared. {ALONE}")

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
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

    def _read(self) -> Iterator[tuple[Step, Any]]:
        if self.num_workers:
            return zip(self.stream.schedule.steps(), super().__iter__(), strict=True)
        return map(self._converted, self._source.read_ahead())

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


class _Steps(Sampler[Step]):
    """The steps that are left of the epoch, worked out in the main process, so that workers need no state."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __iter__(self) -> Iterator[Step]:
        return self.schedule.steps()

    def __len__(self) -> int:
        return len(self.schedule)


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
    """The tensor that an array of :func:`_page_locked` belongs to; of any other array a page-locked copy."""
    if isinstance(array.base, torch.Tensor):
        return array.base
    copy = _page_locked(array.shape, array.dtype)
    copy[...] = array
    return _locked(copy)
