"""The order of an epoch, its split over ranks, tails, mixtures and states: no store is read."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store import StoreError
from store.stream.sample_set import SampleSet
from store.stream.schedule import Schedule, mixed_order, permutation, quotas


def schedule(samples: int, batch: int, epoch: int = 0, **how: Any) -> Schedule:
    images = np.arange(samples)
    return Schedule({"d": SampleSet(images, np.full(samples, -1))}, batch, shuffle=True, seed=5, epoch=epoch, **how)


def test_the_order_is_fixed_for_good() -> None:
    assert permutation(12, 0, 0).tolist() == [11, 10, 2, 4, 1, 6, 7, 8, 9, 0, 5, 3]
    assert permutation(5, 2**64 - 1, 3).tolist() == [3, 1, 0, 2, 4]


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 2**64 - 1), st.integers(0, 100))
def test_a_shuffle_is_a_permutation(count: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(permutation(count, seed, epoch)), np.arange(count))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [permutation(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    for a, b in itertools.combinations(orders, 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.12
    assert all(abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.12 for order in orders)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**32), st.data())
def test_every_sample_comes_once_whatever_ranks_batches_and_resumes(
    samples: int, chance: int, data: st.DataObject
) -> None:
    """Random schedules of (ranks, batch, kill, resume, resume again): each epoch's order is the reference permutation."""
    rng, state, seen = random.Random(chance), None, []
    for _ in range(100):
        world, batch = rng.randint(1, 5), rng.randint(1, 9)
        ranks = [schedule(samples, batch, rank=rank, world_size=world) for rank in range(world)]
        if state is not None:
            for each in ranks:
                each.load_state_dict(state)
        stop, steps = rng.randint(0, 6), [list(each.steps()) for each in ranks]
        rounds = max((len(found) for found in steps), default=0)
        for number in range(min(stop, rounds)):
            for place in range(batch):
                for found in steps:
                    if number < len(found) and place < len(found[number].samples.image):
                        seen.append(found[number].samples.image[place])
            for each in ranks:
                each.position = max(step.position for step in (f[number] for f in steps if number < len(f)))
        state = ranks[0].state_dict()
        if stop >= rounds:
            break
    else:
        assert len(seen) <= samples
        return
    assert seen == permutation(samples, 5, 0).tolist()


@settings(deadline=None)
@given(st.integers(1, 100), st.integers(1, 9), st.integers(1, 5), st.integers(0, 99))
def test_tails(samples: int, batch: int, world: int, position: int) -> None:
    for tail in ("keep", "drop", "repeat"):
        ranks = [schedule(samples, batch, rank=rank, world_size=world, tail=tail) for rank in range(world)]
        for each in ranks:
            each.position = min(position, samples)
        steps = [list(each.steps()) for each in ranks]
        images = [image for found in steps for step in found for image in step.samples.image]
        fresh = [
            image
            for found in steps
            for step in found
            for image, again in zip(step.samples.image, step.repeated, strict=True)
            if not again
        ]
        rest = permutation(samples, 5, 0)[min(position, samples) :].tolist()
        if tail != "keep":
            assert len({len(found) for found in steps}) == 1, "equal batch counts"
            assert all(len(step.samples.image) == batch for found in steps for step in found)
        if tail == "drop":
            assert len(images) == len(rest) // (batch * world) * batch * world
            assert sorted(images) == sorted(rest[: len(images)])
        else:
            assert sorted(fresh) == sorted(rest)
        assert tail == "repeat" or images == fresh


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 10)), min_size=1, max_size=4),
    st.integers(1, 200),
    st.integers(0, 2**32),
)
def test_mixtures_keep_their_shares_and_go_through_each_source_in_laps(
    sources: list[tuple[int, float]], length: int, seed: int
) -> None:
    counts, weights = [count for count, _ in sources], [weight for _, weight in sources]
    shares, drawn = quotas(weights, length), [list[int]() for _ in counts]
    assert sum(shares) == length
    assert all(abs(share - weight / sum(weights) * length) < 1 for share, weight in zip(shares, weights, strict=True))
    for epoch in range(4):
        order = mixed_order(counts, weights, length, [epoch * share for share in shares], seed, epoch)
        assert np.bincount(order.source, minlength=len(counts)).tolist() == shares
        for source, one in zip(order.source, order.sample, strict=True):
            drawn[source].append(int(one))
    for count, found in zip(counts, drawn, strict=True):
        for lap in range(0, len(found), count):
            part = found[lap : lap + count]
            assert len(set(part)) == len(part)


def test_a_mixture_resumes_within_an_epoch_and_changes_its_weights_between_them() -> None:
    images = {name: SampleSet(np.arange(count), np.full(count, -1)) for name, count in (("a", 30), ("b", 7))}

    def made(**how: Any) -> Schedule:
        return Schedule(images, 4, shuffle=True, **{"weights": {"a": 1.0, "b": 2.0}, "length": 24, **how})

    whole = made()
    steps = list(whole.steps())
    whole.advance(steps[2])
    other = made()
    other.load_state_dict(whole.state_dict())
    assert [step.samples for step in other.steps()] == [step.samples for step in steps[3:]]
    changed = made(weights={"a": 2.0, "b": 1.0})
    with pytest.raises(StoreError, match="at the end of an epoch"):
        changed.load_state_dict(whole.state_dict())
    whole.finish()
    changed.load_state_dict(whole.state_dict())
    assert changed.state_dict()["consumed"] == {"a": 8, "b": 16}, "counters go on"
    changed.finish()
    assert changed.state_dict()["consumed"] == {"a": 24, "b": 24}


def test_a_state_of_other_data_is_refused() -> None:
    with pytest.raises(StoreError, match="now there are"):
        schedule(9, 2).load_state_dict(schedule(10, 2).state_dict())
    with pytest.raises(StoreError, match="version"):
        schedule(9, 2).load_state_dict({})
