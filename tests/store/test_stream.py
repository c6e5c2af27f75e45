"""Streams: what comes, in which order, and what is read for it."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
from factory import Known, full_store
from hypothesis import given, settings
from hypothesis import strategies as st

from store import Candidates, FailedImageError, StoreError, mix, open_split, rle
from store.order import mixed_order, permutation, quotas
from store.overlap import against_targets
from store.schedule import SampleSet, Schedule

X, G = "mask_embeddings/x", "instance_embeddings/x"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=23)


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


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"tail": "cut"}, "keep, drop, repeat"),
        ({"seed": -1, "shuffle": True}, "seed=-1"),
        ({"level": "masks"}, "image, target"),
        ({"failed": "ignore"}, "raise or skip"),
        ({"threads": -1}, "threads=-1"),
    ],
)
def test_wrong_arguments_are_named(known: Known, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        open_split(known.store, "d", "val").stream([X], **how)


@pytest.mark.parametrize("name", ["mask_embeddings/y", "masks.segmentations", "nothing.area", "a.b.c"])
def test_an_unknown_column_is_named_with_the_choices(known: Known, name: str) -> None:
    with pytest.raises(KeyError, match="no column|no field"):
        open_split(known.store, "d", "val").stream([name])


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("check", ["always", "first-touch", "never"])
def test_padded_batches_hold_what_was_written(known: Known, threads: int, check: str) -> None:
    split = open_split(known.store, "d", "val", check=check)
    seen = []
    for batch in split.stream([X, G, "images.image_id"], batch_size=4, shuffle=True, threads=threads):
        assert batch[X].flags.c_contiguous
        assert batch[X].flags.writeable
        for slot, image in enumerate(batch["image_index"]):
            for key, want in ((X, known.embeddings), (G, known.instance_embeddings)):
                count = len(want[image])
                np.testing.assert_array_equal(batch[key][slot, :count], want[image])
                assert not batch[key][slot, count:].any(), "zeros behind them"
                assert batch[f"{key}:mask"][slot].tolist() == [True] * count + [False] * (32 - count)
            assert batch["images.image_id"][slot] == f"image{image}"
        seen += batch["image_index"].tolist()
    assert seen == permutation(23, 0, 0).tolist()


def test_ragged_batches_hold_what_was_written(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    for batch in split.stream({"e": X}, batch_size=5, ragged=True):
        offsets = batch["e:offsets"]
        for slot, image in enumerate(batch["image_index"]):
            np.testing.assert_array_equal(batch["e"][offsets[slot] : offsets[slot + 1]], known.embeddings[image])
        assert len(batch["e"]) == offsets[-1]


def test_fields_are_those_of_the_records(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    names = ["masks", "instances", "targets", "match/targets", "match/instances", "images", "masks.point_coords"]
    for batch in split.stream(names, batch_size=7):
        for slot, image in enumerate(batch["image_index"].tolist()):
            record = split[image]
            masks = batch["masks"][slot]
            assert masks["segmentation"] == [mask.segmentation for mask in record.masks]
            for field in ("bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box"):
                want = [mask[field] for mask in record.masks]
                np.testing.assert_array_equal(masks[field], np.array(want).reshape(np.shape(masks[field])))
            np.testing.assert_array_equal(batch["masks.point_coords"][slot], masks["point_coords"])
            assert batch["instances"][slot]["label"] == [each["label"] for each in record.instances]
            assert len(batch["targets"][slot]) == len(record.targets)
            for got, iou, want in zip(
                batch["targets"][slot], batch["match/targets"][slot], record.targets, strict=True
            ):
                for field in ("target_id", "texts", "is_sentence", "answer", "segmentation", "ignore"):
                    assert got[field] == want[field]
                assert got["instances"].tolist() == want["instances"]
                np.testing.assert_array_equal(iou["iou_valid"], np.array(want["iou_valid"], np.float32))
            (row,) = split.column("match/instances").table(image // 4).slice(image % 4, 1).to_pylist()
            assert [list(map(float, each)) for each in batch["match/instances"][slot]["iou"]] == row["iou"]
            assert batch["images"][slot]["width_px"] == 6


def test_targets_of_an_image_share_one_read(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    from store.shard_reader import ShardReader

    split, reads = open_split(known.store, "d", "val"), []
    real = ShardReader.read_into
    monkeypatch.setattr(
        ShardReader, "read_into", lambda self, position, *rest: (reads.append(position), real(self, position, *rest))[1]
    )
    stream = split.stream([X, "targets.texts", "match/targets.iou"], batch_size=64, level="target", threads=0)
    (batch,) = stream
    assert batch["targets.texts"] == [target["texts"] for own in known.targets for target in own]
    assert len(reads) == sum(len(own) > 0 for own in known.embeddings)
    for slot, (image, number) in enumerate(zip(batch["image_index"], batch["target"], strict=True)):
        count = len(known.embeddings[image])
        np.testing.assert_array_equal(batch[X][slot, :count], known.embeddings[image])
        want = split[int(image)].targets[number]["iou"]
        np.testing.assert_array_equal(batch["match/targets.iou"][slot, :count], np.array(want, np.float32))
        assert not batch["match/targets.iou"][slot, count:].any()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    "view",
    [
        Candidates(top_k=3),
        Candidates(drop_near_gt=0.6),
        Candidates(with_gt=True),
        Candidates(top_k=5, drop_near_gt=0.95, with_gt=True),
        Candidates(),
    ],
    ids=str,
)
def test_candidate_sets_are_views(known: Known, view: Candidates, ragged: bool) -> None:
    """Against a plain loop over masks and instances as pixels."""
    split = open_split(known.store, "d", "val")
    names = [
        X,
        "masks.segmentation",
        "masks.area",
        "match/targets.iou_valid",
        "match/targets.iop",
        "match/instances.iou",
    ]
    stream = split.stream(names, batch_size=6, level="target", candidates=view, ragged=ragged)
    for batch in stream:
        for slot, (image, number) in enumerate(zip(batch["image_index"].tolist(), batch["target"], strict=True)):
            masks, gt = known.masks[image], known.instances[image]
            keep = list(range(len(masks)))[: view.top_k]
            if view.drop_near_gt is not None:
                ious = [[(m & g).sum() / max(1, (m | g).sum()) for g in gt] for m in masks]
                keep = [k for k in keep if not any(value > view.drop_near_gt for value in ious[k])]
            pixels = [masks[k] for k in keep] + (gt if view.with_gt else [])
            index = keep + ([-1 - j for j in range(len(gt))] if view.with_gt else [])
            rows = [known.embeddings[image][k] for k in keep]
            rows += list(known.instance_embeddings[image]) if view.with_gt else []

            def own(key: str, batch: dict[str, Any] = batch, slot: int = slot, n: int = len(index)) -> np.ndarray:
                if ragged:
                    offsets = batch[f"{key}:offsets"]
                    assert offsets[slot + 1] - offsets[slot] == n
                    return batch[key][offsets[slot] : offsets[slot + 1]]
                assert not np.any(batch[key][slot, n:]), "padding"
                assert batch["candidates:mask"][slot].sum() == n
                return batch[key][slot, :n]

            assert own("candidates").tolist() == index
            np.testing.assert_array_equal(own(X), np.array(rows, np.float16).reshape(-1, 8))
            assert [rle.decode(text, 4, 6).tolist() for text in batch["masks.segmentation"][slot]] == [
                p.tolist() for p in pixels
            ]
            assert own("masks.area").tolist() == [p.sum() for p in pixels]
            target = known.targets[image][number]
            _, iop, valid, _ = against_targets(
                [rle.encode(p) for p in pixels], target["segmentation"], target["ignore"]
            )
            np.testing.assert_allclose(own("match/targets.iou_valid"), valid)
            np.testing.assert_allclose(own("match/targets.iop"), iop)
            found = batch["match/instances.iou"][slot]
            assert len(found) == len(pixels)
            for row, p in zip(found, pixels, strict=True):
                want = [(p & g).sum() / max(1, (p | g).sum()) for g in gt]
                np.testing.assert_allclose(row, want, rtol=1e-6)


def test_a_view_says_what_else_it_needs(known: Known) -> None:
    split = open_split(known.store, "d", "val", columns=[X])
    with pytest.raises(StoreError, match="instance_embeddings/x: open the split with it"):
        split.stream([X], candidates=Candidates(with_gt=True))
    with pytest.raises(StoreError, match="leave masks.predicted_iou out"):
        list(open_split(known.store, "d", "val").stream(["masks.predicted_iou"], candidates=Candidates(with_gt=True)))
    with pytest.raises(ValueError, match="top_k=0"):
        Candidates(top_k=0)
    with pytest.raises(ValueError, match="drop_near_gt=2"):
        Candidates(drop_near_gt=2)


def test_only_the_bytes_asked_for_are_read(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real, read = os.preadv, []
    split = open_split(known.store, "d", "val")
    list(split.stream([X], threads=0))  # indices
    monkeypatch.setattr(os, "preadv", lambda *given: (got := real(*given), read.append(got))[0])
    list(split.stream([X], threads=0))
    chunk = 16 * 8 * 2 + 4
    assert sum(read) == sum(-(-len(own) // 16) * chunk for own in known.embeddings)
    read.clear()
    list(split.stream([X], threads=0, candidates=Candidates(top_k=3)))
    seals = sum(4 for own in known.embeddings if len(own) > 16)
    assert sum(read) == sum(chunk for own in known.embeddings if len(own)) + seals, (
        "the first chunk, and the other's checksum"
    )


def test_failed_images_stop_a_stream_or_are_skipped_and_listed(tmp_path: Path) -> None:
    factory.write_images(tmp_path, 9, failed={2: "cannot be decoded: a test", 8: "too large"})
    split = open_split(tmp_path, "d", "val")
    with pytest.raises(
        FailedImageError, match=r"2 of 9 images failed, such as image 2, images: cannot be decoded.*skip"
    ):
        split.stream(["images.image_id"])
    stream = split.stream(["images.image_id"], failed="skip")
    assert stream.failed == {"val": ((2, "images: cannot be decoded: a test"), (8, "images: too large"))}
    assert [image for batch in stream for image in batch["image_index"].tolist()] == [0, 1, 3, 4, 5, 6, 7]


def test_a_stream_of_an_unfinished_column_says_so(tmp_path: Path) -> None:
    factory.small_store(tmp_path, [3] * 9)
    (tmp_path / "d/val/mask_embeddings/x/commits/00001.json").unlink()
    with pytest.raises(StoreError, match="shard 1 is not there"):
        open_split(tmp_path, "d", "val", allow_incomplete=True).stream([X])


def test_splits_are_mixed_by_weight(tmp_path: Path) -> None:
    full_store(tmp_path, 9, "train", seed=1)
    full_store(tmp_path, 5, "val", seed=2)
    splits = {name: open_split(tmp_path, "d", name) for name in ("train", "val")}
    stream = mix(splits, [X], batch_size=4, weights={"train": 1, "val": 3}, length=40, shuffle=True)
    batches = list(stream)
    source = np.concatenate([batch["source"] for batch in batches])
    assert np.bincount(source).tolist() == [10, 30]
    for batch in batches:
        for slot, (where, image) in enumerate(zip(batch["source"], batch["image_index"], strict=True)):
            want = list(splits.values())[where][int(image)][X]
            np.testing.assert_array_equal(batch[X][slot, : len(want)], want)
    plain = mix(splits, [X], batch_size=4)
    assert [image for batch in plain for image in batch["image_index"].tolist()] == [*range(9), *range(5)]


def test_a_stream_goes_on_where_its_state_was_taken(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    stream = split.stream([X], batch_size=3, shuffle=True, epoch=2)
    first = [image for _, batch in zip(range(3), stream, strict=False) for image in batch["image_index"].tolist()]
    later = split.stream([X], batch_size=5, shuffle=True, threads=0)
    later.load_state_dict(stream.state_dict())
    rest = [image for batch in later for image in batch["image_index"].tolist()]
    assert first + rest == permutation(23, 0, 2).tolist()
    assert later.state_dict()["epoch"] == 3


def test_an_abandoned_stream_leaves_no_threads(known: Known) -> None:
    import threading

    stream = iter(open_split(known.store, "d", "val").stream([X], batch_size=2))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("elisa-store")]


def test_memory_that_is_held_is_not_used_again(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    batches = list(split.stream([X], batch_size=2, threads=2))
    kept = [batch[X][0] for batch in batches]
    images = [int(batch["image_index"][0]) for batch in batches]
    del batches
    list(split.stream([X], batch_size=2, threads=2))
    for got, image in zip(kept, images, strict=True):
        np.testing.assert_array_equal(got[: len(known.embeddings[image])], known.embeddings[image])
