"""A borrower and its holder: what of the holder has to be there, what has to fit, and what names both where it does not."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from borrowers import CENTERED, HELD, LINKS, MEAN, NO_SUCH, OWN, Lent, X, commits, copy_of, write_links
from factory import LAYOUT, full_store, write_array, write_images, write_table, write_vectors

from store import DamagedStoreError, FailedImageError, IncompleteColumnError, Split, StoreError, open_split
from store.format.column import ArrayLayout, ColumnMeta, Commit, fingerprint, load_column
from store.format.layout import column_dir
from store.format.links import HOLDER, link_arrays, links_extra, links_of
from store.format.summary import remove_summary
from store.read.borrowed import Borrowed
from store.read.holder import open_place
from store.write.verify import repair, verify
from store.write.writer import begin_column, finish_column


@pytest.fixture
def store(lent: Lent, tmp_path: Path) -> Path:
    return copy_of(lent.store, tmp_path / "store")


def opened(store: Path, **how: object) -> Split:
    return open_split(store, "words", "test", **how)  # type: ignore[arg-type]


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
        StoreError, match=rf"d/{X}/val and d/{X}/train, which are no arrays of one layout: .*32, 8.*48, 8"
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


def numbered_again(store: Path) -> None:
    """The holder's ``train`` indexed again, from other files in the places of those that were borrowed."""
    shutil.rmtree(store / "d/images/train")
    write_images(store, 9, split="train", salt="new")
    finish_column(column_dir(store, "d/images/train"), "d/images/train")


def test_a_holder_that_was_numbered_again_is_an_error_that_names_both(lent: Lent, store: Path) -> None:
    numbered_again(store)
    said = r"words/images/test: shards 0, 1, 2 of 3: /d/images/train#0 changed since: .* another d/images/train than the one"
    for columns in (None, ["masks"], ["targets"]):
        with pytest.raises(IncompleteColumnError, match=said):
            opened(store, columns=columns)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = opened(store, coherence="warn")
    assert "words/images/test: shards 0, 1, 2 of 3: /d/images/train#0 changed" in str(caught[0].message)
    another = r"image 1 \('train-3', sha256 \w{12}\) should be image 3 of d/images/train, which is another file \('image3', sha256"
    for read in (
        lambda: split[1].masks,
        lambda: split[0][X],
        lambda: split.batch([2], [X]),
        lambda: next(iter(split.stream([X], failed="skip"))),
        lambda: split.column("masks").is_ok(1),
    ):
        with pytest.raises(StoreError, match=rf"words/images/test: {another}"):
            read()
    assert split[1].targets


def test_rows_are_compared_where_the_records_do_not_prove_it(lent: Lent, store: Path) -> None:
    """A picture was added to a shard that it has images of: another shard, with the same files where they were."""
    write_images(store, 12)
    with pytest.raises(IncompleteColumnError, match="d/images/val"):
        opened(store)
    with pytest.warns(UserWarning, match="d/images/val"):
        split = opened(store, columns=[X], coherence="warn")
    column = split.column(X)
    assert isinstance(column, Borrowed)
    assert not column.borrowing.all_proved
    for image in lent.linked:
        np.testing.assert_array_equal(split[image][X], lent.embeddings(image))


def test_where_the_records_prove_it_no_row_of_the_holder_is_read(lent: Lent, store: Path) -> None:
    for split in ("val", "train"):
        for path in column_dir(store, f"d/images/{split}").glob("*.parquet"):
            path.unlink()
    split = opened(store)
    np.testing.assert_array_equal(split[0][X], lent.embeddings(0))


def with_other_masks(store: Path, split: str) -> None:
    other = full_store(store.parent / "other", 11 if split == "val" else 9, split, seed=9)
    shutil.rmtree(store / f"d/masks/sam/{split}")
    shutil.copytree(other.store / f"d/masks/sam/{split}", store / f"d/masks/sam/{split}")


