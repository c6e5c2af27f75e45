"""A borrower and its holder have to fit: what names both where they do not, and what is damage."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from borrowers import CENTERED, HELD, LINKS, MEAN, NO_SUCH, OWN, Lent, X, commits, copy_of, opened, write_links
from factory import full_store, write_array, write_images, write_table

from store import DamagedStoreError, FailedImageError, IncompleteColumnError, StoreError, open_split
from store.format.column import ArrayLayout, ColumnMeta, Commit, fingerprint
from store.format.layout import column_dir
from store.format.links import HOLDER, link_arrays, links_extra, links_of
from store.format.summary import remove_summary
from store.read.borrowed import Borrowed
from store.write.verify import repair, verify
from store.write.writer import finish_column


@pytest.fixture
def store(lent: Lent, tmp_path: Path) -> Path:
    return copy_of(lent.store, tmp_path / "store")


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
