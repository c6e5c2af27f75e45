"""What drives a loader in training: accelerate, Lightning and the Hugging Face Trainer, each as its users write it, on the CPU.

``python -m tests.trainers.drive NAME STORE FOLDER`` trains a small model three times and writes what this process saw to
``FOLDER/rank<n>.json``; started by ``torchrun``, with the ranks and the process group that it gives.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from store import open_split
from store.stream.stream import Stream
from store.torch import Loader, loader

BATCH_SIZE, EPOCHS, STOPPED = 4, 2, 2
"""Samples per batch of a rank, epochs of a whole training, and batches after which one is stopped to be resumed."""


class Head(nn.Module):
    """Predicts how many masks an image has from their embeddings; notes which images it saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.line = nn.Linear(8, 1)
        self.seen: list[int] = []

    def forward(self, embeddings: Tensor, embeddings_mask: Tensor, image_index: Tensor) -> dict[str, Tensor]:
        self.seen += image_index.tolist()
        found = self.line(embeddings.float()).squeeze(-1).masked_fill(~embeddings_mask, 0).sum(1)
        return {"loss": nn.functional.mse_loss(found, embeddings_mask.sum(1).float())}


def stream_of(store: Path) -> Stream:
    """Without batch size and ranks: both come from what drives the loader."""
    split = open_split(store, "d", "val")
    return split.stream({"embeddings": "mask_embeddings/sam/x"}, shuffle=True, seed=1, tail="drop")


def accelerate(stream: Stream, head: Head, folder: Path, batches: int, resume: bool) -> None:
    """``prepare`` takes the loader, ``save_state`` and ``load_state`` keep its place."""
    from accelerate import Accelerator
    from accelerate.utils import find_executable_batch_size

    accelerator = Accelerator(cpu=True)

    @find_executable_batch_size(starting_batch_size=4 * BATCH_SIZE)
    def train(batch_size: int) -> None:
        if batch_size > BATCH_SIZE:
            raise RuntimeError("CUDA out of memory.")
        data = loader(stream, batch_size)
        model, optimizer, data = accelerator.prepare(head, torch.optim.SGD(head.parameters(), 1e-4), data)
        if resume:
            accelerator.load_state(str(folder / "state"))
        left = batches
        for _ in range(EPOCHS):
            for batch in data:
                assert batch["embeddings"].device.type == accelerator.device.type
                accelerator.backward(model(**batch)["loss"])
                optimizer.step()
                optimizer.zero_grad()
                left -= 1
                if not left:
                    accelerator.save_state(str(folder / "state"))
                    return

    train()


def lightning(stream: Stream, head: Head, folder: Path, batches: int, resume: bool) -> None:
    """``fit`` with a loader that is made before there are ranks; its checkpoints keep the place."""
    import lightning as pl

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def training_step(self, batch: dict[str, Tensor]) -> Tensor:
            found: Tensor = self.head(**batch)["loss"]
            return found

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-4)

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    keep = pl.pytorch.callbacks.ModelCheckpoint(folder, "stopped", save_top_k=-1, every_n_train_steps=STOPPED)
    trainer = pl.Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto", max_epochs=EPOCHS, max_steps=batches,
        callbacks=[keep] if batches > 0 else [], enable_checkpointing=batches > 0, logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(Module(), loader(stream, BATCH_SIZE), ckpt_path=folder / "stopped.ckpt" if resume else None)


def trainer(stream: Stream, head: Head, folder: Path, batches: int, resume: bool) -> None:
    """As docs/reading.md shows it: batch size from the arguments, the place next to each checkpoint."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class StoreTrainer(Trainer):
        def get_train_dataloader(self) -> Loader:
            return data

    class KeepPlace(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            place = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "loader.json"
            place.write_text(json.dumps(data.state_dict()))

    arguments = TrainingArguments(
        str(folder), num_train_epochs=EPOCHS, max_steps=batches, per_device_train_batch_size=BATCH_SIZE, save_steps=STOPPED,
        use_cpu=True, report_to=[], disable_tqdm=True, ignore_data_skip=True, remove_unused_columns=False,
        learning_rate=1e-4, optim="sgd", lr_scheduler_type="constant", logging_steps=1000, max_grad_norm=0,
    )  # fmt: skip
    data = loader(stream, arguments.per_device_train_batch_size)
    checkpoint = folder / f"checkpoint-{STOPPED}"
    if resume:
        data.load_state_dict(json.loads((checkpoint / "loader.json").read_text()))
    StoreTrainer(head, arguments, callbacks=[KeepPlace()]).train(
        resume_from_checkpoint=str(checkpoint) if resume else None
    )


DRIVERS: dict[str, Callable[[Stream, Head, Path, int, bool], None]] = {
    "accelerate": accelerate,
    "lightning": lightning,
    "trainer": trainer,
}


def drive(name: str, store: Path, folder: Path) -> dict[str, Any]:
    """What this process sees in a whole training, in one that is stopped, and in one that goes on from there; the last weights."""
    found: dict[str, Any] = {}
    for what, batches, resume in (("whole", -1, False), ("stopped", STOPPED, False), ("resumed", -1, True)):
        head = Head()
        DRIVERS[name](stream_of(store), head, folder, batches, resume)
        found[what] = head.seen
        found[f"{what} weights"] = head.line.weight.flatten().tolist()
    return found


if __name__ == "__main__":
    which, where, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    told = drive(which, where, out)
    number = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    (out / f"rank{number}.json").write_text(json.dumps(told))
