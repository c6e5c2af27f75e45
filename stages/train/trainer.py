"""Training by Hugging Face's Trainer on a stream of the store: exact resume, safetensors alone, two or more learning rates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from stages.checkpoints import reading
from stages.train.controls import blanked
from stages.train.system import System
from store.torch import Loader

TRAINED = "trained.safetensors"
"""The parameters that are trained, in a checkpoint and in what is published."""
_PLACE = "loader.json"


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of everything that is trained."""
    return {name: weight.detach().contiguous() for name, weight in model.named_parameters() if weight.requires_grad}


def save_trained(model: nn.Module, path: Path, about: Mapping[str, str]) -> None:
    """Write what is trained, as safetensors; ``about`` goes into the file's metadata."""
    save_file(trained_state(model), path, dict(about))


def load_trained(model: nn.Module, path: Path) -> None:
    """Put a file of :func:`save_trained` into the model.

    Raises:
        WeightsError: it is cut off, or no such file at all.
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
    """A system's loss as a forward pass, which is what DDP wraps: it averages the gradients of nothing else."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.model, self._loss = system.model, system.loss

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """The loss, 0-d."""
        return self._loss(inputs)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """The model's; the Trainer asks for it."""
        self.model.activation_checkpointing_enable(**options)


class StoreTrainer(Trainer):  # type: ignore[misc]
    """A Trainer over a :class:`store.torch.Loader` that makes batches as the store has them.

    The loader knows its rank and where it stands; so nobody else shards or skips.
    """

    def __init__(self, system: System, data: Loader, arguments: TrainingArguments, **options: Any) -> None:
        super().__init__(Step(system), arguments, **options)
        self.system, self.data = system, data
        self.add_callback(_KeepPlace(data))

    def get_train_dataloader(self) -> Loader:
        """The stream."""
        return self.data

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The one that the arguments name, a group for each learning rate."""
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
        """The system's, through what wraps it."""
        batch = blanked(inputs, self.system.params.without)
        return model(self._prepare_inputs(self.system.inputs(batch, self.data.stream.schedule.epoch)))

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs if "image_index" in inputs else super()._prepare_inputs(inputs)  # a batch of the store has lists

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_trained(self.system.model, folder / TRAINED, {})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_trained(self.system.model, Path(resume_from_checkpoint) / TRAINED)
        self.data.load_state_dict(json.loads((Path(resume_from_checkpoint) / _PLACE).read_text()))


class _KeepPlace(TrainerCallback):  # type: ignore[misc]
    """Writes into each checkpoint where the loader stands."""

    def __init__(self, data: Loader) -> None:
        self.data = data

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """After a checkpoint was written."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / _PLACE).write_text(json.dumps(self.data.state_dict()))


class Curves(TrainerCallback):  # type: ignore[misc]
    """What the Trainer logs, as DVCLive's metrics and plots in ``folder``; ``resume`` goes on with those of a stopped run.

    For the first rank alone.
    """

    def __init__(self, folder: Path, resume: bool) -> None:
        from dvclive import Live

        self.live = Live(dir=str(folder), resume=resume, dvcyaml=None, save_dvc_exp=False)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **rest: Any
    ) -> None:
        """After ``logging_steps`` updates, and at the end."""
        self.live.step = state.global_step
        for name, value in (logs or {}).items():
            self.live.log_metric(name, value)
        self.live.make_summary()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **rest: Any) -> None:
        """Write what is left."""
        self.live.end()
