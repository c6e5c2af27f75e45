"""Where a stream or a loader stands: left early, resumed, shared by iterators; its state, and what is refused as one."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factory import Known, full_store

from store import Candidates, StoreError, Stream, mix, open_split
from store.stream.schedule import permutation
from store.torch import Loader, loader

X = "mask_embeddings/sam/x"
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=23)


def stream(known: Known, batch_size: Any = 4, **how: Any) -> Stream:
    return open_split(known.store, "d", "val").stream(X, batch_size, **{"shuffle": True, "seed": 3, **how})


def images(batches: Any) -> list[int]:
    return [image for batch in batches for image in batch["image_index"].tolist()]


def order(*epochs: int) -> list[int]:
    return [image for epoch in epochs for image in permutation(23, 3, epoch).tolist()]


FORK: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": "fork"}
KINDS: dict[str, Any] = {
    "stream": lambda known, **how: stream(known, **how),
    "stream without threads": lambda known, **how: stream(known, threads=0, **how),
    "loader": lambda known, **how: loader(stream(known, **how)),
    "workers": lambda known, **how: loader(stream(known, **how), **FORK),
    "persistent workers": lambda known, **how: loader(stream(known, **how), persistent_workers=True, **FORK),
}


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, known: Known) -> Any:
    return lambda **how: KINDS[request.param](known, **how)


def test_single_batches_out_of_new_iterators_are_the_epoch(made: Any) -> None:
    batches = made(batch_size=8)
    assert images(next(iter(batches)) for _ in range(6)) == order(0, 1)


def test_a_resumed_one_goes_on_though_it_is_left_again(made: Any) -> None:
    first = made()
    seen = images(itertools.islice(first, 2))
    second = made()
    second.load_state_dict(first.state_dict())
    seen += images([next(iter(second))])
    seen += images([next(iter(second))])
    assert seen + images(second) == order(0)
    assert images(itertools.islice(second, 1)) == order(1)[:4]


def test_a_loop_that_takes_some_batches_an_epoch_sees_all_samples(made: Any) -> None:
    """As Lightning's ``limit_train_batches``: this many batches of a new iterator each time, of which the last may be short."""
    batches, seen = made(), []
    for _ in range(4):
        seen.append(images(batch for _, batch in zip(range(2), batches, strict=False)))
    assert [len(part) for part in seen] == [8, 8, 7, 8]
    assert list(itertools.chain(*seen)) == order(0, 1)[: 23 + 8]


def test_iterators_share_the_place(made: Any) -> None:
    batches = made()
    one, other = iter(batches), iter(batches)
    seen = images(next(each) for each in (one, other, other, one, other))
    assert seen == order(0)[:20]
    assert images(one) == order(0)[20:]
    assert list(other) == [], "it ends with the epoch, whoever took the last batch"
    assert images(batches) == order(1)


def test_nested_loops_end(made: Any) -> None:
    batches = made()
    outer = [(images([batch]), images(batches)) for batch in batches]
    assert outer == [(order(0)[:4], order(0)[4:])]


def test_who_holds_an_iterator_follows_a_state_and_set_epoch(made: Any) -> None:
    batches = made()
    start = batches.state_dict()
    iterator = iter(batches)
    assert images([next(iterator)]) == order(0)[:4]
    batches.load_state_dict(start)
    assert images([next(iterator)]) == order(0)[:4]
    batches.set_epoch(0)
    assert images([next(iterator)]) == order(0)[4:8], "it stands in that epoch"
    batches.set_epoch(5)
    assert images(iterator) == order(5)
    assert batches.state_dict()["epoch"] == 6
    batches.load_state_dict(start)
    assert images(batches) == order(0), "from the beginning, with a state that was taken there"


def test_an_iterator_that_is_only_made_moves_nothing(made: Any) -> None:
    batches = made()
    iter(batches)
    iter(batches)
    assert batches.state_dict()["position"] == 0
    assert images(batches) == order(0)


