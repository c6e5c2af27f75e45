"""FLOPs of a step, and of what is re-run for it: products of matrices and convolutions, as torch's own counter has them.

Two things that it does not count are added: attention on a CPU has a kernel of its own, and frozen ``nn.MultiheadAttention``
takes a fused path. A product of [m, k] and [k, n] counts 2 m k n.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.training.setting import Setting
from tests.benchmarks.training.sources import open_source
from tests.benchmarks.training.step import Trainee, open_columns

Shape = torch.Size


def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Of [B, H, Q, D], [B, h, K, D] and [B, h, K, V]: scores, and their product with the values."""
    batch, heads, queries, dim = query
    return 2 * batch * heads * queries * key[2] * (dim + value[3])


def attention_backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: Any, **___: Any) -> int:
    """The scores once more, and the gradients of scores, values, queries and keys."""
    batch, heads, queries, dim = query
    return 2 * batch * heads * queries * key[2] * (3 * dim + 2 * value[3])


_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
ON_CPU = {_KERNEL: attention, _BACKWARD: attention_backward}


def flops_of(work: Callable[[], object]) -> int:
    """FLOPs of what ``work`` does in this thread, and of gradients that it asks for."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
            work()
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())


def counted(setting: Setting, system: str, sides: list[str], folder: str, steps: int, threads: int) -> dict[str, float]:
    """Mean FLOPs per step of ``training`` and, by side, of what it re-runs; the first batch is not counted.

    On the first batch models may benchmark batch sizes for the machine.
    """
    torch.set_num_threads(threads)
    split = open_columns(setting, system)
    trainee = Trainee(setting, system, split)
    found = {"training": 0.0}
    for side in sides:
        batches = iter(open_source(setting, system, side, split, Path(folder)))
        next(batches)
        batch: dict[str, Any] = {}
        found[side] = 0.0
        for number in range(steps):
            found[side] += flops_of(lambda source=batches, kept=batch: kept.update(next(source))) / steps
            if side == "a":
                found["training"] += flops_of(lambda kept=batch, at=number: trainee.step(kept, at)) / steps
    return found
