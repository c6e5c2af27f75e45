"""Peak memory of everything mode above the model, in a new process that has done nothing else yet.

A process keeps freed memory for a while, so later work in it seems to need none.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from segment_anything import SamAutomaticMaskGenerator

from stages.proposers.sam.generator import AutomaticMaskGenerator
from tests.benchmarks.extraction.calibrated import calibrate, new_model, picture

SMALL_PX = 64


def peak_of(which: str, model: str, side_px: int, points_per_side: int, device: str, dtype: str, image_px: int) -> int:
    """Bytes that ``ours`` or the ``reference`` needs for a square image of ``image_px``, measured in a new process."""
    arguments = [which, model, side_px, points_per_side, device, dtype, image_px]
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps(arguments)], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def measure(which: str, model: str, side_px: int, points_per_side: int, device: str, dtype: str, image_px: int) -> int:
    """Like :func:`peak_of`, in this process."""
    sam = new_model(model, side_px, device)
    options: dict[str, Any] = calibrate(
        sam, picture(SMALL_PX, SMALL_PX), 2
    ).options  # the weights, and the options that are modes
    options |= {"points_per_side": points_per_side, "output_mode": "coco_rle"}
    options |= {"pred_iou_thresh": 0.8, "stability_score_thresh": 0.0}
    if which == "ours":
        generate = AutomaticMaskGenerator(sam, dtype=getattr(torch, dtype), **options).generate
    else:
        generate = SamAutomaticMaskGenerator(sam, **options).generate
    generate(picture(SMALL_PX, SMALL_PX))  # what is compiled or cached once is not counted
    image = picture(image_px, image_px)
    return peak_above(lambda: generate(image), device)


def peak_above(work: Callable[[], object], device: str) -> int:
    """Bytes that ``work`` needs at its peak: of the GPU, or of this process (Linux)."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return int(torch.cuda.max_memory_allocated()) - before
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    print(measure(*json.loads(sys.argv[1])))
