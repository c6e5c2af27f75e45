"""The loader inside Hugging Face's accelerate and Trainer, resumed in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from factory import Known, full_store
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from store import open_split
from store.order import permutation
from store.torch import Loader, loader

X = "mask_embeddings/x"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=24)


class Head(nn.Module):
    """Predicts how many masks an image has from their embeddings; notes which images it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(8, 1)
        self.seen: list[int] = []

    def forward(self, embeddings: torch.Tensor, image_index: torch.Tensor, **rest: Any) -> dict[str, torch.Tensor]:
        self.seen += image_index.tolist()
        found = self.line(embeddings.float()).squeeze(-1).masked_fill(~rest["embeddings:mask"], 0).sum(1)
        wanted = rest["embeddings:mask"].sum(1).float()
        return {"loss": nn.functional.mse_loss(found, wanted)}


def batches(known: Known, batch_size: int = 4, **how: Any) -> Loader:
    split = open_split(known.store, "d", "val")
    return loader(split.stream({"embeddings": X}, batch_size, shuffle=True, seed=1, **how))


def test_accelerate_trains_and_resumes(known: Known, tmp_path: Path) -> None:
    """The loader knows its rank, so it is not given to ``prepare`` but registered for checkpointing."""

    def run(steps: int, resume: bool) -> list[int]:
        accelerator, model = Accelerator(cpu=True), Head()
        data = batches(known, rank=accelerator.process_index, world_size=accelerator.num_processes)
        prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 1e-4))
        accelerator.register_for_checkpointing(data)
        if resume:
            accelerator.load_state(str(tmp_path / "state"))
        for _, batch in zip(range(steps), data, strict=False):
            accelerator.backward(prepared(**batch)["loss"])
            optimizer.step()
            optimizer.zero_grad()
        if not resume:
            accelerator.save_state(str(tmp_path / "state"))
        return model.seen

    seen = run(2, resume=False)
    assert seen + run(99, resume=True) == permutation(24, 1, 0).tolist()


class StoreTrainer(Trainer):
    """A Trainer on a loader of ours, as docs/reading.md shows it."""

    def __init__(self, *arguments: Any, data: Loader, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.data = data

    def get_train_dataloader(self) -> Loader:
        return self.data


class SaveLoader(TrainerCallback):
    """Keeps the loader's state beside each checkpoint."""

    def __init__(self, data: Loader) -> None:
        self.data = data

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **rest: Any) -> None:
        torch.save(self.data.state_dict(), Path(args.output_dir) / f"checkpoint-{state.global_step}" / "loader.pt")


def test_the_trainer_trains_and_resumes(known: Known, tmp_path: Path) -> None:
    def arguments(steps: int) -> TrainingArguments:
        return TrainingArguments(
            str(tmp_path),
            max_steps=steps,
            save_steps=4,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            ignore_data_skip=True,  # the loader itself goes on where it stood
            logging_steps=1000,
            learning_rate=1e-4,
        )

    data = batches(known)
    first = Head()
    StoreTrainer(first, arguments(4), data=data, callbacks=[SaveLoader(data)]).train()
    assert first.seen == permutation(24, 1, 0).tolist()[:16]
    data = batches(known)  # the Trainer counts its epochs in batches, so the batch size stays
    data.load_state_dict(torch.load(tmp_path / "checkpoint-4/loader.pt", weights_only=True))
    second = Head()
    trainer = StoreTrainer(second, arguments(4 + 2 + 3), data=data, callbacks=[SaveLoader(data)])
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert second.seen[:8] == permutation(24, 1, 0).tolist()[16:]
    assert second.seen[8:] == permutation(24, 1, 1).tolist()[: 4 * 3]
