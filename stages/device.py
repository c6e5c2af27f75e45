"""Where models run."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.params import RunParams

_said: list[str] = []
_DRIVER = Path("/proc/driver/nvidia/version")


def start_command() -> None:
    """Mark the start of a command, so that the choice of ``run.device: auto`` is printed again."""
    _said.clear()


def resolve_device(run: RunParams) -> str:
    """``cpu`` or ``cuda``; also sets the torch threads of this process.

    What ``auto`` chose is printed to stderr, once per command. cuDNN's benchmarking of its algorithms is off, as its choice
    would decide the last bits of what is stored.

    Raises:
        ValueError: cuda was asked for and is not available.
    """
    import torch

    torch.backends.cudnn.benchmark = False
    if run.threads:
        torch.set_num_threads(run.threads)
    there = torch.cuda.is_available()
    if run.device == "cuda" and not there:
        raise ValueError(f"run.device: found cuda, but {why_no_gpu()}; use --device cpu or --device auto")
    if run.device != "auto":
        return run.device
    device = "cuda" if there else "cpu"
    if not _said and os.environ.get("RANK", "0") == "0":  # only one process of torchrun prints it
        _said.append(device)
        reason = torch.cuda.get_device_name() if there else why_no_gpu()
        print(f"device: {device}, chosen by run.device auto ({reason})", file=sys.stderr, flush=True)
    return device


def why_no_gpu() -> str:
    """Why torch finds no GPU on this machine: no driver, or a driver that it was not built for."""
    import torch

    if not _DRIVER.exists():
        return "torch sees no GPU"
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
    return f"torch sees no GPU, though there is an NVIDIA driver: torch {torch.__version__} {built}"
