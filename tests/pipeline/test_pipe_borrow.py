"""What is computed of a data set that borrows the pictures of another one; nothing made of pixels alone is made twice."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
from lending import TRAIN, borrow, rows

from stages.proposers.sam import proposals
from store.format.layout import column_dir
from store.overlap import against_targets
from store.read.column import open_column


def test_nothing_of_pixels_alone_is_made_for_a_borrower(borrowed: Any) -> None:
    columns = {
        path.parent.parent.relative_to(borrowed.store / "words").as_posix()
        for path in (borrowed.store / "words").rglob("column.json")
    }
    assert columns == {
        "images", "instances", "targets", "instance_embeddings/demo_alphaclip", "instance_embeddings/demo_sam",
        "match/sam/targets", "match/sam/instances",
        "centered/tiny/instance_embeddings/sam/demo_alphaclip", "centered/tiny/instance_embeddings/sam/demo_sam",
    }  # fmt: skip


def test_sam_sees_each_picture_once(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project = borrow(tiny)
    seen: list[int] = []
    propose = proposals.MaskGenerator.propose

    def counted(self: Any, images: Any, memo: Any) -> Any:
        seen.append(len(images))
        return propose(self, images, memo)

    monkeypatch.setattr(proposals.MaskGenerator, "propose", counted)
    project.build("index", "extract")
    assert sum(seen) == 8, "five train and three val pictures; five of them are asked about twice"


def test_masks_of_the_holder_are_matched_with_the_borrowers_targets(borrowed: Any) -> None:
    where = {"ant": ("train", 0), "cat": ("train", 2), "fox": ("val", 0)}
    masks = {split: rows(borrowed, f"tiny/masks/sam/{split}") for split in ("train", "val")}
    targets = rows(borrowed, "words/targets/train")
    matched = rows(borrowed, "words/match/sam/targets/train")
    assert [row["target_id"] for row in matched] == [row["target_id"] for row in targets]
    for number, (name, target, row) in enumerate(zip(TRAIN, targets, matched, strict=True)):
        assert target["texts"] == [f"in other words, the {name}"]
        assert row["image_index"] == target["image_index"] == number
        split, index = where[name]
        want = against_targets(masks[split][index]["segmentation"], target["segmentation"], target["ignore"])
        for field, values in zip(("iou", "iop", "iou_valid", "iop_valid"), want, strict=True):
            np.testing.assert_array_equal(row[field], values.astype(np.float32))


def test_a_region_that_is_the_holders_too_has_the_same_vector(changed: Any) -> None:
    source = changed.data / "val" / "fox.json"
    (changed.folder / "words/train/fox.json").write_text(source.read_text())
    changed.build("index", "extract")
    for encoder in ("demo_alphaclip", "demo_sam"):
        own = open_column(changed.store, f"words/instance_embeddings/{encoder}/train").array(2)
        held = open_column(changed.store, f"tiny/instance_embeddings/{encoder}/val").array(0)
        assert len(own) == len(held) > 0
        np.testing.assert_array_equal(own, held)


def test_a_second_run_has_nothing_to_do(borrowed: Any) -> None:
    before = borrowed.times()
    for verb in ("index", "extract", "normalize"):
        done = borrowed.run(verb)
        assert done.code == 0, done.err
    assert borrowed.recomputed(before) == set()
    done = borrowed.run("verify", "--deep", "--complete")
    assert done.code == 0, done.out + done.err


def test_a_changed_picture_makes_what_borrows_it_stale_and_nothing_else(changed: Any) -> None:
    before = changed.times()
    changed.add_image("train", "cat", seed=2, size=(80, 60))  # the file of the cat, with other pixels
    stale = changed.run("info", "--json").json()["splits"]
    assert stale["words/train"]["columns"]["images"]["shards"]["stale"] == 1
    assert stale["words/test"]["columns"]["images"]["shards"]["stale"] == 0
    for column in ("images", "match/sam/targets", "instance_embeddings/demo_alphaclip"):
        assert stale["words/train"]["columns"][column]["shards"] == {"done": 1, "missing": 0, "stale": 1, "damaged": 0}
    changed.build("index", "extract")
    again = {name for name in changed.recomputed(before) if name.startswith("words/")}
    assert {"words/images/train#0", "words/match/sam/targets/train#0"} <= again
    assert all("/train#0" in name for name in again)
    assert rows(changed, "words/images/train")[1]["width_px"] == 80


def test_extract_of_a_borrower_refuses_before_it_changes_anything(changed: Any) -> None:
    """Its embeddings ask for nothing that is not there, its matches do."""
    changed.add_image("train", "cat", seed=2, size=(80, 60))
    assert changed.run("index", "--data", "tiny").code == 0
    done = changed.run("extract", "--data", "words")
    assert done.code == 2, done.out
    assert "images shard 0 is stale (stage index)" in done.err
    assert "run: python cli.py index --data words --split train" in done.err
    assert changed.run("index", "--data", "words").code == 0
    before = changed.times()
    done = changed.run("extract", "--data", "words")
    assert done.code == 2, done.out
    assert "run: python cli.py extract --data tiny --split train --stage masks" in done.err
    assert not changed.recomputed(before)


@pytest.mark.parametrize(
    ("train", "masks", "instances"),
    [
        (["words/train"], {("train", 0), ("train", 2), ("val", 0)}, 0),
        (["tiny/train", "words/train"], {("train", n) for n in range(5)} | {("val", 0)}, 1),
        (["words/train", "tiny/train"], {("train", n) for n in range(5)} | {("val", 0)}, 1),
        (["words/train", "words/test"], {("train", 0), ("train", 2), ("train", 4), ("val", 0), ("val", 1)}, 0),
    ],
)
def test_a_mask_votes_once_for_a_picture_and_an_instance_once_for_a_row(
    changed: Any, train: list[str], masks: set[tuple[str, int]], instances: int
) -> None:
    borrow(changed, train=train)
    done = changed.run("normalize", "--stage", "means")
    assert done.code == 0, done.err
    column = open_column(changed.store, "means/tiny/sam/demo_alphaclip")
    vectors = [
        open_column(changed.store, f"tiny/mask_embeddings/sam/demo_alphaclip/{split}").array(index)
        for split, index in sorted(masks)
    ]
    for split in train:
        dataset, _, name = split.partition("/")
        own = open_column(changed.store, f"{dataset}/instance_embeddings/demo_alphaclip/{name}")
        vectors += [own.array(index) for index in range(own.meta.images)]
    every = np.concatenate(vectors).astype(np.float64)
    voting = every[every.any(axis=1)]
    (commit,) = column.commits
    assert commit is not None
    assert commit.extra["count"] == len(voting)
    np.testing.assert_allclose(column.array(0), voting.mean(axis=0), rtol=1e-12)
    assert any(name.startswith("/words/images/train#") for name in commit.upstream), "who votes is part of it"


def test_damage_of_a_borrower_is_mended(changed: Any) -> None:
    want = changed.content()
    for place in ("words/images/train", "words/match/sam/targets/test"):
        path = column_dir(changed.store, place) / "00000.parquet"
        data = bytearray(path.read_bytes())
        data[40] ^= 255
        path.write_bytes(data)
    assert changed.run("verify", "--deep").code == 4
    done = changed.run("verify", "--repair")
    assert done.code == 0, done.out + done.err
    assert changed.content() == want


def test_verify_of_a_borrower_looks_at_what_it_borrows(changed: Any) -> None:
    want = changed.content()
    path = column_dir(changed.store, "tiny/masks/sam/train") / "00000.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 255
    path.write_bytes(data)
    done = changed.run("verify", "--deep", "--data", "words", "--split", "train")
    assert done.code == 4
    assert "damage: tiny/masks/sam/train shard 0" in done.out
    done = changed.run("verify", "--repair", "--data", "words", "--split", "train")
    assert done.code == 0, done.out + done.err
    assert changed.content() == want


def test_a_part_that_needs_what_other_parts_compute_is_to_be_run_again(tiny: Any) -> None:
    project = borrow(tiny)
    codes = [project.run("index", "--part", part).code for part in ("1/2", "0/2", "1/2", "0/2")]
    assert 75 in codes, "one of them needs the holder's shards of the other"
    assert codes[-2:] == [0, 0]
    assert project.run("verify", "--deep").code == 0


def test_parts_of_a_borrower_share_out_its_shards(changed: Any) -> None:
    want = changed.content()
    shutil.rmtree(changed.store / "words")
    for verb in ("index", "extract", "normalize --stage center"):
        parts = ["0/2", "1/2"] if "normalize" not in verb else [""]
        for part in parts:
            done = changed.run(*verb.split(), *(["--part", part] if part else []))
            assert done.code == 0, done.err
    assert changed.content() == want


def test_the_report_of_a_borrower_asks_for_nothing_that_is_the_holders(borrowed: Any) -> None:
    """Its masks are read at the holder; their similarity is drawn there alone."""
    done = borrowed.run("report", "--data", "words")
    assert done.code == 0, done.err
    assert "not drawn" not in done.out
    page = (borrowed.folder / "report/words/test.html").read_text(encoding="utf-8")
    assert "proposals of sam" in page


def test_without_its_holder_a_borrower_says_what_to_type(changed: Any) -> None:
    shutil.rmtree(changed.store / "tiny")
    split = changed.info()["splits"]["words/test"]
    assert split["images"] == 2
    holds = f"the store {changed.store} holds words (test, train)"
    assert f"split tiny/train is not indexed: {holds}; run: python cli.py" in split["remark"]
    assert split["remark"].endswith("python cli.py index --data tiny")
    done = changed.run("report", "--data", "words", "--split", "test")
    assert done.code == 0, done.err
    (line,) = [line for line in done.out.splitlines() if "proposals of sam" in line]
    commands = line.partition("; run: ")[2].split(" && ")
    assert len(commands) > 1
    for command in commands:
        done = changed.cli(*command.removeprefix("python cli.py ").split())
        assert done.code == 0, (command, done.err)
    assert "not drawn" not in changed.run("report", "--data", "words", "--split", "test").out
    open_column(changed.store, "words/match/sam/targets/test")
