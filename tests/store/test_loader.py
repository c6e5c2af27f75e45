"""The torch loader: the same batches as the stream, whatever the workers; state; death of a worker."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import Known, full_store

from store import StoreError, open_split
from store.stream.schedule import permutation
from store.torch import loader

ROOT = Path(__file__).parents[2]
X = "mask_embeddings/sam/x"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=23)


def stream(known: Known, batch_size: int = 4, **how: Any) -> Any:
    names = [X, "targets.texts", "masks.segmentation"]
    return open_split(known.store, "d", "val").stream(names, batch_size, shuffle=True, seed=3, **how)


def images(batches: Any) -> list[int]:
    return [image for batch in batches for image in batch["image_index"].tolist()]


WORKERS: dict[str, dict[str, Any]] = {
    "threads": {},
    "fork": {"num_workers": 2, "multiprocessing_context": "fork"},
    "spawn": {"num_workers": 1, "multiprocessing_context": "spawn"},
    "forkserver": {"num_workers": 2, "multiprocessing_context": "forkserver"},
    "persistent": {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
}


@pytest.mark.parametrize(
    "how",
    [pytest.param(how, marks=[pytest.mark.slow] * (name == "forkserver")) for name, how in WORKERS.items()],
    ids=WORKERS,
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_all_workers_give_the_same_epochs(known: Known, how: dict[str, Any]) -> None:
    batches = loader(stream(known), **how)
    assert len(batches) == 6
    for epoch in range(2):
        seen = []
        for batch in batches:
            for slot, image in enumerate(batch["image_index"].tolist()):
                want = known.embeddings[image]
                torch.testing.assert_close(batch[X][slot, : len(want)], torch.from_numpy(want), rtol=0, atol=0)
                assert not batch[X][slot, len(want) :].any()
                assert batch["targets.texts"][slot] == [target["texts"] for target in known.targets[image]]
                assert len(batch["masks.segmentation"][slot]) == len(want)
            assert batch[X].is_contiguous()
            seen += batch["image_index"].tolist()
        assert seen == permutation(23, 3, epoch).tolist()


def test_workers_share_the_decoded_tables(known: Known) -> None:
    source = stream(known)
    loader(source, num_workers=1)
    split = source.reader.splits[0]
    assert split.tables.shared_bytes > 0
    assert split.tables.own_bytes == 0, "no second copy"
    next(iter(source))
    assert split.tables.own_bytes == 0
    assert split.tables.nbytes == split.tables.shared_bytes


def test_what_does_not_fit_is_decoded_by_each_process(known: Known) -> None:
    split = open_split(known.store, "d", "val", table_cache_bytes=1)
    source = split.stream(["masks.segmentation"], batch_size=4)
    batches = loader(source, num_workers=1, multiprocessing_context="spawn")
    assert split.tables.shared_bytes == 0
    assert images(batches) == list(range(23))


@pytest.mark.parametrize("before", ["threads", "fork"])
@pytest.mark.parametrize("after", ["threads", "persistent"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_state_counts_batches_handed_out_not_those_read_ahead(known: Known, before: str, after: str) -> None:
    first = loader(stream(known, batch_size=3), **WORKERS[before])
    seen = images(batch for _, batch in zip(range(4), first, strict=False))
    second = loader(stream(known, batch_size=5), **WORKERS[after])
    second.load_state_dict(first.state_dict())
    seen += images(batch for _, batch in zip(range(1), second, strict=False))
    third = loader(stream(known, batch_size=2), **WORKERS[before])
    third.load_state_dict(second.state_dict())
    assert seen + images(third) == permutation(23, 3, 0).tolist()
    assert images(third) == permutation(23, 3, 1).tolist(), "and then the next epoch"


@pytest.mark.parametrize("tail", ["keep", "drop"])
def test_a_loop_over_exactly_all_batches_goes_on_to_the_next_epoch(known: Known, tail: str) -> None:
    """``islice(loader, len(loader))`` never sees the end of the iteration."""
    for batches in (loader(stream(known, tail=tail)), stream(known, tail=tail)):
        for epoch in range(3):
            seen = images(itertools.islice(batches, len(batches)))
            assert seen == permutation(23, 3, epoch).tolist()[: len(seen)]
            assert len(seen) >= 20


def test_set_epoch_does_not_undo_a_resume(known: Known) -> None:
    batches = loader(stream(known))
    for _, _batch in zip(range(2), batches, strict=False):
        pass
    later = loader(stream(known))
    later.load_state_dict(batches.state_dict())
    later.set_epoch(0)
    assert images(later) == permutation(23, 3, 0).tolist()[8:]


def test_options_of_the_stream_are_refused(known: Known) -> None:
    with pytest.raises(TypeError, match=r"found drop_last, shuffle\. .* choose in split.stream"):
        loader(stream(known), batch_size=3, shuffle=True, drop_last=True)


def test_a_loader_has_a_batch_size_ranks_and_a_place_of_its_own(known: Known) -> None:
    source = stream(known)
    next(iter(source))
    ranks = [loader(source, 3, rank=rank, world_size=2) for rank in range(2)]
    assert [len(each) for each in ranks] == [4, 4]
    first, second = ([batch["image_index"].tolist() for batch in each] for each in ranks)
    order = permutation(23, 3, 0).tolist()[4:]
    assert first == [order[0:6:2], order[6:12:2], order[12:18:2], order[18::2]]
    assert sorted(itertools.chain(*first, *second)) == sorted(order)
    assert ranks[0].batch_size == 3, "what DeepSpeed reads"
    assert images(source) == order, "the stream stayed where it was"
    for wrong, said in (
        ({"batch_size": 0}, "batch_size=0"),
        ({"rank": 1}, "rank=1 and world_size=None, expected both or none"),
        ({"rank": 2, "world_size": 2}, "rank=2, expected less than world_size=2"),
    ):
        with pytest.raises(ValueError, match=said):
            loader(source, **wrong)


def test_ranks_are_those_of_the_process_group_that_came_later(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    early, told = loader(stream(known)), loader(stream(known, rank=0, world_size=3))
    everything = loader(stream(known), rank=0, world_size=1)
    for name, value in {"is_initialized": True, "get_rank": 1, "get_world_size": 2}.items():
        monkeypatch.setattr(torch.distributed, name, lambda value=value: value)
    order = permutation(23, 3, 0).tolist()
    assert len(early) == 3
    assert images(early) == order[1::2]
    assert images(told) == order[0::3]
    assert images(everything) == order


def test_a_collate_fn_gets_the_batch(known: Known) -> None:
    means = loader(stream(known), collate_fn=lambda batch: batch[X].float().mean())
    assert all(each.ndim == 0 for each in means)


DEATH = """
import os, signal, sys
from store import StoreError, open_split
from store.torch import loader

