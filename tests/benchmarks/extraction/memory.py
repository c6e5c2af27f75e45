"""Peak memory of a piece of work above what was there before."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

import torch


def peak_above(work: Callable[[], object], device: str) -> int:
    """Bytes that ``work`` needs at its peak: of the GPU, or of this process (Linux)."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return int(torch.cuda.max_memory_allocated()) - before
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])
