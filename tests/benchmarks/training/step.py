"""One side of a system, in a process of its own: build the model, take some steps, say where the time went.

The step is the same everywhere: the batch as the model's inputs, loss, gradients, clipping, AdamW. It is not the Trainer's
loop, whose logging and callbacks are not compared.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from stages.train.memory import plan
from stages.train.run import ANSWER_TOKENS, columns, memory_of, prepare, system_class
from stages.train.system import Batch
from store import Split
from tests.benchmarks.extraction.stopwatch import wait
from tests.benchmarks.training.setting import Setting
from tests.benchmarks.training.sources import open_source


class Trainee:
    """A system with its optimiser; the same weights in every process."""

    def __init__(self, setting: Setting, system: str, split: Split) -> None:
        self.params, self.device = setting.settings.train, setting.device
        set_seed(self.params.seed)
        self.system = system_class(system).build(self.params, split, self.device, setting.weights)
        prepare(self.system, self.params)
        self.system.model.train()
        if self.params.gradient_checkpointing:
            self.system.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        groups = [{"params": weights, "lr": rate} for weights, rate in self.system.groups() if weights]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.0, fused=True)
        self.longest = 0
        """Tokens of the longest sequence so far, features of the image included."""
        self.system.model.model.language_model.register_forward_pre_hook(self._look, with_kwargs=True)

    @property
    def parameters(self) -> int:
        """Number of parameters of the language model with everything that a system adds."""
        return sum(weight.numel() for weight in self.system.model.parameters())

    @property
    def planned_bytes(self) -> dict[str, float]:
        """What a step takes by the memory plan: as ``train`` prints it, and for the longest sequence so far."""
        planned = memory_of(self.system, self.params)
        trained = sum(weight.numel() for weights, _ in self.system.groups() for weight in weights)
        how = self.params.base, self.params.optimizer, trained, self.params.batch_size, self.longest, ANSWER_TOKENS
        lengths = plan(self.system.model.config, *how, self.params.gradient_checkpointing)
        return {"printed": planned.total, "for these lengths": lengths.total}

    def _look(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.longest = max(self.longest, kwargs["inputs_embeds"].shape[1])

    def step(self, batch: Batch, number: int) -> float:
        """One update; returns the loss before it. ``number`` decides the dropout, so that it is the same on every side."""
        torch.manual_seed(number)
        inputs = _on(self.system.inputs(batch, epoch=0), self.device)
        mixed = self.params.base != "float32"
        with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=mixed):
            loss = self.system.loss(inputs)
        loss.backward()
        if self.params.clip:
            trained = [weight for weights, _ in self.system.groups() for weight in weights]
            torch.nn.utils.clip_grad_norm_(trained, self.params.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


def _on(value: Any, device: str) -> Any:
    """Tensors in dicts and lists moved to the device; everything else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _on(item, device) for key, item in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return [_on(item, device) for item in value]
    return value


def open_columns(setting: Setting, system: str) -> Split:
    """The split with the columns that the system trains on, as ``train`` opens it."""
    return setting.open(sorted(columns(setting.settings.train, system)))


def timed(
    setting: Setting, system: str, side: str, folder: str, warm_up: int, steps: int, threads: int
) -> dict[str, Any]:
    """Seconds of each step (``waiting``, ``encoding``, ``training``), losses, bytes read and peak memory.

    Bytes are what this process asked the system for (``rchar`` of /proc/self/io), from opening the source on: to the end of
    the warm-up (``start_bytes``), and behind it (``step_bytes``, each). Memory is the peak after the model is loaded, minus
    what the process used before loading it.
    """
    torch.set_num_threads(threads)
    before = memory_bytes("VmRSS")
    split = open_columns(setting, system)
    trainee = Trainee(setting, system, split)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark, as loading is not part of training
    if setting.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    first, start = read_bytes(), time.perf_counter()
    source = open_source(setting, system, side, split, Path(folder))
    opened = time.perf_counter() - start
    found: dict[str, Any] = {"waiting": [], "encoding": [], "training": [], "loss": []}
    begin, batches = read_bytes(), iter(source)
    for number in range(warm_up + steps):
        if number == warm_up:
            begin = read_bytes()
        start = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        found["loss"].append(trainee.step(batch, number))
        wait()
        if number >= warm_up:
            found["waiting"].append(got - start - source.encoding_s)
            found["encoding"].append(source.encoding_s)
            found["training"].append(time.perf_counter() - got)
    return found | {
        "open_s": opened,
        "start_bytes": begin - first,
        "step_bytes": (read_bytes() - begin) / steps,
        "memory_bytes": memory_bytes("VmHWM") - before,
        "gpu_bytes": torch.cuda.max_memory_allocated() if setting.device == "cuda" else 0,
        "planned_bytes": trainee.planned_bytes,
        "longest": trainee.longest,
        "parameters": trainee.parameters,
    }


def read_bytes() -> int:
    """Bytes that this process has read so far, out of the page cache or not."""
    return _field(Path("/proc/self/io"), "rchar")


def memory_bytes(name: str) -> int:
    """VmRSS or VmHWM of this process."""
    return 1024 * _field(Path("/proc/self/status"), name)


def _field(path: Path, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", path.read_text())
    if found is None:
        raise ValueError(f"{path} has no {name}")
    return int(found[1])