def test_masks_of_the_holder_computed_again_do_not_fit_what_was_matched(store: Path) -> None:
    with_other_masks(store, "train")
    said = r"words/match/sam/targets/test: shards 0, 1, 2 of 3: /d/masks/sam/train#0 changed since: .* another d/masks/sam/train"
    with pytest.raises(IncompleteColumnError, match=said):
        opened(store, columns=["match/targets"])
    with pytest.raises(IncompleteColumnError, match="d/masks/sam/train"):
        opened(store)
    with pytest.raises(IncompleteColumnError, match=rf"d/{X}/train: shards 0 of 3: .*d/masks/sam/train"):
        opened(store, columns=[X])
    assert len(opened(store, columns=["targets", "instance_embeddings/x"])) == len(LINKS)
    report = verify(store, ["words"], deep=True)
    assert report.problems == []
    assert report.stale == 9, (
        "matches with targets and instances, and vectors minus the mean, which is of train: three shards each"
    )


def test_masks_that_it_has_no_images_of_may_be_others(store: Path) -> None:
    """``train`` with the first shard of masks as it was, and the others computed again."""
    place = "d/masks/sam/train"
    first = column_dir(store, place) / "00000.parquet"
    kept = first.read_bytes()
    with_other_masks(store, "train")
    first.write_bytes(kept)
    remove_summary(column_dir(store, place))
    with pytest.raises(IncompleteColumnError, match="shards 1, 2 of 3: .*d/masks/sam/train"):
        open_split(store, "d", "train")
    assert list(opened(store).columns) == [*OWN, *HELD]
    assert verify(store, ["words"]).stale == 3, "vectors minus the mean, which is of all of train"


def test_another_mean_does_not_fit_and_what_it_was_made_of_is_not_looked_at(store: Path) -> None:
    (store / f"d/{X}/train/c/2/0/0").write_bytes(b"damaged")
    assert CENTERED in opened(store).columns
    identity, layout = {"mean": "m"}, ArrayLayout((8,), 8, "float64")
    meta = ColumnMeta(MEAN, identity, fingerprint(identity), 1, 1, layout)
    write_array(column_dir(store, MEAN), meta, [8], MEAN, 5, upstream={"x": "y"})
    with pytest.raises(IncompleteColumnError, match=f"{CENTERED}/val: shards 0, 1, 2 of 3: /{MEAN} changed since"):
        opened(store, columns=[CENTERED])
    with pytest.raises(
        IncompleteColumnError, match=f"words/centered/m/instance_embeddings/sam/x/test: .*{MEAN} changed"
    ):
        opened(store, columns=["centered/m/instance_embeddings/sam/x"])


WRONG = {
    "nothing": {},
    "too few": links_extra([("val", 0)]),
    "no such split": {HOLDER: {"splits": [], "split": [0, 0, 0, -1], "index": [1, 1, 1, -1]}},
    "a split without index": {HOLDER: {"splits": ["val"], "split": [0, 0, 0, -1], "index": [1, 1, -1, -1]}},
    "no number": {HOLDER: {"splits": ["val"], "split": [0, 0, 0, -1], "index": [1, 1, "1", -1]}},
    "no name": {HOLDER: {"splits": ["../val"], "split": [0, 0, 0, -1], "index": [1, 1, 1, -1]}},
    "too large": {HOLDER: {"splits": ["val"], "split": [0, 0, 0, -1], "index": [1, 1, 2**33, -1]}},
    "an image that is ok": links_extra([("val", 9), None, ("val", 0), None]),
    "more fields": {HOLDER: {**links_extra(LINKS[:4])[HOLDER], "more": 1}},
}


