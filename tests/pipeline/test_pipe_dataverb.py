"""The verb ``data``: what a data set is and what of it is here; and the line of ``index`` on published counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import written_hub
import yaml
from lending import rows
from PIL import Image
from written_refer import HEIGHT, SQUARE, WIDTH, ref, thing, write_instances, write_refs

from stages.datasets.published import PUBLISHED, Counts, Published

ROOT = Path(__file__).parents[2]
TRAIN = ("refcoco", "unc", "train")


@pytest.fixture
def project(empty: Any) -> Any:
    """RefCOCO over COCO's pictures, of which nothing is there yet; and a data set of the format reasonseg that is nobody's."""
    values, folder = empty.values, empty.folder
    values["data"] = {
        "coco": {"format": "images", "ids": "coco", "images": "coco", "root": str(folder / "coco"), "splits": ["all"]},
        "refs": {"format": "refer", "images": "coco", "root": str(folder / "refcoco"), "splits": ["train", "val"]},
        "own": {"format": "reasonseg", "images": "own", "root": str(folder / "own"), "splits": ["val"]},
    }
    values["means"], values["train"]["train"] = {}, ["refs/train"]
    empty.params.write_text(yaml.safe_dump(values, sort_keys=False))
    return empty


def fill(project: Any) -> None:
    folder = project.folder / "coco" / "train2014"
    folder.mkdir(parents=True)
    for number in (7, 9):
        pixels = np.full((HEIGHT, WIDTH, 3), number, np.uint8)
        Image.fromarray(pixels).save(folder / f"COCO_train2014_{number:012d}.jpg")
    refs = [ref(1, 7, 1, "left man", "Guy"), ref(2, 9, 2, "the cat"), ref(3, 9, 2, "it", split="val")]
    write_refs(project.folder / "refcoco", refs)
    write_instances(project.folder / "refcoco", [thing(1, 7, [SQUARE]), thing(2, 9, [SQUARE])])


def publish(patch: pytest.MonkeyPatch, *counts: Counts) -> None:
    releases = [
        Published(each, "VVV", "" if n == 0 else "of old", "someone/somewhere") for n, each in enumerate(counts)
    ]
    patch.setitem(PUBLISHED, TRAIN, tuple(releases))


def files(project: Any) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}


def test_a_data_set_that_is_not_here_is_described(project: Any) -> None:
    before = files(project)
    found = project.run("data", "--json").json()
    assert list(found) == ["coco", "refs", "own"]
    refs = found["refs"]
    assert (refs["published_set"], refs["recognised_by"]) == ("RefCOCO", "the name of its folder, refcoco")
    assert (refs["format"], refs["options"]) == ("refer", {"split_by": "unc", "ids": "coco"})
    assert refs["borrows_from"] == {"data": "coco", "root": [str(project.folder / "coco")], "found": False}
    assert refs["url"] == "https://github.com/lichengunc/refer"
    assert [(file["path"].removeprefix(str(project.folder)), file["found"]) for file in refs["files"]] == [
        ("/refcoco", False), ("/refcoco/refs(unc).p", False), ("/refcoco/instances.json", False),
    ]  # fmt: skip
    train = refs["splits"]["train"]
    assert (train["images"], train["source"], train["why"]) == (None, None, "its files are not there")
    assert train["published"][0]["questions"] == 42404
    assert found["own"]["published_set"] is None
    assert files(project) == before
    assert not project.store.exists()


def test_the_same_for_a_person(project: Any) -> None:
    text = project.run("data").out
    for line in (
        "refs: RefCOCO, by the name of its folder, refcoco",
        "  licence   of the annotations: not known",
        "Flickr's terms of use apply [V]",
        f"  pictures  borrowed from coco ({project.folder / 'coco'}: MISSING)",
        f"  MISSING   {project.folder / 'refcoco/instances.json'} (objects; train, val)",
        "  refs/train: not counted: its files are not there",
        "    published: 16 994 images, 42 404 questions, 120 624 texts [VVV: tensorflow/datasets",
        "own: not a known published set",
        f"  not here  {project.folder / 'own/explanatory/val.json'} (answers in words, which may be missing; val)",
    ):
        assert line in text
    assert project.run("data", "own").out.startswith("own: not a known published set\n")


def test_a_name_that_there_is_not(project: Any) -> None:
    done = project.run("data", "reefs")
    assert done.code == 2
    assert "data: found 'reefs', expected one of coco, refs, own" in done.err
    assert "did you mean 'refs'?" in done.err


@pytest.mark.parametrize(
    ("counts", "state", "line"),
    [
        ([Counts(2, 2, 3)], "equal", "refs/train: 2 images, 2 questions, 3 texts as published"),
        ([Counts(2, 5, 3)], "differs", "refs/train: 2 questions where 5 are published (3 fewer)"),
        ([Counts(9, 9, 9), Counts(2, 2, 3)], "release", "2 images, 2 questions, 3 texts as in another release, the one of old"),
        ([Counts(16994, 42404, 120624)], "sample", "2 images, 2 questions, 3 texts: a sample, or your own data in this form;"),
        ([], "unknown", "refs/train: 2 images, 2 questions, 3 texts; no published count is known"),
    ],
)  # fmt: skip
def test_counts_of_the_files_next_to_the_published_ones(
    project: Any, monkeypatch: pytest.MonkeyPatch, counts: list[Counts], state: str, line: str
) -> None:
    fill(project)
    publish(monkeypatch, *counts)
    found = project.run("data", "refs", "--json").json()["refs"]
    assert all(file["found"] for file in found["files"])
    assert (found["splits"]["train"]["source"], found["splits"]["train"]["state"]) == ("files", state)
    assert line in project.run("data", "refs").out


def test_files_that_cannot_be_counted_say_why(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(project)
    (project.folder / "refcoco/refs(unc).p").write_bytes(b"no pickle")
    why = project.run("data", "refs", "--json").json()["refs"]["splits"]["train"]["why"]
    assert "refs(unc).p" in why
    monkeypatch.setattr("pipeline.counted.MAX_BYTES", 3)
    why = project.run("data", "refs", "--json").json()["refs"]["splits"]["train"]["why"]
    assert why.startswith("not counted before it is indexed")
    (project.folder / "refcoco/instances.json").unlink()
    assert project.run("data", "refs", "--json").json()["refs"]["splits"]["train"]["why"] == "not there: objects"


def test_index_and_what_is_indexed(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(project)
    publish(monkeypatch, Counts(2, 2, 3))
    values = project.values
    values["data"].pop("own")
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    done = project.run("index")
    assert done.code == 0, done.out + done.err
    assert "  refs/train: 2 images, 2 questions, 3 texts as published (RefCOCO)\n" in done.err
    assert done.err.count("published") == 1, "far fewer images than published are a sample"
    assert "as published" not in done.out
    train = project.run("data", "refs", "--json").json()["refs"]["splits"]["train"]
    assert (train["source"], train["images"], train["questions"], train["texts"]) == ("index", 2, 2, 3)
    publish(monkeypatch, Counts(3, 2, 3))
    done = project.run("index")
    assert done.code == 0
    assert "refs/train: 2 images where 3 are published (1 fewer) (RefCOCO)" in done.err
    pictures = project.run("data", "coco", "--json").json()["coco"]["splits"]["all"]
    assert (pictures["source"], pictures["images"], pictures["questions"]) == ("index", 2, None)


def test_of_pictures_that_others_ask_about_all_files_are_counted(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(project)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    Image.fromarray(pixels).save(project.folder / "coco/train2014/COCO_train2014_000000000011.jpg")
    monkeypatch.setitem(PUBLISHED, ("coco", "", "all"), (Published(Counts(3, None, None), "S--", "", "someone"),))
    project.values["data"].pop("own")
    project.values["data"]["coco"]["only"] = ["refs"]
    project.params.write_text(yaml.safe_dump(project.values, sort_keys=False))
    done = project.run("index")
    assert done.code == 0, done.err
    assert "coco/all: " not in done.err.replace("index coco/all: ", ""), "what is indexed is a part by choice"
    found = project.run("data", "coco", "--json").json()["coco"]
    assert (found["only"], found["splits"]["all"]["images"], found["splits"]["all"]["state"]) == (["refs"], 3, "equal")
    assert "new ones only if asked about by refs" in project.run("data", "coco").out


def test_a_split_that_is_indexed_in_part_is_counted_from_its_files(project: Any) -> None:
    fill(project)
    project.values["data"].pop("own")
    project.values["shard_images"] = 1
    project.params.write_text(yaml.safe_dump(project.values, sort_keys=False))
    assert project.run("index", "--data", "coco").code == 0
    done = project.run("index", "--data", "refs", "--split", "train", "--part", "1/3")
    assert "1 of 2" in done.out, done.out
    assert project.run("data", "refs", "--json").json()["refs"]["splits"]["train"]["source"] == "files"


@pytest.fixture
def hub(empty: Any) -> Any:
    """The hub's copy of two pictures, and a data set for what is unpacked."""
    values, folder = empty.values, empty.folder
    masks = np.zeros((6, 8), bool), np.ones((6, 8), bool)
    written = [written_hub.row(name, mask, name) for name, mask in zip(("a.x.jpg", "b.jpg"), masks, strict=True)]
    written_hub.write(folder / "hub", "val", written)
    values["data"] = {
        "held": {"format": "images", "images": "held", "root": str(folder / "held"), "splits": ["val"]},
        "hub": {"format": "reasonseg_hub", "images": "held", "root": str(folder / "hub"), "splits": ["val"]},
    }
    values["means"], values["train"]["train"] = {}, ["hub/val"]
    empty.params.write_text(yaml.safe_dump(values, sort_keys=False))
    return empty


