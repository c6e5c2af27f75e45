"""How much to compute at once: what suits the device, and half of it where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

Result = TypeVar("Result")
_log = logging.getLogger(__name__)

_CPU_CACHE_BYTES = 4 << 20
"""Image tokens of one batch; beyond the processor's cache every step waits for memory."""


@dataclass
class BatchSize:
    """A number of items computed together; it is halved, and stays so, when the GPU's memory runs out."""

    size: int

    def over(self, count: int, work: Callable[[slice], Result]) -> list[Result]:
        """``work`` on slices that cover ``count`` items in order.

        Raises:
            torch.OutOfMemoryError: there is no room for a single item.
        """
        done, results = 0, []
        while done < count:
            batch = slice(done, min(done + self.size, count))
            try:
                results.append(work(batch))
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
                self.size = max(1, min(self.size, batch.stop - batch.start) // 2)
                torch.cuda.empty_cache()
                _log.warning("GPU out of memory: going on with batches of %d", self.size)
                continue
            done = batch.stop
        return results


def suited_points(device: torch.device, prompt_bytes: int) -> int:
    """Prompts that suit a device: as many as its cache holds on a CPU, enough to hide launches on a GPU.

    Args:
        prompt_bytes: the image tokens of one prompt.
    """
    if device.type == "cuda":
        return 256
    return max(1, min(16, _CPU_CACHE_BYTES // prompt_bytes))