@pytest.mark.parametrize("extra", WRONG.values(), ids=WRONG)
def test_a_record_that_does_not_say_where_its_images_are(lent: Lent, extra: dict[str, Any]) -> None:
    commit = replace(commits(lent.store, "words/images/test")[0], extra=extra)
    for read in (links_of, link_arrays):
        with pytest.raises(DamagedStoreError, match="words/images/test: the record of shard 0") as caught:
            read(commit)
        assert (caught.value.place, caught.value.shard) == ("words/images/test", 0)


def test_such_a_record_is_damage(lent: Lent, tmp_path: Path) -> None:
    store = copy_of(lent.store, tmp_path / "store", "words")
    write_links(store, LINKS, extra={0: WRONG["an image that is ok"]})
    with pytest.raises(
        DamagedStoreError, match="shard 0 says of image 1 of the shard that it is ok, and not where it is"
    ):
        opened(store)
    report = verify(store, ["words"])
    assert [(problem.place, problem.shard) for problem in report.problems] == [("words/images/test", 0)]
    assert "the record of shard 0" in report.problems[0].what
    assert repair(report) == [store / "words/images/test/00000.parquet"]
    assert verify(store, ["words"]).missing == 1


def test_links_as_they_are_written_are_those_that_are_read(lent: Lent) -> None:
    made = commits(lent.store, "words/images/test")
    assert [link for commit in made for link in links_of(commit)] == list(LINKS)
    splits, split, index = link_arrays(made[0])
    assert (splits, split.tolist(), index.tolist()) == (("val", "train"), [0, 1, 0, -1], [9, 3, 0, -1])
    extra = json.loads(json.dumps(links_extra([])))
    assert links_of(replace(made[0], counts=(), status=(), extra=extra)) == []


def test_a_borrower_without_a_single_image_of_the_holder_opens(lent: Lent, tmp_path: Path) -> None:
    store = copy_of(lent.store, tmp_path / "store", "words")
    write_links(store, [None, None])
    split = opened(store)
    assert list(split.columns) == ["images"]
    with pytest.raises(StoreError, match="words/test: no column masks: none of its images is in d"):
        split.column("masks")
    with pytest.raises(FailedImageError, match=NO_SUCH):
        split[0].image() if split.images_root else opened(store, images_root=store)[0].image()


def test_a_data_set_may_borrow_from_another_split_of_its_own(lent: Lent, store: Path) -> None:
    write_links(store, LINKS, place="d/images/some")
    split = open_split(store, "d", "some")
    assert list(split.columns) == ["images", *HELD]
    np.testing.assert_array_equal(split[1][X], lent.embeddings(1))


def test_an_image_that_failed_at_the_holder_alone_has_failed(lent: Lent, store: Path) -> None:
    """Its masks failed there; the image itself did not."""
    rows = [open_split(store, "d", "train")[image].rows("masks") for image in range(9)]
    shutil.rmtree(store / "d/masks/sam/train")
    failed: dict[int, str] = {3: "no memory"}
    rows[3][0] |= {"status": "failed", "error": "no memory"}
    above = {"images": commits(store, "d/images/train")}
    write_table(store, "d/masks/sam/train", rows, above, failed=failed)
    split = opened(store, columns=["masks", "targets"])
    with pytest.raises(FailedImageError, match="masks/sam: image 1: no memory"):
        split.batch([1], "masks")
    stream = split.stream("masks.area", failed="skip")
    assert stream.failed["test"] == ((1, "masks/sam: no memory"), (3, f"images: {NO_SUCH}"))
    assert split[1].rows("masks")[0]["status"] == "failed"


def test_commits_of_the_borrower_are_of_its_own_images_where_there_is_nothing_else(lent: Lent) -> None:
    column = opened(lent.store).column("masks")
    commit, position = column.commit(3)
    assert isinstance(commit, Commit)
    assert (commit.place, position, commit.errors[str(position)]) == ("words/images/test", 3, NO_SUCH)
    commit, position = column.commit(0)
    assert (commit.place, commit.shard, position) == ("d/masks/sam/val", 2, 1)
