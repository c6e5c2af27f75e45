"""Tasks for Dask workers whose GPUs fail. Workers import this file by its name."""

from __future__ import annotations

import os
import time
from pathlib import Path

SAID = "CUDA error: uncorrectable ECC error encountered"


def work(task: tuple[Path, dict[str, int], int]) -> tuple[int, str]:
    """The task's number and the card that did it. ``fails``: card -> how often it fails before it works; each leaves a file."""
    folder, fails, number = task
    card = os.environ["CUDA_VISIBLE_DEVICES"]
    if len(list(folder.glob(f"{card}-*"))) < fails.get(card, 0):
        (folder / f"{card}-{os.getpid()}").touch()
        raise RuntimeError(f"{SAID}\nCUDA kernel errors might be asynchronously reported at some other API call")
    time.sleep(0.2)
    return number, card
