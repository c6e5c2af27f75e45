"""The GPU's kernel, run by Triton's interpreter, against the CPU's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton comes with torch on Linux alone")

ROOT = Path(__file__).resolve().parents[4]
COMPARE = """
import numpy as np, torch
from stages.proposers.sam import cells, kernels
from stages.proposers.sam.postprocess import Frame
generator = torch.Generator().manual_seed(0)
for low, square, height, width, count in (
    (32, 64, 40, 70, 3), (32, 128, 130, 33, 2), (32, 64, 1, 1, 2), (32, 64, 1, 90, 2), (32, 64, 16, 64, 0)
):
    scale = square / max(height, width)
    used = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
    frame = Frame(low, square, used, (0, 0, width, height), (height, width))
    logits = 5 * torch.randn(count, low, low, generator=generator)
    if count > 1:
        logits[1] = -9.0
    found = kernels.measure(logits, frame.rows, frame.columns, (-1.0, 0.0, 1.0))
    want = cells.measure(logits.numpy(), frame.rows, frame.columns, (-1.0, 0.0, 1.0))
    for ours, theirs in zip(found, want):
        np.testing.assert_array_equal(ours.numpy(), theirs)
print("the same")
"""


def test_the_kernel_gives_what_the_cpu_gives() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPARE],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.strip() == "the same", done.stderr