def stream():
    return open_split(sys.argv[1], "d", "val").stream(["mask_embeddings/sam/x"], 4, shuffle=True, seed=3)

def die(batch):
    if 17 in batch["image_index"].tolist():
        os.kill(os.getpid(), signal.SIGKILL)
    return batch

seen = []
batches = loader(stream(), num_workers=1, collate_fn=die, multiprocessing_context="fork")
try:
    for batch in batches:
        seen += batch["image_index"].tolist()
except StoreError as error:
    print(error)
later = loader(stream())
later.load_state_dict(batches.state_dict())
print(seen + [image for batch in later for image in batch["image_index"].tolist()])
"""


@pytest.mark.timeout(120)
def test_a_killed_worker_is_a_named_error_and_nothing_is_lost(known: Known) -> None:
    """In a process of its own: torch raises from a signal handler, wherever the main thread is at work."""
    command = [sys.executable, "-c", DEATH, str(known.store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    said, seen = done.stdout.splitlines()
    assert re.match(r"a loader worker died in epoch 0 after sample \d+ of 23", said), done.stderr
    assert seen == str(permutation(23, 3, 0).tolist())


def test_damage_in_a_worker_is_the_store_s_own_error(tmp_path: Path) -> None:
    known = full_store(tmp_path, images=9)
    path = tmp_path / "d/mask_embeddings/sam/x/val/c/1/0/0"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    for how in (WORKERS["threads"], WORKERS["fork"]):
        with pytest.raises(StoreError, match="do not fit their checksum"):
            images(loader(stream(known), **how))


def test_ranks_see_everything_once_in_ddp(known: Known) -> None:
    """As DDP does it: every rank has a loader of its own, with equal batch counts."""
    ranks = [loader(stream(known, rank=rank, world_size=3, tail="repeat")) for rank in range(3)]
    assert len({len(each) for each in ranks}) == 1
    seen = [
        image
        for each in ranks
        for batch in each
        for image, again in zip(batch["image_index"].tolist(), batch["repeated"].tolist(), strict=True)
        if not again
    ]
    assert sorted(seen) == list(range(23))


def test_what_comes_is_writable_and_its_own(known: Known) -> None:
    batches = list(loader(stream(known)))
    for batch in batches:
        batch[X].zero_()
    again = {int(i): x for batch in loader(stream(known)) for i, x in zip(batch["image_index"], batch[X], strict=True)}
    for image, got in again.items():
        np.testing.assert_array_equal(got[: len(known.embeddings[image])].numpy(), known.embeddings[image])
