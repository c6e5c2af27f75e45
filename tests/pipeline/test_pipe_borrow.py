"""A data set that borrows the pictures of another one: indexed by image_id, and nothing made of pixels alone is made twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages.proposers.sam import proposals
from store.format.column import read_column
from store.format.layout import column_dir
from store.format.links import links_of
from store.format.shard import read_commit
from store.format.tables import read_table
from store.overlap import against_targets
from store.read.column import open_column

TRAIN = ("ant", "cat", "fox")  # the fox is in the holder's split val
TEST = ("elk", "gnu")


def annotate(project: Any, split: str, name: str, seed: int = 0) -> Path:
    """A question about an image that ``words`` does not hold."""
    folder = project.folder / "words" / split
    folder.mkdir(parents=True, exist_ok=True)
    x = 4 + 3 * seed
    corners = [[x, 4], [x + 20, 4], [x + 20, 30], [x, 30]]
    shapes = [{"label": "target", "points": corners}]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"shapes": shapes, "text": [f"in other words, the {name}"], "is_sentence": True}))
    return Path(path)


def borrow(project: Any, first: bool = False, **changes: Any) -> Any:
    """The project with a data set ``words`` that borrows images; ``first``: it stands before its holder in the params."""
    for seed, name in enumerate(TRAIN):
        annotate(project, "train", name, seed)
    for seed, name in enumerate(TEST):
        annotate(project, "test", name, seed)
    values = project.values
    words = {
        "format": "reasonseg",
        "images": "tiny",
        "root": str(project.folder / "words"),
        "splits": ["train", "test"],
    }
    values["data"] = {"words": words, **values["data"]} if first else {**values["data"], "words": words}
    values["means"] = {"tiny": {"train": changes.get("train", ["tiny/train"])}}
    values["train"]["train"] = ["tiny/train"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    return project


@pytest.fixture(scope="module")
def borrowed(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    project = borrow(finished_once.copy(tmp_path_factory.mktemp("borrowed")))
    project.build()
    return project


@pytest.fixture
def changed(borrowed: Any, tmp_path: Path) -> Any:
    """A copy that a test may change."""
    return borrow(borrowed.copy(tmp_path / "copy"))


def rows(project: Any, place: str) -> list[dict[str, Any]]:
    folder = column_dir(project.store, place)
    meta = read_column(folder)
    assert meta is not None
    commits = [read_commit(folder, shard) for shard in range(meta.shards)]
    return [row for commit in commits if commit is not None for row in read_table(folder, commit).to_pylist()]


def test_rows_and_records_say_where_an_image_is(borrowed: Any) -> None:
    folder = column_dir(borrowed.store, "words/images/train")
    meta = read_column(folder)
    assert meta is not None
    assert meta.holder == "tiny"
    held = {row["image_id"]: row for split in ("train", "val") for row in rows(borrowed, f"tiny/images/{split}")}
    found = rows(borrowed, "words/images/train")
    assert [row["image_id"] for row in found] == list(TRAIN)
    assert [(row["holder_split"], row["holder_index"]) for row in found] == [("train", 0), ("train", 2), ("val", 0)]
    for row in found:
        for name in ("path", "height_px", "width_px", "sha256", "status"):
            assert row[name] == held[row["image_id"]][name]
    commits = [read_commit(folder, shard) for shard in range(meta.shards)]
    links = [link for commit in commits if commit is not None for link in links_of(commit)]
    assert links == [("train", 0), ("train", 2), ("val", 0)]
    assert all(row["holder_split"] is None and row["holder_index"] is None for row in held.values())


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


def test_pictures_that_the_holder_gets_later_leave_numbers_and_links_alone(changed: Any) -> None:
    before = changed.times()
    for seed, name in ((20, "aaa"), (21, "yak")):
        changed.add("train", name, seed)
    annotate(changed, "test", "yak", 5)
    changed.build("index", "extract")
    found = rows(changed, "words/images/test")
    assert [(row["image_id"], row["holder_split"], row["holder_index"]) for row in found] == [
        ("elk", "train", 4), ("gnu", "val", 1), ("yak", "train", 6),
    ]  # fmt: skip
    again = {name for name in changed.recomputed(before) if name.startswith("words/")}
    assert not [name for name in again if "/train#" in name], "none of these lie in the shard that grew"


def test_an_image_that_the_holder_does_not_have_is_a_failed_row_with_the_reason(changed: Any) -> None:
    annotate(changed, "test", "zebra")
    done = changed.run("index")
    assert done.code == 1
    assert "failed: 1 x images: tiny has no such image" in done.err
    row = rows(changed, "words/images/test")[2]
    assert (row["image_id"], row["status"], row["error"]) == ("zebra", "failed", "tiny has no such image")
    assert row["holder_split"] is None
    changed.run("extract")
    assert rows(changed, "words/match/sam/instances/test")[2]["error"] == "masks: tiny has no such image"
    changed.add_image("train", "zebra", 31)
    done = changed.run("index")
    assert done.code == 0, done.out + done.err
    assert rows(changed, "words/images/test")[2]["holder_index"] == 5


def test_an_image_that_the_holder_lacks_joins_a_shard_that_is_done(changed: Any) -> None:
    """Nothing of the holder says that the shard is another one now."""
    annotate(changed, "train", "zebra")  # shard 1 has one image, the fox
    done = changed.run("index", "--data", "words")
    assert done.code == 1
    assert "another writer" not in done.err
    assert [row["status"] for row in rows(changed, "words/images/train")] == ["ok"] * 3 + ["failed"]
    assert changed.run("index", "--data", "words").out.count("up to date") == 2
    assert changed.run("extract", "--data", "words").code == 0


def test_what_a_borrower_asks_about_no_longer_is_removed_and_may_come_back(changed: Any) -> None:
    want = changed.content()
    path = changed.folder / "words/test/elk.json"
    text = path.read_text()
    path.unlink()
    stale = changed.run("info", "--json").json()["splits"]["words/test"]["columns"]["images"]
    assert stale["why"] == ["stale: the list of images changed"]
    changed.build("index", "extract", "normalize")
    assert [row["status"] for row in rows(changed, "words/images/test")] == ["removed", "ok"]
    assert changed.run("verify", "--complete").code == 0
    path.write_text(text)
    changed.build("index", "extract", "normalize")
    assert changed.content() == want


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


def test_an_image_that_moves_to_another_split_of_the_holder_is_followed(changed: Any) -> None:
    for suffix in (".jpg", ".json"):
        (changed.data / "train" / f"cat{suffix}").rename(changed.data / "val" / f"cat{suffix}")
    changed.build("index")
    row = rows(changed, "words/images/train")[1]
    assert (row["status"], row["holder_split"], row["holder_index"]) == ("ok", "val", 3)
    assert changed.run("index").out.count("up to date") == 4


def test_what_failed_at_the_holder_failed_at_the_borrower_and_is_counted_once(changed: Any) -> None:
    (changed.data / "train" / "cat.jpg").write_bytes(b"no picture")
    done = changed.run("index")
    assert done.code == 1
    assert done.err.count("no readable header") == 1, done.err
    row = rows(changed, "words/images/train")[1]
    assert row["status"] == "failed"
    assert "no readable header" in row["error"]


def test_index_takes_holders_first_whatever_the_order_in_the_params(tiny: Any) -> None:
    project = borrow(tiny, first=True)
    done = project.run("index", "--data", "words")
    assert done.code == 2
    assert "split tiny/train is not indexed; run: python cli.py" in done.err
    assert "index --data tiny --split train" in done.err
    assert not (project.store / "words").exists()
    done = project.run("index")
    assert done.code == 0, done.err
    assert [row["holder_index"] for row in rows(project, "words/images/test")] == [4, 1]
    done = project.run("extract", "--data", "words", "--split", "test")
    assert done.code == 2
    assert "split tiny/train: sam_features/demo_sam shard 2 is missing (stage masks)" in done.err
    assert "extract --data tiny --split train" in done.err


def test_a_split_of_the_holder_that_is_not_indexed_matters_only_to_images_that_are_not_found(tiny: Any) -> None:
    project = borrow(tiny)
    assert project.run("index", "--data", "tiny", "--split", "train").code == 0
    annotate(project, "only", "bee")
    (project.folder / "words/only").rename(project.folder / "words/found")
    values = project.values
    values["data"]["words"]["splits"] = ["found", "test"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    assert project.run("index", "--data", "words", "--split", "found").code == 0
    done = project.run("index", "--data", "words", "--split", "test")
    assert done.code == 2
    assert "split tiny/val is not indexed" in done.err


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


def test_an_image_id_means_the_split_of_the_same_name(tiny: Any) -> None:
    """As in the demo, whose splits number their images alike: other pictures under one name are never taken for each other."""
    tiny.add("train", "fox", 41)
    tiny.add("val", "ant", 42)
    project = borrow(tiny)
    values = project.values
    values["data"]["words"]["splits"] = ["train"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    assert project.run("index").code == 0
    found = {row["image_id"]: row["holder_split"] for row in rows(project, "words/images/train")}
    assert found == {"ant": "train", "cat": "train", "fox": "train"}

    annotate(project, "test", "fox")
    values["data"]["words"]["splits"] = ["train", "test"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    before = project.times()
    done = project.run("index")
    assert done.code == 2
    assert "words/test: the image_id 'fox' is in tiny/train and in tiny/val, which are different pictures" in done.err
    assert project.recomputed(before) == set()

    (held,) = (project.data / "val").glob("fox.[jp][pn]g")
    (other,) = (project.data / "train").glob("fox.[jp][pn]g")
    other.unlink()
    (project.data / "train" / held.name).write_bytes(held.read_bytes())
    assert project.run("index").code == 0
    found = {row["image_id"]: row["holder_split"] for row in rows(project, "words/images/test")}
    assert found["fox"] == "train", "one file, so the first split of the params"


def test_a_part_that_needs_what_other_parts_compute_is_to_be_run_again(tiny: Any) -> None:
    project = borrow(tiny)
    codes = [project.run("index", "--part", part).code for part in ("0/2", "1/2", "0/2", "1/2")]
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
    assert "index --data tiny --split train" in split["remark"]
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
