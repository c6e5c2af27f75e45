"""The form of batches that a loader must give, and helpers for peers that give single records: all use recycled memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from tests.benchmarks.data import MASKS, PATCHES

Batch = dict[str, Any]
"""``patches`` [B, 576, 1024] and ``masks`` [B, 50 or more, 768] float16 tensors, ``rles`` [B] lists of str, ``text`` [B] str;
only masks and text in the profile embeddings_text."""


class Epochs:
    """An iterable whose every iteration is the next epoch: ``make(epoch)`` gives its batches."""

    def __init__(self, make: Callable[[int], Iterable[Batch]]) -> None:
        self.make, self.epoch = make, -1

    def __iter__(self) -> Iterator[Batch]:
        self.epoch += 1
        return iter(self.make(self.epoch))


class Buffers:
    """Batches in memory that is reused in turn, as page faults of fresh memory would cost peers more than the copy.

    A batch stays as it is until ``turns`` further ones were made.
    """

    def __init__(self, size: int, turns: int = 3) -> None:
        self.size, self.turns, self.next = size, turns, 0
        self._memory: dict[str, list[torch.Tensor]] = {}

    def tensors(self, profile: str, count: int) -> dict[str, torch.Tensor]:
        """Uninitialised tensors for the arrays of a profile."""
        self.next = (self.next + 1) % self.turns
        shapes = {"masks": MASKS} if profile == "embeddings_text" else {"patches": PATCHES, "masks": MASKS}
        for name, shape in shapes.items():
            if name not in self._memory:
                self._memory[name] = [torch.empty(self.size, *shape, dtype=torch.float16) for _ in range(self.turns)]
        return {name: self._memory[name][self.next][:count] for name in shapes}

    def collate(self, profile: str, rows: Sequence[Any]) -> Batch:
        """A batch of rows ``{name: anything with a buffer}``: arrays as bytes or arrays, ``rles`` and ``text`` as bytes."""
        batch: Batch = dict(self.tensors(profile, len(rows)))
        for name, shape in (("patches", PATCHES), ("masks", MASKS)):
            if name in batch:
                into = batch[name].numpy()
                for slot, row in enumerate(rows):
                    value = row[name]
                    if not isinstance(value, np.ndarray):
                        value = np.frombuffer(value, np.float16)
                    into[slot] = value.reshape(shape)
        if profile != "embeddings_text":
            batch["rles"] = [str(row["rles"], "utf-8").split("\n") for row in rows]
        batch["text"] = [row["text"] if isinstance(row["text"], str) else str(row["text"], "utf-8") for row in rows]
        return batch


def names_of(profile: str) -> list[str]:
    """What is read in a profile."""
    return ["masks", "text"] if profile == "embeddings_text" else ["patches", "masks", "rles", "text"]


def batch_size(profile: str, size: int = 32) -> int:
    """One record at a time in the profile ``single``."""
    return 1 if profile == "single" else size


def in_batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Rows in lists of ``size``; the last may be shorter."""
    found = []
    for row in rows:
        found.append(row)
        if len(found) == size:
            yield found
            found = []
    if found:
        yield found
