"""What of a holder has to be there for its borrower, and what names it where it is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from borrowers import CENTERED, HELD, OWN, Lent, X, commits, copy_of, opened, write_links
from factory import LAYOUT, full_store, write_array, write_images, write_vectors

from store import DamagedStoreError, IncompleteColumnError, StoreError, open_split
from store.format.column import ColumnMeta, fingerprint, load_column
from store.format.layout import column_dir
from store.format.summary import remove_summary
from store.read.borrowed import Borrowed
from store.read.holder import open_place
from store.write.verify import verify
from store.write.writer import begin_column


@pytest.fixture
def store(lent: Lent, tmp_path: Path) -> Path:
    return copy_of(lent.store, tmp_path / "store")


WITHOUT = {
    "no holder": ["d"],
    "no images of it": ["d/images/val", "d/images/train"],
    "a split less": ["d/images/train"],
}


@pytest.mark.parametrize("gone", WITHOUT.values(), ids=WITHOUT)
def test_without_the_holder_its_own_columns_open_and_others_name_it(lent: Lent, store: Path, gone: list[str]) -> None:
    for name in gone:
        shutil.rmtree(store / name)
    split = opened(store)
    assert list(split.columns) == OWN
    assert split[0].targets[0]["iou"]
    assert next(iter(split.stream(["targets.texts"], failed="skip")))["image_index"].tolist() == lent.linked
    said = "its images are those of d, which is not in this store"
    for name in ("masks", "masks/sam", "mask_embeddings/x", CENTERED):
        with pytest.raises(StoreError, match=f"words/test: no column {name}: {said}"):
            split.column(name)
    for reads in (
        lambda: split[0].masks,
        lambda: split[0][X],
        lambda: split.stream(["masks.area"]),
        lambda: split.stream([X]),
        lambda: split.batch([0], "masks"),
        lambda: split.stream(["match/targets.iou"]),
        lambda: opened(store, columns=["masks"]),
        lambda: opened(store, columns=["mask_embeddings/x"], proposer="sam"),
        lambda: opened(store, proposer="other"),
        lambda: open_place(store, f"words/{X}/test"),
    ):
        with pytest.raises(StoreError, match=said) as caught:
            reads()
        assert caught.value.place in ("d/images/val", "d/images/train"), "what has to be there"
    with pytest.raises(KeyError, match="no column 'nothing'"):
        split.column("nothing")
    assert verify(store, ["words"], deep=True).problems == []


def test_a_holder_that_lost_its_column_json_is_damaged(store: Path) -> None:
    (store / "d/images/val/column.json").unlink()
    with pytest.raises(DamagedStoreError, match="d/images/val: column.json is missing"):
        opened(store)


@pytest.mark.parametrize("column", HELD)
def test_a_column_that_some_splits_of_the_holder_lack_is_missing(store: Path, column: str) -> None:
    shutil.rmtree(store / f"d/{column}/train")
    for how in ({}, {"columns": [column]}, {"columns": ["instances", column]}):
        with pytest.raises(StoreError, match=f"d/{column}/train holds no column"):
            opened(store, **how)
    others = [name for name in HELD if name != column]
    assert set(opened(store, columns=others).columns) == {"images", *others}


def test_a_column_that_no_split_of_the_holder_has_is_missing_at_the_holder(store: Path) -> None:
    for split in ("val", "train"):
        shutil.rmtree(store / f"d/masks/sam/{split}")
    assert list(opened(store).columns) == [*OWN, CENTERED, X]
    with pytest.raises(
        StoreError, match="words/test: no column masks/sam, nor has d that holds its images; "
    ) as caught:
        opened(store, columns=["masks/sam"])
    assert caught.value.place == "d/masks/sam/val"


def test_what_was_computed_in_part_can_be_read_in_part(lent: Lent, store: Path) -> None:
    shutil.rmtree(store / f"d/{X}/train")
    (store / f"d/{X}/val/c/2/0/0").unlink()
    remove_summary(store / f"d/{X}/val")
    split = opened(store, allow_incomplete=True)
    np.testing.assert_array_equal(split[2][X], lent.embeddings(2))
    for image, shard in ((0, "d/mask_embeddings/sam/x/val: shard 2"), (1, f"d/{X}/train: shard 0")):
        with pytest.raises(IncompleteColumnError, match=f"{shard} is not there"):
            split[image][X]


def test_shards_that_it_has_no_images_in_may_be_missing_damaged_or_stale(lent: Lent, store: Path) -> None:
    """Of ``train`` it has images of the first shard alone; the holder grew, and the rest is not done."""
    for column in HELD:
        remove_summary(store / f"d/{column}/train")
    (store / f"d/{X}/train/c/1/0/0").unlink()
    (store / f"d/{CENTERED}/train/c/2/0/0").write_bytes(b"damaged")
    folder = column_dir(store, "d/masks/sam/train")
    (folder / "00001.parquet").write_bytes((folder / "00002.parquet").read_bytes())
    write_images(store, 20, split="train", failed={6: "lost"})
    with pytest.raises(StoreError):
        open_split(store, "d", "train")
    split = opened(store)
    assert list(split.columns) == [*OWN, *HELD]
    for image in lent.linked:
        np.testing.assert_array_equal(split[image][X], lent.embeddings(image))
        assert len(split[image].masks) == len(lent.masks(image))


@pytest.mark.parametrize(
    "damage",
    [lambda path: path.unlink(), lambda path: path.write_bytes(b"damaged")],
    ids=["missing", "damaged"],
)
def test_shards_that_it_has_images_in_have_to_be_there(store: Path, damage: Callable[[Path], object]) -> None:
    remove_summary(store / f"d/{X}/train")
    damage(store / f"d/{X}/train/c/0/0/0")
    with pytest.raises(StoreError, match=f"d/{X}/train") as caught:
        opened(store)
    assert (caught.value.place, caught.value.shard) == (f"d/{X}/train", 0)
    assert X not in opened(store, columns=["masks", "targets"]).columns


def test_an_image_that_came_after_the_column_was_made_is_named(lent: Lent, tmp_path: Path) -> None:
    """Image 9 of the holder is in a shard that was whole when the column had 9 images."""
    store, known = tmp_path / "store", full_store(tmp_path / "store", 10)
    shutil.rmtree(store / f"d/{X}/val")
    write_vectors(store, f"d/{X}/val", known.embeddings[:9], {"masks/sam": commits(store, "d/masks/sam/val")})
    write_links(store, [("val", 1), ("val", 9)])
    with pytest.raises(
        IncompleteColumnError, match=rf"d/{X}/val was made for 9 images, image 1 of words/test is image 9"
    ) as caught:
        opened(store)
    assert (caught.value.place, caught.value.shard) == (f"d/{X}/val", 2)
    split = opened(store, allow_incomplete=True)
    np.testing.assert_array_equal(split[0][X], known.embeddings[1])
    with pytest.raises(IncompleteColumnError, match=f"d/{X}/val: shard 2 is not there"):
        split[1][X]
    shutil.rmtree(store / f"d/{X}/val")
    write_vectors(store, f"d/{X}/val", known.embeddings[:4], {"masks/sam": commits(store, "d/masks/sam/val")})
    with pytest.raises(IncompleteColumnError, match=rf"d/{X}/val: shards 2 of 1: not computed"):
        opened(store, columns=[X])


def test_leftovers_of_the_holder_are_left_out(store: Path) -> None:
    for split in ("val", "train"):
        for name in ("old", "begun"):
            folder = Path(shutil.copytree(store / f"d/{X}/{split}", store / f"d/mask_embeddings/sam/{name}/{split}"))
            begin_column(folder, replace(load_column(folder), column=f"mask_embeddings/sam/{name}"))  # type: ignore[type-var]
        shutil.rmtree(folder / "c")
        (store / f"d/mask_embeddings/sam/old/{split}/unused").touch()
    shutil.rmtree(store / "d/mask_embeddings/sam/begun/train")
    assert list(opened(store).columns) == [*OWN, *HELD]
    with pytest.raises(StoreError, match="d/mask_embeddings/sam/old/val"):
        opened(store, columns=["mask_embeddings/old"])


def test_a_leftover_of_its_own_hides_nothing_of_the_holders(lent: Lent, store: Path) -> None:
    """It held images once, of which masks were begun, and vectors are left that the parameters do not name any longer."""
    for column in ("masks/sam", X):
        folder = Path(shutil.copytree(store / f"d/{column}/val", store / f"words/{column}/test"))
    shutil.rmtree(folder / "c")
    (store / "words/masks/sam/test/unused").touch()
    split = opened(store)
    assert list(split.columns) == [*OWN, *HELD]
    np.testing.assert_array_equal(split[1][X], lent.embeddings(1))
    assert len(opened(store, columns=["masks"])[1].masks) == len(lent.masks(1))
    assert isinstance(open_place(store, f"words/{X}/test"), Borrowed)


def test_a_link_in_the_holder_is_an_error(store: Path, tmp_path: Path) -> None:
    shutil.move(store / f"d/{X}/val", tmp_path / "elsewhere")
    (store / f"d/{X}/val").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=f"d/{X}/val: found a link"):
        opened(store)


def test_splits_of_the_holder_have_arrays_of_one_layout(lent: Lent, store: Path) -> None:
    shutil.rmtree(store / f"d/{X}/train")
    above = {"masks/sam": commits(store, "d/masks/sam/train")}
    rows = lent.holder["train"].embeddings
    write_vectors(store, f"d/{X}/train", rows, above, layout=replace(LAYOUT, row_shape=(48, 8)))
    with pytest.raises(
        StoreError, match=rf"d/{X}/val and d/{X}/train, whose arrays have different layouts: .*32, 8.*48, 8"
    ):
        opened(store, columns=[X])


def test_splits_of_the_holder_are_computed_with_the_same_parameters(lent: Lent, store: Path) -> None:
    shutil.rmtree(store / f"d/{X}/train")
    identity = {"stage": "embed", "other": "weights"}
    meta = ColumnMeta(X, identity, fingerprint(identity), 9, 4, LAYOUT)
    write_array(column_dir(store, f"d/{X}/train"), meta, [3] * 9, f"d/{X}/train")
    with pytest.raises(IncompleteColumnError, match=rf"d/{X}/val and d/{X}/train, which were computed with different"):
        opened(store, columns=[X])
    with pytest.warns(UserWarning, match="with different parameters"):
        assert len(opened(store, columns=[X], coherence="warn")[1][X]) == 3


def test_a_holder_is_no_borrower(store: Path) -> None:
    for split in ("val", "train"):
        folder = column_dir(store, f"d/images/{split}")
        meta = load_column(folder)
        assert meta is not None
        begin_column(folder, replace(meta, holder="other"))
    with pytest.raises(StoreError, match="words/test: its images are those of d, which has images of other"):
        opened(store)