def test_the_hubs_copy_is_unpacked_and_indexed(hub: Any) -> None:
    found = hub.run("data", "hub", "--json").json()["hub"]
    assert found["published_set"] == "ReasonSeg, the hub's Parquet copies"
    assert [file["found"] for file in found["files"]] == [True, True]
    assert found["splits"]["val"]["questions"] == 2
    done = hub.run("data", "hub", "--unpack", str(hub.folder / "held"))
    assert done.code == 0, done.err
    assert done.err.startswith("licence of the pictures: OpenImages")
    assert "ScanNet may not be redistributed" in done.err
    assert f"hub/val: 2 pictures written to {hub.folder / 'held/val'}\n" in done.out
    assert f"root: {hub.folder / 'held'}, splits: [val]" in done.out
    assert hub.run("data", "hub", "--unpack", str(hub.folder / "held"), "--json").json()["val"]["there"] == 2
    done = hub.run("index")
    assert done.code == 0, done.out + done.err
    assert "noted: 2 x targets: the hub's copy has no is_sentence" in done.err
    assert [(row["target_id"], row["texts"], row["kind"]) for row in rows(hub, "hub/targets/val")] == [
        ("a/0", ["a.x.jpg"], "reasonseg_hub"), ("b/0", ["b.jpg"], "reasonseg_hub"),
    ]  # fmt: skip
    done = hub.run("report", "--data", "hub", "--split", "val")
    assert "report: The pictures from ScanNet may not be redistributed" in done.err
    (page,) = hub.folder.rglob("val.html")
    assert "ScanNet may not be redistributed" in page.read_text()


def test_unpack_says_what_it_cannot_do(hub: Any) -> None:
    for words, why in (
        (("data", "--unpack", "x"), "found --unpack without a name"),
        (("data", "hubb", "--unpack", "x"), "did you mean 'hub'?"),
        (("data", "held", "--unpack", "x"), "held is images"),
        (("data", "hub", "--unpack", str(hub.folder / "hub")), "is the folder of hub itself"),
    ):
        done = hub.run(*words)
        assert done.code == 2
        assert why in done.err
    taken = hub.folder / "out/val/b.jpg"
    taken.parent.mkdir(parents=True)
    taken.write_bytes(b"mine")
    done = hub.run("data", "hub", "--unpack", str(hub.folder / "out"))
    assert done.code == 1
    assert "not written: 'b': b.jpg is there already and is another picture" in done.out
    assert taken.read_bytes() == b"mine"


def test_no_torch_is_loaded(project: Any) -> None:
    code = (
        f"import sys; sys.argv = ['cli.py', '--params', {str(project.params)!r}, 'data']; import cli; code = cli.main(); "
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "refs: RefCOCO" in done.stdout
