"""What is computed again when the data set changes: just that, and info says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from store import open_split

ARRAYS = ("mask_embeddings/sam/demo_alphaclip", "mask_embeddings/sam/demo_sam", "image_features/demo_clip")
INSTANCES = ("instance_embeddings/demo_alphaclip", "instance_embeddings/demo_sam")
FEATURES = ("sam_features/demo_sam",)
ENCODERS = ("demo_alphaclip", "demo_sam")


def shards(split: str, names: tuple[str, ...], *numbers: int) -> set[str]:
    return {f"{name}/{split}#{number}" for name in names for number in numbers}


def why(column: dict[str, Any]) -> list[str]:
    return [reason.removeprefix("stale: ") for reason in column["why"]]


def rows(project: Any, place: str, shard: int) -> list[dict[str, Any]]:
    return pq.read_table(project.store / "tiny" / place / f"{shard:05d}.parquet").to_pylist()


def image_rows(project: Any, split: str) -> dict[str, tuple[int, str]]:
    """image_id -> (image_index, status)."""
    files = sorted((project.store / "tiny" / "images" / split).glob("*.parquet"))
    found = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert [row["image_index"] for row in found] == list(range(len(found)))
    return {row["image_id"]: (row["image_index"], row["status"]) for row in found}


def test_nothing_is_computed_twice(finished: Any) -> None:
    before = finished.times()
    for stage in ("index", "extract", "normalize"):
        done = finished.run(stage)
        assert (done.code, "computed" in done.out) == (0, False), done.out
        assert all("up to date" in line for line in done.out.splitlines())
    assert finished.recomputed(before) == set()


def test_an_added_image_goes_to_the_end_and_recomputes_the_last_shard_alone(finished: Any) -> None:
    finished.add("train", "aardvark", 7, regions=1)  # first by name, last by number
    info = finished.info()["splits"]["tiny/train"]
    assert why(info["columns"]["images"])[-1] == "1 images were added"
    before = finished.times()
    finished.build("index --split train")
    assert image_rows(finished, "train")["aardvark"] == (5, "ok")
    assert finished.recomputed(before) == shards("train", ("images", "instances", "targets"), 2)
    plan = finished.run("extract", "--dry-run").out
    assert "masks tiny/train: would compute 1 of 3 shards of masks" in plan
    assert "masks tiny/val: up to date" in plan
    assert finished.recomputed(before) == shards("train", ("images", "instances", "targets"), 2)
    finished.build("extract --split train")
    every = ("images", "instances", "targets", "masks/sam", "match/sam/targets", "match/sam/instances")
    every += ARRAYS + INSTANCES + FEATURES
    assert finished.recomputed(before) == shards("train", every, 2)
    finished.build("normalize")  # a new train image: another mean, so every split is centred again
    centered = tuple(
        f"centered/tiny/{kind}_embeddings/sam/{name}" for kind in ("mask", "instance") for name in ENCODERS
    )
    assert finished.recomputed(before) == shards("train", every, 2) | shards("train", centered, 0, 1, 2) | shards(
        "val", centered, 0, 1
    ) | {f"means/tiny/sam/{name}#0" for name in ENCODERS}
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_an_edited_image_recomputes_its_shard_alone(finished: Any) -> None:
    finished.add_image("val", "gnu", 21, size=(72, 40))  # another size: nothing of the old one can be used
    (finished.data / "val/gnu.jpg").unlink(missing_ok=True)
    old = finished.times()
    reasons = finished.info()["splits"]["tiny/val"]["columns"]["images"]["why"]
    assert any("val/gnu.png" in reason and "changed" in reason for reason in reasons)
    finished.build("index")
    columns = finished.info()["splits"]["tiny/val"]["columns"]
    assert why(columns["masks/sam"]) == ["images changed"]
    assert columns["masks/sam"]["shards"].items() >= {"done": 1, "missing": 0, "stale": 1}.items()
    done = finished.run("extract", "--split", "val", "--stage", "embed")
    assert done.code == 2  # masks of the old picture, pixels of the new one
    assert "masks/sam shard 0 is stale" in done.err
    assert "extract --split val --stage masks" in done.err
    finished.build("extract")
    every = ("images", "instances", "targets", "masks/sam", "match/sam/targets", "match/sam/instances")
    assert finished.recomputed(old) == shards("val", every + ARRAYS + INSTANCES + FEATURES, 0)
    finished.build("normalize")
    assert not {name for name in finished.recomputed(old) if "/train#" in name or name.startswith("means")}
    assert finished.run("verify", "--deep", "--complete").code == 0


def test_a_removed_image_keeps_its_number_and_comes_back_to_it(finished: Any, tmp_path: Path) -> None:
    before = image_rows(finished, "train")
    content = finished.content()
    files = [finished.data / "train/bee.png", finished.data / "train/bee.json"]
    kept = [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    assert "train/bee.png" in finished.info()["splits"]["tiny/train"]["columns"]["images"]["why"][0]
    old = finished.times()
    done = finished.run("index", "--split", "train")
    assert done.code == 0  # a removed image is no failure
    assert "failed" not in done.err
    assert image_rows(finished, "train") == before | {"bee": (1, "removed")}
    finished.build("extract", "normalize")
    assert {name for name in finished.recomputed(old) if name.startswith("masks/sam/train")} == {"masks/sam/train#0"}
    for name, commit in finished.commits().items():
        if name.endswith("/train#0"):
            assert commit["status"] == ["ok", "removed"], name
    assert finished.info()["splits"]["tiny/train"]["columns"]["masks/sam"]["status"] == {"ok": 4, "removed": 1}
    assert finished.run("verify", "--deep", "--complete").code == 0
    for path, data in zip(files, kept, strict=True):
        path.write_bytes(data)
    finished.build()
    assert image_rows(finished, "train") == before
    assert finished.content() == content


def test_an_edited_annotation_leaves_masks_and_pictures_alone(finished: Any) -> None:
    finished.annotate("val", "hen", 99, regions=2)
    old = finished.times()
    columns = finished.info()["splits"]["tiny/val"]["columns"]
    assert why(columns["targets"]) == ["val/hen.json changed"]
    assert columns["images"]["why"] == []
    finished.build("index", "extract")
    changed = ("instances", "targets", "match/sam/targets", "match/sam/instances", *INSTANCES)
    assert finished.recomputed(old) == shards("val", changed, 1)


def test_an_annotation_with_the_same_content_stops_at_the_index(finished: Any) -> None:
    path = finished.data / "val/hen.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    old = finished.times()
    finished.build()
    assert finished.recomputed(old) == shards("val", ("instances", "targets"), 1)


def test_answers_belong_to_their_split(finished: Any) -> None:
    (finished.data / "explanatory/train.json").write_text(json.dumps([{"image": "bee.png", "outputs": "Soon."}]))
    old = finished.times()
    finished.build("index")
    assert {name.split("#")[0] for name in finished.recomputed(old)} == {"instances/train", "targets/train"}
    assert rows(finished, "targets/train", 0)[1]["answer"] == "Soon."


def test_an_annotation_that_comes_later_heals_its_image_down_to_the_last_column(finished: Any) -> None:
    path = finished.data / "val/gnu.json"
    kept = path.read_bytes()
    path.unlink()
    finished.build("index --split train")
    finished.build("index", "extract", "normalize")
    last = "centered/tiny/instance_embeddings/sam/demo_sam/val#0"
    assert finished.commits()[last]["status"] == ["ok", "absent"]
    assert finished.commits()["match/sam/targets/val#0"]["status"] == ["ok", "absent"]
    # No region at all: the bytes of the embeddings stay the same, and still the image has an annotation now.
    path.write_text(json.dumps({**json.loads(kept), "shapes": []}))
    finished.build()
    assert finished.commits()[last]["status"] == ["ok", "ok"]
    assert finished.commits()["match/sam/targets/val#0"]["status"] == ["ok", "ok"]


def test_larger_shards_leave_nothing_behind(finished: Any) -> None:
    finished.configure(shard_images=4)
    reasons = finished.info()["splits"]["tiny/train"]["columns"]["masks/sam"]["why"]
    assert any("shard_images: 2 -> 4" in reason for reason in reasons)
    finished.build("index --split val", "extract --split val")
    done = finished.run("verify", "--deep", "--split", "val")
    assert done.code == 0, done.out


@pytest.mark.parametrize(
    "name", ["masks/sam/val/00000.parquet", "masks/sam/val/column.json", "images/val/00000.parquet"]
)
def test_info_and_extract_go_on_beside_a_damaged_record(finished: Any, name: str) -> None:
    path, content = finished.store / "tiny" / name, finished.content()
    data = path.read_bytes()
    at = data.index(b'"counts"') if path.suffix == ".parquet" else data.index(b"0")
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    done = finished.run("verify", "--split", "val")
    assert done.code == 4
    assert f"damage: tiny/{name.rpartition('/')[0]}" in done.out
    info = finished.run("info")
    assert info.code == 0, info.err
    assert "damaged" in info.out or "column.json or zarr.json has the wrong content" in info.out
    repaired = finished.run("verify", "--repair", "--deep", "--complete")
    assert repaired.code == 0, repaired.out + repaired.err
    assert finished.content() == content


def test_a_picture_whose_file_is_renamed_keeps_its_number(finished: Any) -> None:
    """The image_id is the file's stem: another suffix is the same image, whose path in ``column.json`` changes."""
    (finished.data / "train" / "bee.png").unlink()
    finished.add_image("train", "bee", 4)
    done = finished.run("index")
    assert done.code == 0, done.err
    split = open_split(finished.store, "tiny", "train", columns=["images", "targets"])
    assert split[1].path == "train/bee.jpg"
    assert finished.run("index").out.count("up to date") == 2
