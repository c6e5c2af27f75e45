"""A split whose images another data set holds: what it reads there, what it never reads there, and in which order."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from borrowers import CENTERED, CENTERED_GT, HELD, LINKS, NO_SUCH, OWN, Lent, X, copy_of

from store import Candidates, FailedImageError, Split, StoreError, mix, open_split, rle
from store.format.schema import OK
from store.read.borrowed import Borrowed
from store.read.column import open_column
from store.read.holder import open_place
from store.torch import loader

G = "instance_embeddings/x"


@pytest.fixture(scope="module")
def split(lent: Lent) -> Split:
    return open_split(lent.store, "words", "test")


def decoded(regions: Any) -> list[Any]:
    return [region.decode().tolist() for region in regions]


def plain(masks: list[np.ndarray]) -> list[Any]:
    return [mask.tolist() for mask in masks]


def test_by_default_its_own_columns_are_open_and_those_of_pictures_of_the_holder(split: Split) -> None:
    assert list(split.columns) == [*OWN, *HELD]
    assert split.image_ids[:4] == ("val-9", "train-3", "val-0", "lost")
    assert split.proposers == ("sam",)
    assert "of d/masks/sam/val, d/masks/sam/train" in repr(split.column("masks"))


def test_records_hold_the_holders_masks_and_vectors(lent: Lent, split: Split) -> None:
    holder = {name: open_split(lent.store, "d", name) for name in lent.holder}
    for image in lent.linked:
        name, index = lent.links[image]  # type: ignore[misc]
        record, theirs = split[image], holder[name][index]
        assert (record.path, record.error) == (theirs.path, None)
        assert decoded(record.masks) == decoded(theirs.masks) == plain(lent.masks(image))
        np.testing.assert_array_equal(record["mask_embeddings/x"], lent.embeddings(image))
        np.testing.assert_array_equal(record[CENTERED], theirs[CENTERED])
        assert record.rows("masks")[0]["image_index"] == index
        assert split.column(X).is_ok(image)


def test_annotations_are_its_own(lent: Lent, split: Split) -> None:
    for image in lent.linked:
        record = split[f"{LINKS[image][0]}-{LINKS[image][1]}"]  # type: ignore[index]
        assert decoded(record.instances) == plain(lent.instances[image])
        assert [target["texts"] for target in record.targets] == [target["texts"] for target in lent.targets[image]]
        for target, own in zip(record.targets, lent.targets[image], strict=True):
            assert len(target["iou"]) == len(lent.masks(image))
            want = rle.decode(own["segmentation"], 4, 6)
            masks = lent.masks(image)
            exact = [(want & mask).sum() / max(1, (want | mask).sum()) for mask in masks]
            np.testing.assert_allclose(target["iou"], exact, rtol=1e-6)
        np.testing.assert_array_equal(record[G], lent.instance_embeddings[image])


@pytest.mark.parametrize("column", OWN[1:])
def test_annotations_of_the_holder_are_never_read(lent: Lent, tmp_path: Path, column: str) -> None:
    """They are about other questions: what the borrower lacks of these, it does not have."""
    store = copy_of(lent.store, tmp_path / "store")
    shutil.rmtree(store / "words" / column / "test")
    assert column not in open_split(store, "words", "test").columns
    with pytest.raises(StoreError, match=f"words/test: no column {column}"):
        open_split(store, "words", "test", columns=[column])
    with pytest.raises(KeyError, match="no column"):
        open_split(store, "words", "test").stream([column])
    with pytest.raises(StoreError, match="holds no column"):
        open_place(store, f"words/{column}/test")


def test_an_image_that_the_holder_lacks_has_failed_with_the_reason_of_its_row(lent: Lent, split: Split) -> None:
    record = split[3]
    for read in (lambda: record.masks, lambda: record[X], lambda: record.rows("masks"), lambda: split.batch([3], X)):
        with pytest.raises(FailedImageError, match=NO_SUCH):
            read()
    assert not split.column("masks").is_ok(3)
    with pytest.raises(FailedImageError, match=f"1 of 10 images failed, such as image 3, images: {NO_SUCH}"):
        split.stream([X])
    assert split.stream([X], failed="skip").failed == {"test": ((3, f"images: {NO_SUCH}"),)}


def test_pixels_are_below_the_folder_of_the_holder(lent: Lent, tmp_path: Path) -> None:
    """The file has the digest of the index (the factory's is that of the path), so it is read, and then no picture."""
    (tmp_path / "val").mkdir()
    (tmp_path / "val/image9.jpg").write_bytes(b"val/image9.jpg")
    with pytest.raises(StoreError, match="cannot be decoded"):
        open_split(lent.store, "words", "test", images_root=tmp_path)[0].image()


@pytest.mark.parametrize(
    ("columns", "proposer", "found"),
    [
        ("masks", None, ["masks/sam"]),
        (["mask_embeddings/x", "match/targets"], None, [X, "match/sam/targets"]),
        ([X, "instances"], "sam", [X, "instances"]),
        ([CENTERED.replace("/sam", "")], "sam", [CENTERED]),
        (["instances", "targets"], None, ["instances", "targets"]),
    ],
)
def test_columns_of_both_by_name(lent: Lent, columns: Any, proposer: str | None, found: list[str]) -> None:
    split = open_split(lent.store, "words", "test", columns=columns, proposer=proposer)
    assert list(split.columns) == ["images", *found]
    assert [name for name, column in split.columns.items() if isinstance(column, Borrowed)] == [
        name for name in found if name in HELD
    ]


def test_a_name_that_nobody_has_is_named_with_the_choices(lent: Lent) -> None:
    with pytest.raises(
        StoreError, match=r"words/test: no column mask; did you mean 'masks'\? found centered.*masks/sam$"
    ):
        open_split(lent.store, "words", "test", columns=["mask"])
    with pytest.raises(StoreError, match="no column of a proposer 'other'"):
        open_split(lent.store, "words", "test", proposer="other")


def of_image(batch: dict[str, Any], key: str, slot: int, ragged: bool = False, like: str = "") -> np.ndarray:
    """The vectors of a sample, or its numbers that are padded as the vectors ``like``."""
    if ragged:
        start, end = batch[f"{key}_offsets"][slot : slot + 2]
        return batch[key][start:end]
    return batch[key][slot][batch[f"{like or key}_mask"][slot]]


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("level", ["image", "target"])
@pytest.mark.parametrize("threads", [0, 2])
def test_streams_read_both(lent: Lent, split: Split, level: str, ragged: bool, threads: int) -> None:
    names = [X, "masks.segmentation", "masks.area", "match/targets.iou", "targets.texts", G]
    how: dict[str, Any] = {"level": level, "ragged": ragged, "threads": threads, "failed": "skip"}
    seen = []
    for batch in split.stream(names, 3, shuffle=True, seed=5, **how):
        for slot, image in enumerate(batch["image_index"].tolist()):
            np.testing.assert_array_equal(of_image(batch, X, slot, ragged), lent.embeddings(image))
            np.testing.assert_array_equal(of_image(batch, G, slot, ragged), lent.instance_embeddings[image])
            want = lent.masks(image)
            assert batch["masks.segmentation"][slot] == [rle.encode(mask) for mask in want]
            assert of_image(batch, "masks.area", slot, ragged, X).tolist() == [mask.sum() for mask in want]
            texts = [target["texts"] for target in lent.targets[image]]
            number = batch["target"][slot] if level == "target" else -1
            assert batch["targets.texts"][slot] == (texts if number < 0 else texts[number])
            if number >= 0:
                iou = split[image].targets[number]["iou"]
                np.testing.assert_array_equal(of_image(batch, "match/targets.iou", slot, ragged, X), iou)
            seen.append((image, int(number)))
    targets = [(image, number) for image in lent.linked for number in range(len(lent.targets[image]))]
    assert sorted(seen) == (targets if level == "target" else [(image, -1) for image in lent.linked])


@pytest.mark.parametrize(("vectors", "companion"), [(X, G), (CENTERED, CENTERED_GT)])
def test_candidates_are_masks_of_the_holder_and_instances_of_its_own(
    lent: Lent, split: Split, vectors: str, companion: str
) -> None:
    view = Candidates(top_k=6, drop_near_gt=0.95, with_gt=True)
    dropped = 0
    names = [vectors, "masks.segmentation", "match/targets.iou"]
    for batch in split.stream(names, 4, failed="skip", level="target", candidates=view):
        for slot, image in enumerate(batch["image_index"].tolist()):
            masks, own = lent.masks(image)[:6], lent.instances[image]
            near = [max((m & g).sum() / max(1, (m | g).sum()) for g in own) > 0.95 for m in masks]
            kept = [k for k, each in enumerate(near) if not each]
            dropped += sum(near)
            want = np.concatenate([split[image][vectors][kept], split[image][companion]])
            np.testing.assert_array_equal(of_image(batch, vectors, slot), want)
            painted = [*(masks[k] for k in kept), *own]
            assert batch["masks.segmentation"][slot] == [rle.encode(mask) for mask in painted]
            target = own[batch["target"][slot]]
            iou = [(m & target).sum() / max(1, (m | target).sum()) for m in painted]
            np.testing.assert_allclose(batch["match/targets.iou"][slot, : len(painted)], iou, rtol=1e-6)
    assert dropped > 2


def test_candidates_of_fields_alone(lent: Lent, split: Split) -> None:
    view = Candidates(top_k=3, with_gt=True)
    for batch in split.stream(["masks.area", "masks.segmentation"], 4, failed="skip", candidates=view):
        for slot, image in enumerate(batch["image_index"].tolist()):
            painted = [*lent.masks(image)[:3], *lent.instances[image]]
            assert list(of_image(batch, "masks.area", slot)) == [mask.sum() for mask in painted]
            assert batch["masks.segmentation"][slot] == [rle.encode(mask) for mask in painted]


def test_a_holder_and_its_borrower_are_mixed(lent: Lent, split: Split) -> None:
    splits = {"val": open_split(lent.store, "d", "val"), "test": split}
    names = [X, "targets.texts"]
    how: dict[str, Any] = {"shuffle": True, "level": "target", "failed": "skip"}
    found = set()
    for batch in mix(splits, names, 5, weights={"val": 1, "test": 2}, length=60, **how):
        for slot, (source, image) in enumerate(zip(batch["source"], batch["image_index"].tolist(), strict=True)):
            want = lent.embeddings(image) if source else lent.holder["val"].embeddings[image]
            np.testing.assert_array_equal(of_image(batch, X, slot), want)
            texts = (lent if source else lent.holder["val"]).targets[image][batch["target"][slot]]["texts"]
            assert batch["targets.texts"][slot] == texts
            found.add((int(source), image))
    assert {image for source, image in found if source} == set(lent.linked)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_loader_with_workers(lent: Lent) -> None:
    split = open_split(lent.store, "words", "test")
    stream = split.stream([X, "masks.segmentation", "targets.texts"], 2, shuffle=True, failed="skip")
    batches = loader(stream, num_workers=2, multiprocessing_context="fork")
    assert split.tables.shared_bytes > 0
    seen = []
    for batch in batches:
        for slot, image in enumerate(batch["image_index"].tolist()):
            want = torch.from_numpy(lent.embeddings(image))
            torch.testing.assert_close(batch[X][slot][batch[f"{X}_mask"][slot]], want, rtol=0, atol=0)
            assert batch["masks.segmentation"][slot] == [rle.encode(mask) for mask in lent.masks(image)]
            seen.append(image)
    assert sorted(seen) == lent.linked


def test_a_pickled_split_slices_batches_and_a_chosen_proposer(lent: Lent, split: Split) -> None:
    copy = pickle.loads(pickle.dumps(split))
    for record in copy[4:7]:
        np.testing.assert_array_equal(record[X], lent.embeddings(record.image_index))
    batch = copy.of_proposer("sam").batch([9, "train-0", 9], ["mask_embeddings/x", "masks"], ragged=True)
    assert batch["image_index"].tolist() == [9, 5, 9]
    want = np.concatenate([lent.embeddings(image) for image in (9, 5, 9)])
    np.testing.assert_array_equal(batch["mask_embeddings/x"], want)
    assert [len(row["area"]) for row in batch["masks"]] == [len(lent.masks(image)) for image in (9, 5, 9)]
    copy.close()
    np.testing.assert_array_equal(copy[9][X], lent.embeddings(9))


def test_status_counts_and_contents_of_a_whole_column(lent: Lent, split: Split) -> None:
    column = split.column(X)
    status = column.status(10)
    assert np.flatnonzero(status.ok).tolist() == lent.linked
    assert (status.failed, status.absent) == ({3: NO_SUCH}, {})
    assert column.counts().tolist()[:3] == [len(lent.embeddings(image)) for image in range(3)]
    own = split.column("targets")
    assert own.counts().tolist() == [len(targets) for targets in lent.targets]
    again = open_place(lent.store, f"words/{X}/test")
    assert again.contents() == column.contents() != open_column(lent.store, f"d/{X}/val").contents()
    assert open_place(lent.store, f"d/{X}/val").contents() == open_column(lent.store, f"d/{X}/val").contents()
    assert open_place(lent.store, "means/m/sam/x").contents() == open_column(lent.store, "means/m/sam/x").contents()
    assert all(status.ok[image] == (split[image].status == OK) for image in range(10))


def test_a_cache_that_no_table_fits_in_gives_the_same(lent: Lent, split: Split) -> None:
    small = open_split(lent.store, "words", "test", table_cache_bytes=1)
    for own, other in zip(small, split, strict=True):
        assert own.status == other.status
        if own.status == OK:
            assert decoded(own.masks) == decoded(other.masks)
            assert own.rows("masks") == other.rows("masks")
    columns = ["masks.segmentation", "match/targets.iou", "targets.texts", X]
    streams = [
        each.stream(columns, 3, level="target", shuffle=True, failed="skip", threads=0) for each in (small, split)
    ]
    for batch, want in zip(*streams, strict=True):
        assert batch["masks.segmentation"] == want["masks.segmentation"]
        assert batch["targets.texts"] == want["targets.texts"]
        np.testing.assert_array_equal(batch[X], want[X])