def test_ranks_that_are_left_early_stay_together(known: Known) -> None:
    ranks = [loader(stream(known, 3, rank=rank, world_size=2, tail="drop")) for rank in range(2)]
    seen = []
    for _ in range(3):
        parts = [images(itertools.islice(each, 1)) for each in ranks]
        seen += [image for pair in zip(*parts, strict=True) for image in pair]
        assert ranks[0].state_dict() == ranks[1].state_dict()
    assert seen == order(0)[:18]


NUMBERS: dict[str, Any] = {
    "numpy int64": np.int64,
    "numpy uint8": np.uint8,
    "0-d array": lambda value: np.array(value),
    "tensor": torch.tensor,
}


@pytest.mark.parametrize("kind", NUMBERS.values(), ids=NUMBERS)
def test_whole_numbers_of_any_kind_are_taken(known: Known, kind: Any) -> None:
    numbers = {"seed": 3, "epoch": 1, "rank": 1, "world_size": 2, "threads": 1}
    theirs = {name: kind(value) for name, value in numbers.items()}
    views = [Candidates(top_k=kind(3)), kind(3)]
    split = open_split(known.store, "d", "val")
    expected = images(split.stream([X], 4, shuffle=True, candidates=Candidates(top_k=3), **numbers))
    for view in views:
        batches = split.stream([X], kind(4), shuffle=np.bool_(True), candidates=view, **theirs)
        assert images(batches) == expected
        next(iter(batches))
        batches.set_epoch(kind(7))
        saved = json.dumps(batches.state_dict())
        assert json.loads(saved)["epoch"] == 7
        assert json.loads(saved)["seed"] == 3
        assert repr(batches.reader.candidates) == repr(Candidates(top_k=3))
    mixed = mix({"val": split}, [X], weights={"val": np.float32(1)}, length=kind(8), shuffle=True)
    json.dumps(mixed.state_dict())
    json.dumps(loader(stream(known, kind(4), seed=kind(3)), num_workers=np.int64(0)).state_dict())


WRONG = [None, True, np.bool_(True), 2.0, np.float32(2), "2", -1, [2], float("nan")]


@pytest.mark.parametrize("name", ["seed", "epoch", "batch_size", "rank", "world_size", "threads", "length"])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_what_is_no_whole_number_is_named(known: Known, name: str, value: Any) -> None:
    if value is None and name in ("threads", "length"):
        pytest.skip("None is the default")
    split = open_split(known.store, "d", "val")
    with pytest.raises(ValueError, match=rf"found {name}=.*, expected a whole number, .*such as {name}=\d"):
        mix({"val": split}, [X], **{"shuffle": True, name: value})


@pytest.mark.parametrize("value", [value for value in WRONG if value is not None], ids=repr)
def test_candidate_numbers_and_others_are_named(known: Known, value: Any) -> None:
    with pytest.raises(ValueError, match="found top_k="):
        Candidates(top_k=value)
    batches = loader(stream(known))
    with pytest.raises(ValueError, match="found epoch="):
        batches.set_epoch(value)
    with pytest.raises(ValueError, match="found num_workers="):
        loader(stream(known), num_workers=value)
    with pytest.raises(ValueError, match="found shuffle="):
        stream(known, shuffle="yes")


def test_seed_none_says_what_to_pass(known: Known) -> None:
    with pytest.raises(ValueError, match=r"found seed=None, expected a whole number, from 0 to \d+: such as seed=0"):
        stream(known, seed=None)


