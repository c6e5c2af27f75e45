"""How much to compute at once: what suits the device, and half of it where memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

Result = TypeVar("Result")
_log = logging.getLogger(__name__)

_CPU_BYTES, _GPU_BYTES = 4 << 20, 256 << 20
"""Image tokens of one batch: what a processor's cache holds, beyond which every step waits for memory; and what is a small part
of a GPU's memory, as a step needs some ten times as much, and enough work to hide its launches."""


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
    """Prompts that suit a device. A rule, not a measurement, so that the same machine always computes the same bits.

    Args:
        prompt_bytes: the image tokens of one prompt.
    """
    room, most = (_GPU_BYTES, 256) if device.type == "cuda" else (_CPU_BYTES, 16)
    return max(1, min(most, room // prompt_bytes))
