"""Where models run."""

from __future__ import annotations

import torch

from stages.params import RunParams


def resolve_device(run: RunParams) -> str:
    """``cpu`` or ``cuda``; also sets the torch threads of this process.

    cuDNN does not measure which of its algorithms is fastest: the choice would decide the last bits of what is stored.

    Raises:
        ValueError: cuda was asked for and there is none.
    """
    torch.backends.cudnn.benchmark = False
    if run.threads:
        torch.set_num_threads(run.threads)
    if run.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device: found cuda, but torch sees no GPU; use --device cpu or --device auto")
    if run.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return run.device
