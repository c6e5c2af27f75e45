"""Compares the GPU's kernel with the CPU at its first use on a card; if it fails or differs, the CPU is used instead."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.kept import keep, kept
from stages.notes import note
from stages.proposers.sam import cells
from stages.proposers.sam.upsampling import axis

_log = logging.getLogger(__name__)
_DRIVER = Path("/proc/driver/nvidia/version")
_folder: list[Path] = []
THRESHOLDS = (-1.0, 0.0, 1.0)
_LOW, _SQUARE, _HEIGHT, _WIDTH = 32, 64, 40, 70


def remember_in(folder: Path) -> None:
    """From now on keep the results in the cache folder, for this process and later ones."""
    _folder[:] = [folder]


@cache
def kernel_is_right(device: torch.device) -> bool:
    """Whether the kernel compiles for a device, and gives what the CPU gives for a small input.

    Checked once per process. A success is remembered for the device, its driver, and the versions of torch, Triton and the
    kernel; a fault is not, as it may be gone in another process. A fault is reported once, and noted in the log of every shard.
    """
    key = identity(device)
    path = _folder[0] / f"kernel-{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}.json" if _folder else None
    if path is not None and kept(path, key) is not None:
        return True
    if trouble := fault(device):
        said = f"the GPU's kernel for masks is not used, the CPU takes its place, which is slower: {trouble}"
        _log.warning("%s", said)
        note(said)
        return False
    if path is not None:
        keep(path, key, {})
    return True


def identity(device: torch.device) -> dict[str, Any]:
    """What decides whether the kernel is right."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "device": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "driver": _DRIVER.read_text().partition("\n")[0] if _DRIVER.exists() else "",
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton"),
        "kernel": hashlib.sha256(Path(__file__).with_name("kernels.py").read_bytes()).hexdigest(),
    }


def fault(device: torch.device) -> str | None:
    """What is wrong with the kernel on a device; None if nothing is. torch.OutOfMemoryError is passed on."""
    logits = small_input()
    rows, columns = axis(_LOW, _SQUARE, 37, _HEIGHT), axis(_LOW, _SQUARE, _SQUARE, _WIDTH)
    try:
        from stages.proposers.sam import kernels

        found = kernels.measure(logits.to(device), rows, columns, THRESHOLDS)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 (a compiler, a linker, a driver: each has its own)
        return f"it does not run here ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    for what, ours, right in zip(
        ("counts", "boxes"), found, cells.measure(logits.numpy(), rows, columns, THRESHOLDS), strict=True
    ):
        if not np.array_equal(ours.numpy(), right):
            return f"its {what} of a small input are {ours.tolist()}, expected {right.tolist()}"
    return None


def small_input() -> torch.Tensor:
    """Logits float32 [3, 32, 32], one mask of them empty; no pixel is so near a threshold that rounding decides."""
    generator = torch.Generator().manual_seed(27)
    logits = 5 * torch.randn(3, _LOW, _LOW, generator=generator)
    logits[1] = -9.0
    return logits
