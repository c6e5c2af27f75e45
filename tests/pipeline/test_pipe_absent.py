"""Images without annotation: nothing is asked about them, nothing failed, and how many they are is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.evaluate.cases import questions
from store import FailedImageError, open_split, rle


def made_of_annotations(name: str) -> bool:
    return name in ("instances", "targets") or name.startswith(
        ("instance_embeddings", "match", "centered/tiny/instance")
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, project_at: Any) -> Any:
    """A folder of three pictures a split and nothing else."""
    project = project_at(tmp_path_factory.mktemp("pictures"))
    for split in ("train", "val"):
        for seed, name in enumerate(("one", "two", "three")):
            project.add_image(split, name, seed)
    project.configure(embed__mask_encoders=["demo_sam"])
    return project


def test_a_folder_of_pictures_goes_through_every_stage(pictures: Any) -> None:
    done = pictures.run("index")
    assert done.code == 0, done.err
    assert "failed" not in done.err
    assert done.err.count("absent: 3 of 3 images have no annotation") == 2
    for command in ("extract", "normalize", "verify --complete", "verify --deep --complete", "report --split val"):
        done = pictures.run(*command.split())
        assert done.code == 0, (command, done.out, done.err)
        assert "failed" not in done.err, (command, done.err)
    dry = pictures.run("extract", "--split", "val", "--dry-run")
    assert (dry.code, "would compute" in dry.out) == (0, False)
    metrics = json.loads((pictures.folder / "report/metrics/index/tiny/val.json").read_text())
    assert (metrics["failed_images"], metrics["absent"], metrics["images"]) == (0, 3, 3)


def test_what_a_store_of_pictures_holds(pictures: Any) -> None:
    pictures.build()
    found = pictures.info()["splits"]["tiny/val"]
    for name, column in found["columns"].items():
        assert column["status"] == ({"absent": 3} if made_of_annotations(name) else {"ok": 3}), name
        assert column["errors"] == {}
    text = pictures.run("info").out
    assert "val: 3 images, 3 of them without annotation" in text
    assert "failed" not in text
    split = open_split(pictures.store, "tiny", "val")
    assert len(split["one"]["mask_embeddings/sam/demo_sam"]) == min(16, len(split["one"].masks))
    for read in (
        lambda record: record.instances,
        lambda record: record.targets,
        lambda record: record["centered/tiny/instance_embeddings/sam/demo_sam"],
    ):
        with pytest.raises(FailedImageError, match=r"no annotation: expected val/one.json"):
            read(split["one"])
    skipped: dict[str, str] = {}
    assert list(questions(split, skipped)) == []
    assert sorted(skipped) == ["one", "three", "two"]


@pytest.fixture
def mixed(finished: Any) -> Any:
    """A finished store, to whose val split two pictures without annotation are added; that of one image got lost."""
    finished.add_image("val", "owl", 21)
    finished.add_image("val", "yak", 22)
    (finished.data / "val/gnu.json").unlink()
    return finished


def test_a_lost_annotation_is_seen_and_comes_back(mixed: Any) -> None:
    done = mixed.run("index", "--split", "val")
    assert done.code == 0, done.err
    assert "absent: 3 of 5 images have no annotation" in done.err
    mixed.build("extract", "normalize", "verify --complete")
    assert "val: 5 images, 3 of them without annotation" in mixed.run("info").out
    mixed.annotate("val", "gnu", 11)
    done = mixed.run("index", "--split", "val")
    assert "absent: 2 of 5 images" in done.err
    mixed.build("extract", "normalize")
    assert len(open_split(mixed.store, "tiny", "val")["gnu"].targets) == 1


def test_streams_leave_out_what_has_no_annotation_and_say_so(mixed: Any) -> None:
    mixed.build("index", "extract", "normalize")
    split = open_split(mixed.store, "tiny", "val")
    assert len(split.stream(["mask_embeddings/sam/demo_sam"]).schedule.sets["val"].image) == 5
    for columns in (["targets.texts"], ["instance_embeddings/demo_sam"], ["match/sam/instances"]):
        stream = split.stream(columns)  # failed="raise": nothing failed
        seen = np.concatenate([batch["image_index"] for batch in stream])
        assert [split.image_ids[number] for number in seen] == ["fox", "hen"], columns
        assert stream.failed == {"val": ()}
        assert [split.image_ids[number] for number, _ in stream.absent["val"]] == ["gnu", "owl", "yak"]
    assert [len(batch["image_index"]) for batch in split.stream(["targets.texts"], level="target")] == [2]


def test_nothing_is_scored_where_nothing_is_asked(mixed: Any, tmp_path: Path) -> None:
    mixed.build("index", "extract --split val")
    theirs = tmp_path / "theirs.jsonl"
    nothing = {"size": [48, 64], "counts": rle.union([], 48, 64)}
    lines = [json.dumps({"target_id": f"{name}/0", "segmentation": nothing}) for name in ("fox", "hen")]
    theirs.write_text("\n".join(lines))
    done = mixed.run("evaluate", "--predictions", str(theirs), "--split", "val")
    assert done.code == 0, done.err
    assert "2 questions" in done.out
    assert "- 3 images have no annotation: nothing is asked about them." in done.out
    assert "Left out" not in done.out
    figures = mixed.run("evaluate", "--predictions", str(theirs), "--split", "val", "--json").json()
    assert (figures["questions"], figures["skipped"], figures["absent"]) == (2, 0, 3)
    assert mixed.run("report", "--split", "val").code == 0
    assert "of them without annotation" in (mixed.folder / "report/tiny/val.html").read_text()


def test_a_split_without_questions_has_no_score(pictures: Any, tmp_path: Path) -> None:
    pictures.build("index")
    theirs = tmp_path / "theirs.jsonl"
    image_id = open_split(pictures.store, "tiny", "val", columns="images").image_ids[0]
    theirs.write_text(json.dumps({"image_id": image_id, "segmentation": None}))
    done = pictures.run("evaluate", "--predictions", str(theirs), "--split", "val")
    assert done.code == 2
    assert "tiny/val has no questions to score" in done.err
    assert "images failed or have no annotation" in done.err
    assert f"--params {pictures.params} info --split val" in done.err


def test_an_image_that_failed_is_not_absent(tiny: Any) -> None:
    (tiny.data / "val/fox.jpg").write_bytes(b"no picture")
    (tiny.data / "val/fox.json").unlink()
    done = tiny.run("index", "--split", "val")
    assert done.code == 1
    assert "absent" not in done.err
    assert tiny.commits()["targets/val#0"]["status"][0] == "failed"


def test_time_is_estimated_with_absent_images(pictures: Any) -> None:
    pictures.build("index", "extract --split train")
    done = pictures.run("extract", "--split", "train", "--dry-run", before=("--set", "proposers.sam.points_per_side=3"))
    assert done.code == 0, done.err
