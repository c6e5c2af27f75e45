"""The index of a data set that borrows the pictures of another one: which picture an image_id means, now and later."""

from __future__ import annotations

from typing import Any

import yaml
from lending import TRAIN, annotate, borrow, rows

from store.format.column import read_column
from store.format.layout import column_dir
from store.format.links import links_of
from store.format.shard import read_commit


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
    assert "index --data tiny\n" in done.err
    assert not (project.store / "words").exists()
    done = project.run("index")
    assert done.code == 0, done.err
    assert [row["holder_index"] for row in rows(project, "words/images/test")] == [4, 1]
    done = project.run("extract", "--data", "words", "--split", "test")
    assert done.code == 2
    assert "split tiny/train: sam_features/demo_sam shard 2 is missing (stage masks)" in done.err
    assert "extract --data tiny --split train" in done.err


def test_without_every_split_of_the_holder_an_image_id_means_that_of_the_same_name_alone(tiny: Any) -> None:
    """An image_id is unique in a split alone: what one split has, another that is not indexed yet may have as well."""
    project = borrow(tiny)
    assert project.run("index", "--data", "tiny", "--split", "train").code == 0
    annotate(project, "only", "bee")
    values = project.values
    values["data"]["words"]["splits"] = ["only", "train"]
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    (project.folder / "words/train/fox.json").unlink()
    assert project.run("index", "--data", "words", "--split", "train").code == 0
    done = project.run("index", "--data", "words", "--split", "only")
    assert done.code == 2
    assert "split tiny/val is not indexed" in done.err
    assert project.run("index", "--data", "tiny", "--split", "val").code == 0
    assert project.run("index", "--data", "words", "--split", "only").code == 0
    assert rows(project, "words/images/only")[0]["holder_split"] == "train"


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