BAD_STATES: dict[str, tuple[Any, str]] = {
    "a negative position": ({"position": -3}, "position=-3"),
    "a position beyond the epoch": ({"position": 24}, "position=24, beyond the 23 samples"),
    "a position with a fraction": ({"position": 4.0}, "position=4.0"),
    "a position as text": ({"position": "4"}, "position='4'"),
    "no position": ({"position": None}, "position=None"),
    "a position that is a truth value": ({"position": True}, "position=True"),
    "a negative epoch": ({"epoch": -1}, "epoch=-1"),
    "an epoch as text": ({"epoch": "0"}, "epoch='0'"),
    "no seed": ({"seed": None}, "seed=None"),
    "a seed too large": ({"seed": 2**64}, "seed=18446744073709551616"),
    "another seed": ({"seed": 4}, "taken with seed=4, this stream was made with seed=3"),
    "shuffle as text": ({"shuffle": "True"}, "shuffle='True'"),
    "another split": (
        {"samples": {"train": 23}, "consumed": {"train": 0}, "weights": {"train": 23.0}},
        "now there are",
    ),
    "other data": ({"samples": {"val": 22}}, "now there are"),
    "samples of another kind": ({"samples": 23}, "samples=23"),
    "consumed of another kind": ({"consumed": [0]}, r"consumed=\[0\]"),
    "consumed less than nothing": ({"consumed": {"val": -1}}, r"consumed\['val'\]=-1"),
    "consumed of others": ({"consumed": {}}, "consumed of"),
    "weights of others": ({"weights": {"train": 1.0}}, "weights of"),
    "weights that are not numbers": ({"weights": {"val": float("nan")}}, r"weights\['val'\]=nan"),
    "weights of another kind": ({"weights": {"val": [1, 2]}}, "weights"),
    "another length": ({"length": 20}, "at the end of an epoch only"),
    "a negative length": ({"length": -1}, "length=-1"),
    "a newer version": ({"version": 2}, "version 2, expected 1"),
    "a version that is a truth value": ({"version": True}, "version True, expected 1"),
}


@pytest.mark.parametrize("what", BAD_STATES)
def test_a_state_that_cannot_be_one_is_refused_and_changes_nothing(known: Known, what: str) -> None:
    change, said = BAD_STATES[what]
    for batches in (stream(known), loader(stream(known))):
        next(iter(batches))
        before = batches.state_dict()
        with pytest.raises(StoreError, match=said):
            batches.load_state_dict({**copy.deepcopy(before), **change})
        assert batches.state_dict() == before
        assert images(batches) == order(0)[4:]


@pytest.mark.parametrize("name", ["seed", "shuffle", "epoch", "position", "length", "samples", "consumed", "weights"])
def test_a_state_that_lacks_something_is_refused(known: Known, name: str) -> None:
    state = stream(known).state_dict()
    del state[name]
    with pytest.raises(StoreError, match=f"the loader state lacks {name};"):
        stream(known).load_state_dict(state)


@pytest.mark.parametrize("state", [None, [], "state", 3, {}])
def test_what_is_no_state_is_refused(known: Known, state: Any) -> None:
    with pytest.raises(StoreError, match="expected"):
        stream(known).load_state_dict(state)


def test_a_state_survives_json_pickle_and_torch_save(known: Known, tmp_path: Path) -> None:
    first: Loader = loader(stream(known))
    seen = images(itertools.islice(first, 2))
    state = first.state_dict()
    torch.save(state, tmp_path / "state.pt")
    numpy_made = {**state, "position": np.int64(state["position"]), "epoch": torch.tensor(0), "seed": np.uint64(3)}
    for kept in (
        json.loads(json.dumps(state)),
        pickle.loads(pickle.dumps(state)),
        torch.load(tmp_path / "state.pt", weights_only=True),
        numpy_made,
    ):
        later = stream(known, 5, seed=0, shuffle=False)
        later.load_state_dict(kept)
        json.dumps(later.state_dict())
        assert seen + images(later) == order(0), "seed and shuffle come from the state"


def test_the_end_of_an_epoch_is_a_place_as_well(known: Known) -> None:
    first = stream(known)
    for _ in range(len(first)):
        next(iter(first))
    state = first.state_dict()
    assert state["position"] == 23
    later = stream(known)
    later.load_state_dict(state)
    assert images(later) == order(1)
