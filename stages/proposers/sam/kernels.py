"""Counts and boxes of masks from their low-resolution logits, on a GPU: :func:`stages.proposers.sam.cells.measure`, pixel by pixel.

The arithmetic is that of the CPU, in the same order, so both give the same result up to how a GPU fuses a product with a sum.
With ``TRITON_INTERPRET=1`` it runs on the CPU, for tests.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from stages.proposers.sam.upsampling import Axis

_ROWS, _COLUMNS = 16, 64


def _keep_compiled_kernels() -> None:
    """If Triton's cache folder cannot be written, put compiled kernels into a temporary one, which is removed with the process."""
    try:
        Path(triton.knobs.cache.dir).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=triton.knobs.cache.dir).close()
    except OSError:
        folder = tempfile.mkdtemp(prefix="triton-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        triton.knobs.cache.dir = folder


_keep_compiled_kernels()


def measure(logits: Tensor, rows: Axis, columns: Axis, thresholds: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Pixels above the outer two of three rising thresholds, int64 [n, 2]; box of those above the middle one, int64 [n, 4].

    Args:
        logits: float32 [n, L, L], contiguous, low resolution. The results are on the CPU.
    """
    height, width = len(rows.base), len(columns.base)
    device = logits.device
    counts = torch.zeros(len(logits), 2, dtype=torch.int32, device=device)
    boxes = _on(np.tile(np.array([width, height, -1, -1], np.int32), (len(logits), 1)), device)
    if len(logits):
        grid = (len(logits), triton.cdiv(height, _ROWS), triton.cdiv(width, _COLUMNS))
        parts = [_on(part, device) for part in (rows.base, rows.weights, columns.base, columns.weights)]
        _measure[grid](
            logits.contiguous(), *parts, counts, boxes, logits.shape[-1], height, width, *thresholds, _ROWS, _COLUMNS
        )
    found = torch.cat([counts, boxes], dim=1).cpu().long()
    found[found[:, 4] < 0, 2:] = 0
    return found[:, :2], found[:, 2:]


def _on(values: np.ndarray, device: torch.device) -> Tensor:  # type: ignore[type-arg]
    small = values.astype(np.int32) if values.dtype == np.int64 else values
    return torch.from_numpy(np.ascontiguousarray(small)).to(device, non_blocking=True)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _across(row, column_base, w0, w1, w2, there):  # type: ignore[no-untyped-def]
    """One low-resolution row at the columns of a tile: [rows, columns]."""
    at = row[:, None] + column_base[None, :]
    first = tl.load(at, mask=there, other=0.0)
    second = tl.load(at + 1, mask=there, other=0.0)
    third = tl.load(at + 2, mask=there, other=0.0)
    return w0[None, :] * first + w1[None, :] * second + w2[None, :] * third


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _measure(  # type: ignore[no-untyped-def]
    logits, row_base, row_weights, column_base, column_weights, counts, boxes, low_side, height, width, low, mid, high,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of one mask."""
    n = tl.program_id(0)
    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    x = tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    y_there, x_there = y < height, x < width
    there = y_there[:, None] & x_there[None, :]
    rows = tl.load(row_base + y, mask=y_there, other=0)
    columns = tl.load(column_base + x, mask=x_there, other=0)
    c0 = tl.load(column_weights + 3 * x, mask=x_there, other=0.0)
    c1 = tl.load(column_weights + 3 * x + 1, mask=x_there, other=0.0)
    c2 = tl.load(column_weights + 3 * x + 2, mask=x_there, other=0.0)
    mask = logits + n.to(tl.int64) * low_side * low_side
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    for k in tl.static_range(3):
        weight = tl.load(row_weights + 3 * y + k, mask=y_there, other=0.0)
        value += weight[:, None] * _across(mask + (rows + k) * low_side, columns, c0, c1, c2, there)
    tl.atomic_add(counts + 2 * n, tl.sum(tl.sum(((value > low) & there).to(tl.int32), 1), 0))
    tl.atomic_add(counts + 2 * n + 1, tl.sum(tl.sum(((value > high) & there).to(tl.int32), 1), 0))
    inside = (value > mid) & there
    xs, ys = tl.broadcast_to(x[None, :], (ROWS, COLUMNS)), tl.broadcast_to(y[:, None], (ROWS, COLUMNS))
    tl.atomic_min(boxes + 4 * n, tl.min(tl.min(tl.where(inside, xs, width), 1), 0))
    tl.atomic_min(boxes + 4 * n + 1, tl.min(tl.min(tl.where(inside, ys, height), 1), 0))
    tl.atomic_max(boxes + 4 * n + 2, tl.max(tl.max(tl.where(inside, xs, -1), 1), 0))
    tl.atomic_max(boxes + 4 * n + 3, tl.max(tl.max(tl.where(inside, ys, -1), 1), 0))
