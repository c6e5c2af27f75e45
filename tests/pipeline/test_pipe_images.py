"""Pictures without annotations: one's own photographs, and a collection in several folders that other data sets borrow from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from store import open_split


def configure(project: Any, data: dict[str, Any], **changes: Any) -> None:
    """Params with these data sets and little to compute."""
    project.configure()
    values = project.values
    for name, own in data.items():
        own.setdefault("images", name)
        own.setdefault("splits", ["all"])
    values["data"] = data
    values["means"] = {"m": {"train": [f"{next(iter(data))}/all"]}}
    values["train"]["train"] = [f"{next(iter(data))}/all"]
    values["embed"] |= {"mask_encoders": ["demo_alphaclip"], "image_encoders": [], "sam_features": []}
    values |= changes
    project.values = values
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, project_at: Any) -> Any:
    """Five photographs, one of them in a folder of its own; everything is computed."""
    project = project_at(tmp_path_factory.mktemp("photos"))
    for seed, name in enumerate(("a", "b", "c", "d")):
        shutil.move(project.add_image("x", name, seed), project.data / f"{name}.jpg")
    project.add_image("trip", "e", 4)
    (project.data / "x").rmdir()
    configure(project, {"photos": {"format": "images", "root": str(project.data)}})
    project.build()
    return project


def test_nothing_failed_and_no_column_of_annotations_is_there(photos: Any) -> None:
    info = photos.info()["splits"]["photos/all"]
    assert info["images"] == 5
    assert set(info["columns"]) == {
        "images", "masks/sam", "mask_embeddings/sam/demo_alphaclip", "centered/m/mask_embeddings/sam/demo_alphaclip",
    }  # fmt: skip
    assert all(column["shards"]["done"] == 3 and column["status"] == {"ok": 5} for column in info["columns"].values())
    assert "without annotation" not in photos.run("info").out
    assert photos.run("verify", "--complete").code == 0
    for verb in (["index"], ["extract"], ["normalize"], ["extract", "--dry-run"]):
        assert photos.run(*verb).code == 0
    split = open_split(photos.store, "photos", "all", images_root=photos.data)
    assert split.image_ids == ("a", "b", "c", "d", "trip/e")
    assert split["trip/e"].image().shape == (48, 64, 3)


def test_the_report_shows_the_masks_of_pictures_without_questions(photos: Any, tmp_path: Path) -> None:
    done = photos.run("report", "--split", "all", "--cases", "3", "--out", str(tmp_path))
    assert done.code == 0, done.err
    assert "all.html: 3 images" in done.out
    page = (tmp_path / "photos/all.html").read_text()
    assert page.count("<article") == 3
    pictures = sorted(path.name for path in (tmp_path / "photos/pictures/all").iterdir())
    assert [name for name in pictures if "proposals" in name] == [f"00{n}-proposals of sam.png" for n in (1, 2, 3)]
    assert "questions" not in json.dumps(done.out)


@pytest.mark.parametrize("verb", [["train", "--system", "elisa"], ["evaluate", "--system", "elisa", "--split", "all"]])
def test_a_split_without_questions_is_not_trained_on(photos: Any, verb: list[str]) -> None:
    done = photos.run(*verb)
    assert done.code == 2
    assert "photos/all has no questions: its format is images" in done.err


def coco(project: Any, *names: str) -> None:
    for name in names:
        path = project.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made = project.add_image("x", f"p{Path(name).stem[-3:]}", 2 * int(Path(name).stem[-3:]))
        shutil.move(made, path)


def test_a_folder_that_is_added_later_computes_only_what_is_new(tmp_path: Path, project_at: Any) -> None:
    """Whoever begins with train2014 and adds train2017, which holds the same pictures and more, extracts no picture twice."""
    project = project_at(tmp_path)
    coco(project, *(f"refer/train2014/COCO_train2014_000000000{n}.jpg" for n in ("009", "025", "030", "034")))
    configure(project, {"coco": {"format": "images", "ids": "coco", "root": str(project.folder / "refer")}})
    project.build("index", "extract --stage masks")
    before = project.content()
    coco(project, *(f"coco/train2017/000000000{n}.jpg" for n in ("007", "009", "025", "030", "034")))
    # its own folder stands first now
    roots = [str(project.folder / "coco"), str(project.folder / "refer")]
    configure(project, {"coco": {"format": "images", "ids": "coco", "root": roots}})
    assert project.run("index").code == 0
    times = project.times()
    done = project.run("extract", "--stage", "masks")
    assert done.code == 0
    assert project.recomputed(times) == {"coco/masks/sam/all#2"}
    after = project.content()
    assert {name: after[name] for name in before} == before
    split = open_split(project.store, "coco", "all", images_root=roots)
    assert split.image_ids == tuple(f"000000000{n}" for n in ("009", "025", "030", "034", "007"))
    assert [row["path"].split("/")[0] for record in split for row in record.rows("images")] == ["train2014"] * 4 + [
        "train2017"
    ]
    assert all(record.image().shape == (48, 64, 3) for record in split)
    assert "other bytes" not in project.run("info").out


def test_pictures_of_one_number_that_differ_are_named(tmp_path: Path, project_at: Any) -> None:
    project = project_at(tmp_path)
    coco(project, "a/train2014/COCO_train2014_000000000009.jpg", "b/train2017/000000000009.jpg")
    Image.new("RGB", (64, 48)).save(project.folder / "b/train2017/000000000009.jpg")
    roots = [str(project.folder / "a"), str(project.folder / "b")]
    configure(project, {"coco": {"format": "images", "ids": "coco", "root": roots}})
    done = project.run("index")
    assert done.code == 0
    assert "train2017/000000000009.jpg shows other pixels than train2014/COCO_train2014_000000000009.jpg" in done.err
    (project.folder / "a/train2014/COCO_train2014_000000000009.jpg").write_bytes(
        b"corrupt, as an older archive has one"
    )
    assert project.run("index").code == 0
    (row,) = open_split(project.store, "coco", "all")[0].rows("images")
    assert row["path"] == "train2017/000000000009.jpg"
    assert project.run("extract", "--stage", "masks").code == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"format": "reasonseg", "root": ["a", "b"]}, r"data.tiny.root: found 2 folders, expected one"),
        (
            {"format": "image", "root": "a"},
            "data.tiny: format: found 'image', expected one of .*did you mean 'images'",
        ),
        (
            {"format": "images", "root": "a", "id": "coco"},
            "data.tiny.id: unknown parameter; did you mean data.tiny.ids",
        ),
        (
            {"format": "images", "root": "a", "encoding": "gbk"},
            "data.tiny.encoding: unknown parameter; it belongs to another",
        ),
        ({"format": "images", "root": []}, "data.tiny.root: found \\[\\], expected a folder, or a list of folders"),
    ],
)
def test_what_a_format_has_not_is_refused(empty: Any, data: dict[str, Any], said: str) -> None:
    import re

    empty.configure()
    empty.values["data"] = {"tiny": {"images": "tiny", "splits": ["train"], **data}}
    empty.params.write_text(yaml.safe_dump(empty.values))
    done = empty.run("info")
    assert done.code == 2
    assert re.search(said, done.err.replace("\n", " ")), done.err


def test_only_what_is_asked_about_is_listed_and_more_is_appended(tmp_path: Path, project_at: Any) -> None:
    project = project_at(tmp_path)
    numbers = ("009", "025", "030", "034", "036")
    coco(project, *(f"coco/train2017/000000000{n}.jpg" for n in numbers))
    asked = tmp_path / "asked/train"
    asked.mkdir(parents=True)

    def ask(number: str) -> None:
        shapes = [{"label": "target", "points": [[1, 1], [20, 1], [20, 20]]}]
        text = {"shapes": shapes, "text": ["what waits?"], "is_sentence": True}
        (asked / f"000000000{number}.json").write_text(json.dumps(text))

    ask("030")
    ask("036")
    data = {
        "coco": {"format": "images", "ids": "coco", "root": str(project.folder / "coco"), "only": ["words"]},
        "words": {"format": "reasonseg", "images": "coco", "root": str(tmp_path / "asked"), "splits": ["train"]},
    }
    configure(project, data)
    project.build("index", "extract --stage masks")
    assert open_split(project.store, "coco", "all").image_ids == ("000000000030", "000000000036")
    ask("009")
    alone = project.run("index", "--data", "words")
    assert alone.code == 2
    assert (
        "1 images that it asks about are in the folders of coco and not in its index yet, such as 000000000009; run: "
        in (alone.err)
    )
    times = project.times()
    project.build("index", "extract --stage masks")
    assert open_split(project.store, "coco", "all").image_ids == ("000000000030", "000000000036", "000000000009")
    assert {name for name in project.recomputed(times) if "masks" in name} == {"coco/masks/sam/all#1"}
    words = open_split(project.store, "words", "train")
    assert words["000000000009"].rows("masks")[0]["status"] == "ok"
    (asked / "000000000030.json").unlink()  # what the store knows stays
    assert project.run("index").code == 0
    assert open_split(project.store, "coco", "all").image_ids[0] == "000000000030"
    data["coco"]["only"] = ["word"]
    configure(project, data)
    assert "data.coco.only: found 'word', expected data sets whose images are coco: words (did you mean 'words'?)" in (
        project.run("info").err
    )
