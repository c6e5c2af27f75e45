"""Streams: what comes, in which order, and what is read for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
from factory import Known, full_store

from store import Candidates, FailedImageError, StoreError, mix, open_split, rle
from store.format.schema import TABLES
from store.overlap import against_targets
from store.stream.candidates import instance_of, number_of_instance
from store.stream.schedule import permutation

X, G = "mask_embeddings/sam/x", "instance_embeddings/x"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("full"), images=23)


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


@pytest.mark.parametrize("name", ["mask_embeddings/sam/y", "masks.segmentations", "nothing.area", "a.b.c"])
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
                assert batch[f"{key}_mask"][slot].tolist() == [True] * count + [False] * (32 - count)
            assert batch["images.image_id"][slot] == f"image{image}"
        seen += batch["image_index"].tolist()
    assert seen == permutation(23, 0, 0).tolist()


def test_ragged_batches_hold_what_was_written(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    for batch in split.stream({"e": X}, batch_size=5, ragged=True):
        offsets = batch["e_offsets"]
        for slot, image in enumerate(batch["image_index"]):
            np.testing.assert_array_equal(batch["e"][offsets[slot] : offsets[slot + 1]], known.embeddings[image])
        assert len(batch["e"]) == offsets[-1]


def test_fields_are_those_of_the_records(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    names = [
        "masks",
        "instances",
        "targets",
        "match/sam/targets",
        "match/sam/instances",
        "images",
        "masks.point_coords",
    ]
    for batch in split.stream(names, batch_size=7):
        for slot, image in enumerate(batch["image_index"].tolist()):
            record = split[image]
            masks = batch["masks"][slot]
            assert masks["segmentation"] == [mask.segmentation for mask in record.masks]
            for field in ("bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box"):
                want = [mask[field] for mask in record.masks]
                np.testing.assert_array_equal(masks[field], np.array(want).reshape(np.shape(masks[field])))
            there = batch["masks.point_coords_mask"][slot]
            np.testing.assert_array_equal(batch["masks.point_coords"][slot][there], masks["point_coords"])
            assert not batch["masks.point_coords"][slot][~there].any()
            assert batch["instances"][slot]["label"] == [each["label"] for each in record.instances]
            assert len(batch["targets"][slot]) == len(record.targets)
            for got, iou, want in zip(
                batch["targets"][slot], batch["match/sam/targets"][slot], record.targets, strict=True
            ):
                for field in ("target_id", "texts", "is_sentence", "answer", "segmentation", "ignore"):
                    assert got[field] == want[field]
                assert got["instances"].tolist() == want["instances"]
                np.testing.assert_array_equal(iou["iou_valid"], np.array(want["iou_valid"], np.float32))
            (row,) = split.column("match/sam/instances").table(image // 4).slice(image % 4, 1).to_pylist()
            assert [list(map(float, each)) for each in batch["match/sam/instances"][slot]["iou"]] == row["iou"]
            assert batch["images"][slot]["width_px"] == 6


def test_targets_of_an_image_share_one_read(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    from store.read.array import ShardReader

    split, reads = open_split(known.store, "d", "val"), []
    real = ShardReader.read_into
    monkeypatch.setattr(
        ShardReader, "read_into", lambda self, position, *rest: (reads.append(position), real(self, position, *rest))[1]
    )
    stream = split.stream([X, "targets.texts", "match/sam/targets.iou"], batch_size=64, level="target", threads=0)
    (batch,) = stream
    assert batch["targets.texts"] == [target["texts"] for own in known.targets for target in own]
    assert len(reads) == sum(len(own) > 0 for own in known.embeddings)
    for slot, (image, number) in enumerate(zip(batch["image_index"], batch["target"], strict=True)):
        count = len(known.embeddings[image])
        np.testing.assert_array_equal(batch[X][slot, :count], known.embeddings[image])
        want = split[int(image)].targets[number]["iou"]
        np.testing.assert_array_equal(batch["match/sam/targets.iou"][slot, :count], np.array(want, np.float32))
        assert not batch["match/sam/targets.iou"][slot, count:].any()


@pytest.mark.parametrize("level", ["image", "target"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("candidates", [None, 3])
def test_what_a_key_holds_does_not_depend_on_other_keys(
    known: Known, level: str, ragged: bool, candidates: int | None
) -> None:
    split = open_split(known.store, "d", "val")
    fields = [f"{table}.{field.name}" for table, schema in TABLES.items() for field in schema]
    names = [X, G, *TABLES, *fields]

    def kinds(wanted: list[str]) -> dict[str, Any]:
        batch = next(iter(split.stream(wanted, 7, level=level, ragged=ragged, candidates=candidates)))
        return {
            key: (value.dtype, value.ndim) if isinstance(value, np.ndarray) else type(value)
            for key, value in batch.items()
        }

    alone: dict[str, Any] = {}
    for name in names:
        alone |= kinds([name])
    assert kinds(names) == alone
    arrays = {key.rpartition(".")[2] for key, kind in alone.items() if kind is not list and "masks." in key}
    ends = ("", "_offsets" if ragged else "_mask")
    of_masks = ("area", "bbox", "predicted_iou", "stability_score", "point_coords", "crop_box")
    assert arrays == {f"{field}{end}" for field in of_masks for end in ends}
    assert (alone["match/targets.iou"] is list) == (level == "image")
    assert not any(":" in key for key in alone)


def test_two_things_of_one_key_are_refused(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    for wanted, how, said in (
        ({"image_index": X}, {}, "'image_index' for mask_embeddings/sam/x, which is the image_index of each sample"),
        ({"v": X, "v_mask": "masks.area"}, {}, "'v_mask' for masks/sam, which is what belongs to v"),
        ({"target": "targets.texts"}, {"level": "target"}, "which is the number of each target"),
        ({"candidates": X}, {"candidates": 3}, "which is the numbers of the candidates"),
        ({"candidates_offsets": X}, {"candidates": 3}, "which is what belongs to candidates"),
    ):
        with pytest.raises(ValueError, match=f"found the key .*{said}: choose another one"):
            split.stream(wanted, **how)
    assert "target" in next(iter(split.stream({"target": "targets.texts"})))


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
        "match/sam/targets.iou_valid",
        "match/sam/targets.iop",
        "match/sam/instances.iou",
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
                    offsets = batch[f"{key}_offsets"]
                    assert offsets[slot + 1] - offsets[slot] == n
                    return batch[key][offsets[slot] : offsets[slot + 1]]
                assert not np.any(batch[key][slot, n:]), "padding"
                assert batch["candidates_mask"][slot].sum() == n
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
            np.testing.assert_allclose(own("match/sam/targets.iou_valid"), valid)
            np.testing.assert_allclose(own("match/sam/targets.iop"), iop)
            found = batch["match/sam/instances.iou"][slot]
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
    (tmp_path / "d/mask_embeddings/sam/x/val/c/1/0/0").unlink()
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

    before = set(threading.enumerate())  # those that ask a bucket are the process's
    stream = iter(open_split(known.store, "d", "val").stream([X], batch_size=2))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


def test_memory_that_is_held_is_not_used_again(known: Known) -> None:
    split = open_split(known.store, "d", "val")
    batches = list(split.stream([X], batch_size=2, threads=2))
    kept = [batch[X][0] for batch in batches]
    images = [int(batch["image_index"][0]) for batch in batches]
    del batches
    list(split.stream([X], batch_size=2, threads=2))
    for got, image in zip(kept, images, strict=True):
        np.testing.assert_array_equal(got[: len(known.embeddings[image])], known.embeddings[image])


def test_a_batch_of_chosen_images_is_what_a_stream_gives_of_them(known: Known) -> None:
    split, view = open_split(known.store, "d", "val"), Candidates(top_k=5, drop_near_gt=0.95, with_gt=True)
    names = [X, "masks.segmentation", "match/sam/instances.iou", "images.image_id"]
    (whole,) = split.stream(names, batch_size=64, candidates=view, threads=0)
    chosen = [7, 2, 7]
    for batch in (split.batch(chosen, names, candidates=view), split.batch(["image7", -21, 7], names, candidates=view)):
        assert batch.keys() == whole.keys()
        for key, values in batch.items():
            for slot, image in enumerate(chosen):
                np.testing.assert_equal(values[slot], whole[key][image])
    assert len(split.batch([], [X], ragged=True)[X]) == 0
    with pytest.raises(IndexError, match="image_index 23 is outside"):
        split.batch([23], [X])


def test_numbers_of_candidates_name_masks_and_instances() -> None:
    assert [instance_of(number) for number in (0, 5, -1, -4)] == [None, None, 0, 3]
    assert [instance_of(number_of_instance(j)) for j in range(4)] == list(range(4))
    assert number_of_instance(np.arange(3)).tolist() == [-1, -2, -3]


def test_boxes_of_instances_among_candidates_are_as_those_of_masks(known: Known) -> None:
    split, view = open_split(known.store, "d", "val"), Candidates(top_k=1, with_gt=True)
    for batch in split.stream(["masks.bbox"], batch_size=1, candidates=view):
        (image,), (boxes,) = batch["image_index"], batch["masks.bbox"]
        for box, instance in zip(
            boxes[len(boxes) - len(known.instances[image]) :], known.instances[image], strict=True
        ):
            rows, columns = np.nonzero(instance)
            assert box.tolist() == [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]
