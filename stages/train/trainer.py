"""Training by Hugging Face's Trainer on a stream of the store: exact resume, only safetensors, two or more learning rates."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from stages.checkpoints import reading
from stages.train.callbacks import KeepPlace
from stages.train.controls import blanked
from stages.train.folder import PLACE, TRAINED
from stages.train.system import System
from store.torch import Loader


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of everything that is trained."""
    return {name: weight.detach().contiguous() for name, weight in model.named_parameters() if weight.requires_grad}


def save_trained(model: nn.Module, path: Path, about: Mapping[str, str]) -> None:
    """Write what is trained, as safetensors that appear whole or not at all; ``about`` goes into the file's metadata."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.touch()
        mode = stat.S_IMODE(
            temporary.stat().st_mode
        )  # permissions by the umask: safetensors makes a file that only its owner may read
        save_file(trained_state(model), temporary, dict(about))
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_trained(model: nn.Module, path: Path) -> None:
    """Put a file of :func:`save_trained` into the model.

    Raises:
        WeightsError: it is cut off, or is not such a file.
        ValueError: it holds other parameters than those that are trained.
    """
    with reading(path, "file of a trained system"):
        state = load_file(path)
    wanted = trained_state(model)
    differ = sorted(
        name
        for name in state.keys() | wanted.keys()
        if name not in state or name not in wanted or state[name].shape != wanted[name].shape
    )
    if differ:
        raise ValueError(
            f"{path}: trained with other parameters (section train of the params): {len(differ)} tensors differ, the first is "
            f"{differ[0]}"
        )
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)


class Step(nn.Module):
    """A system's loss as a forward pass, because DDP averages only the gradients of the forward pass that it wraps."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.model, self._loss = system.model, system.loss

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The loss, 0-d."""
        return self._loss(inputs)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Call the model's own method; the Trainer asks for it."""
        self.model.activation_checkpointing_enable(**options)


class StoreTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that takes its batches from a :class:`store.torch.Loader`.

    The loader knows its rank and its position, so nothing else shards or skips batches.
    """

    def __init__(self, system: System, data: Loader, arguments: TrainingArguments, **options: Any) -> None:
        super().__init__(Step(system), arguments, **options)
        self.system, self.data, self._feed = system, data, _Feed(data)
        self.remove_callback(PrinterCallback)  # dictionaries on stdout
        self.add_callback(KeepPlace(data))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The stream."""
        return self._feed

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer that the arguments name, with a group for each learning rate."""
        if getattr(self, "optimizer", None) is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.system.model)
            groups = [
                {"params": weights, "lr": rate, "weight_decay": self.args.weight_decay}
                for weights, rate in self.system.groups()
                if weights
            ]
            self.optimizer: torch.optim.Optimizer = kind(groups, **options)
        return self.optimizer

    def compute_loss(
        self, model: Any, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The system's loss, through the modules that wrap it."""
        batch = blanked(inputs, self.system.params.without)
        return model(self._prepare_inputs(self.system.inputs(batch, self.data.stream.schedule.epoch)))

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs if "image_index" in inputs else super()._prepare_inputs(inputs)  # a batch of the store has lists

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(self.system.model, folder / TRAINED, {})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        place = json.loads((checkpoint / PLACE).read_text())
        if place["processes"] != self.args.world_size:
            raise ValueError(
                f"{checkpoint}: written by {place['processes']} processes, found {self.args.world_size}; go on with as many: "
                f"torchrun --nproc-per-node {place['processes']} {shlex.join(sys.argv)}"
            )
        load_trained(self.system.model, checkpoint / TRAINED)
        self.data.load_state_dict(place["loader"])
        self._feed.batches.gone = place["step"] % self._updates() * self.args.gradient_accumulation_steps

    def _updates(self) -> int:
        """Updates per epoch; the last one may be of fewer batches."""
        together: int = self.args.gradient_accumulation_steps
        return max(1, -(-len(self.data) // together))


class _Batches(IterableDataset[Any]):
    """The loader's batches, preceded in a resumed epoch by a None for each batch that was already used."""

    def __init__(self, data: Loader) -> None:
        self.data, self.gone = data, 0

    def __iter__(self) -> Iterator[Any]:
        gone, self.gone = self.gone, 0
        yield from repeat(None, gone)
        yield from self.data


class _Feed(DataLoader[Any]):
    """What the Trainer iterates over.

    When it resumes within an epoch, the Trainer counts the batches already used, which decides how gradients are accumulated,
    and skips that many. The loader itself goes on at its own position, so only placeholders are skipped here.
    """

    def __init__(self, data: Loader) -> None:
        self.batches = _Batches(data)
        own = torch.Generator()  # else an epoch would draw from the generator that dropout uses
        super().__init__(self.batches, batch_size=None, collate_fn=_as_it_is, generator=own)

    def __len__(self) -> int:
        return len(self.batches.data)

    def set_epoch(self, epoch: int) -> None:
        """Like the loader's method."""
        self.batches.data.set_epoch(epoch)


def _as_it_is(batch: Any) -> Any:
    return batch
