"""The loader inside Hugging Face's accelerate and Trainer, resumed in the middle of an epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from factory import Known, full_store
from torch import nn
from torch.utils.data import DistributedSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from store import StoreError, open_split
from store.stream.schedule import permutation
from store.torch import Loader, loader

X = "mask_embeddings/sam/x"


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
    """Keeps the loader's state next to each checkpoint."""

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


HOW = r"give rank and world_size to split.stream.*leave the loader out.*use_distributed_sampler=False"


def test_prepare_says_what_to_do_instead(known: Known) -> None:
    """accelerate would make another loader of the parts of this one, which knows nothing of its place."""
    data = batches(known)
    accelerator = Accelerator(cpu=True)
    for prepare in (
        accelerator.prepare,
        accelerator.prepare_data_loader,
        lambda each: accelerator.prepare(Head(), each),
    ):
        with pytest.raises(StoreError, match=HOW):
            prepare(data)
    assert len(list(data)) == len(data)


def test_an_accelerator_with_a_loader_trains_on_its_device(known: Known) -> None:
    """What the message says to do."""
    accelerator, model = Accelerator(cpu=True), Head()
    data = batches(known, rank=accelerator.process_index, world_size=accelerator.num_processes)
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 1e-4))
    for batch in data:
        moved = {key: value.to(accelerator.device) for key, value in batch.items()}
        accelerator.backward(prepared(**moved)["loss"])
        optimizer.step()
    assert model.seen == permutation(24, 1, 0).tolist()


def test_what_lightning_does_on_two_devices_says_what_to_do_instead(known: Known) -> None:
    """It makes a DistributedSampler of the data set, and the loader once more, from its attributes, with that sampler."""
    data = batches(known)
    with pytest.raises(TypeError, match=HOW):
        DistributedSampler(data.dataset, num_replicas=2, rank=0)
    attributes = {
        name: getattr(data, name) for name in ("dataset", "num_workers", "collate_fn", "pin_memory", "timeout")
    }
    again = {**attributes, "stream": data.stream, "sampler": None, "shuffle": False, "batch_sampler": None}
    with pytest.raises(StoreError, match=f"batch_sampler, dataset, sampler, shuffle: the stream decides that.*{HOW}"):
        type(data)(**again)


@pytest.mark.parametrize("limit", [4, 6, 7])
def test_lightning_with_limit_train_batches_sees_other_samples_each_time(known: Known, limit: int) -> None:
    """Its fit loop: ``iter`` once an epoch, up to ``limit`` batches, or fewer where the iterator ends; then the next epoch."""
    data, seen = batches(known), []
    for _ in range(3):
        fetcher = iter(data)
        for _number in range(limit):
            try:
                batch = next(fetcher)
            except StopIteration:
                break
            seen += batch["image_index"].tolist()
    whole = [*permutation(24, 1, 0).tolist(), *permutation(24, 1, 1).tolist(), *permutation(24, 1, 2).tolist()]
    assert seen == whole[: len(seen)]
    assert len(seen) >= 40


def test_lightning_goes_on_from_a_state_that_came_after_iter(known: Known) -> None:
    """It restores loaders when it has begun to iterate over them."""
    first = batches(known)
    seen = [image for _, batch in zip(range(3), first, strict=False) for image in batch["image_index"].tolist()]
    state = first.state_dict()
    later = batches(known)
    fetcher = iter(later)
    later.load_state_dict(state)
    rest = [image for batch in fetcher for image in batch["image_index"].tolist()]
    assert seen + rest == permutation(24, 1, 0).tolist()


def test_evaluation_begins_at_the_start_with_a_state_of_it(known: Known) -> None:
    """As docs/reading.md says for loops that look into a loader before they use it (Lightning's sanity check)."""
    data = batches(known)
    start = data.state_dict()
    for _, _batch in zip(range(2), data, strict=False):
        pass
    for _ in range(2):
        data.load_state_dict(start)
        assert [i for batch in data for i in batch["image_index"].tolist()] == permutation(24, 1, 0).tolist()
