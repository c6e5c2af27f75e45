"""The loader in accelerate and the Trainer, and what Lightning does with one; ``make check-trainers`` runs all three."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from factory import Known, full_store
from torch.utils.data import DistributedSampler

from store import StoreError, open_split
from store.stream.schedule import permutation
from store.torch import Loader, loader
from tests.trainers.check import IMAGES, TrainerError, compare
from tests.trainers.drive import drive


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=IMAGES)


def batches(known: Known, batch_size: int = 4, **how: Any) -> Loader:
    split = open_split(known.store, "d", "val")
    return loader(split.stream({"embeddings": "mask_embeddings/sam/x"}, shuffle=True, seed=1), batch_size, **how)


@pytest.mark.parametrize("name", ["accelerate", "trainer"])
def test_it_trains_is_stopped_and_goes_on(known: Known, tmp_path: Path, name: str) -> None:
    found = drive(name, known.store, tmp_path)
    compare(name, [found])
    found["resumed"].append(0)
    with pytest.raises(TrainerError, match=f"{name}, rank 0 of 1, resumed: saw images .* expected"):
        compare(name, [found])


def test_prepare_gives_the_loader_back(known: Known) -> None:
    """accelerate would else make another loader of the parts of this one, which knows nothing of its place."""
    data, accelerator = batches(known), Accelerator(cpu=True)
    assert accelerator.prepare(data) is accelerator.prepare(data) is accelerator.prepare_data_loader(data) is data
    for batch in data:
        assert batch["embeddings"].device.type == accelerator.device.type
    assert len(list(data)) == len(data)


def test_what_would_split_it_again_says_what_to_do_instead(known: Known) -> None:
    """As Lightning does with a loader that has no DistributedSampler: it makes one, and the loader once more, with that sampler."""
    data = batches(known)
    assert isinstance(data.sampler, DistributedSampler)
    how = "choose in split.stream.* by batch_size, rank and world_size of loader"
    with pytest.raises(TypeError, match=how):
        DistributedSampler(data.dataset, num_replicas=2, rank=0)
    attributes = {
        name: getattr(data, name) for name in ("dataset", "num_workers", "collate_fn", "pin_memory", "timeout")
    }
    again = {**attributes, "stream": data.stream, "sampler": None, "shuffle": False, "batch_sampler": None}
    with pytest.raises(StoreError, match=f"found batch_sampler, dataset, sampler, shuffle.*{how}"):
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
