"""``export``: what comes out goes back in, what is left out is named, and the page and the help say what works."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import pipeline.verbs.files
from pipeline.params_file import load_settings
from stages.export.labelme import mask_shape
from stages.predictions import Meta, Prediction, write
from stages.train.run_digest import answering, identity, run_digest
from store import Split, open_split

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/export.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def export(project: Any, to: str, out: Path, *words: str) -> Any:
    return project.run("export", "--to", to, "--out", str(out), *words)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def answer(project: Any, split: str = "val") -> dict[str, Any]:
    """Answers of a finished run of elisa, without a model: the annotated ones, of the last question the empty mask."""
    settings = load_settings(project.params)
    about = identity(settings.train, "elisa", {})
    folder = Path(settings.run.train_dir) / "elisa"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({**about, "history": [{"loss": 1.0, "step": 7}]}))
    opened = open_split(project.store, "tiny", split, columns=["targets"])
    asked = [target for record in opened for target in record.rows("targets")]
    found = [Prediction(each["target_id"], 0, each["segmentation"], False, None, "It is [SEG]") for each in asked[:-1]]
    found.append(Prediction(asked[-1]["target_id"], 0, None, True, None, "no"))
    more = {"run": run_digest(about), "answering": json.dumps(answering(settings.train, "elisa"))}
    write(folder / f"predictions/tiny/{split}.parquet", Meta("elisa", "tiny", split, **more), found)
    return {each.target_id: each for each in found}


@pytest.fixture(scope="module")
def answered(finished_once: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The finished store, and answers of a run. Read only."""
    project = finished_once.copy(tmp_path_factory.mktemp("answered"))
    answer(project)
    return project


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_the_page_and_the_help_say_what_works(
    answered: Any, tmp_path: Path, cli: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of docs/export.md and of ``--help``, and then what the page reads from their files."""
    commands = [line for kind, text in FENCE.findall(PAGE) if kind == "bash" for line in text.splitlines()]
    help_ = pipeline.verbs.files.export.__doc__
    examples = re.findall(r"`(python cli\.py export [^`]*)`", help_)
    assert len(commands) == 8
    assert len(examples) == 4
    out = tmp_path / "page"
    for where, lines in ((out, commands), (tmp_path / "help", examples)):
        for line in lines:
            words = shlex.split(
                line.replace("data/export", str(where)).replace("--data demo --split test", "--split val")
            )
            done = answered.run(*words[2:])
            assert done.code == 0, (line, done.err)
            assert re.search(r": \w+ of tiny/val.*: 3 images, \d pictures, .*\d files?, ", done.out), done.out
    names: dict[str, Any] = {}
    for kind, text in FENCE.findall(PAGE):
        if kind == "python":
            exec(text.replace("data/export", str(out)), names)
    split = open_split(answered.store, "tiny", "val", columns=["masks", "targets"])
    np.testing.assert_array_equal(names["masks"], [mask.decode() for mask in split[0].masks])
    np.testing.assert_array_equal(names["found"], [mask.decode() for mask in split[2].masks])
    assert names["first_question"].tolist() == names["questions"][0] == ["the fox that waits"]
    assert names["vectors"].shape[1] == 64
    assert -1 <= names["scores"].stats[0] <= 1


def with_data(project: Any, **entries: dict[str, Any]) -> None:
    project.values["data"] |= {name: {"splits": ["train"], **entry} for name, entry in entries.items()}
    project.values["means"] = {"tiny": {"train": ["tiny/train"]}}
    project.values["train"]["train"] = ["tiny/train"]
    project.params.write_text(yaml.safe_dump(project.values, sort_keys=False))


def regions(split: Split, image: str) -> set[tuple[str, str]]:
    return {(each.segmentation, each["label"]) for each in split[image].instances}


@pytest.fixture
def asked(tiny: Any) -> Any:
    """Indexed: several questions about a picture, false premises, overlapping shapes, ignored pixels, a mask with a hole."""
    pixels = np.zeros((48, 64), bool)
    pixels[5:15, 5:15] = True
    pixels[8:10, 8:10] = False
    ring = {"label": "ring", **mask_shape(pixels)}
    box = {"label": "target", "points": [[3, 3], [30, 3], [30, 20], [3, 20]]}
    hidden = {"label": "ignore", "points": [[20, 10], [40, 10], [40, 30], [20, 30]]}
    document = {"shapes": [box, ring, hidden], "text": ["which ring?", "which one?"], "is_sentence": True}
    document["false_premise_QA"] = [["is there a unicorn?", True, "There is none."]]
    (tiny.data / "train/bee.json").write_text(json.dumps(document))
    second = {"shapes": [ring], "text": ["and now?"], "is_sentence": False}
    (tiny.data / "train/bee.1.json").write_text(json.dumps(second))
    tiny.build("index")
    return tiny


def test_questions_come_back_from_labelme(asked: Any, tmp_path: Path) -> None:
    out = tmp_path / "labelme"
    done = export(asked, "labelme", out, "--split", "train")
    assert done.code == 0, done.err
    assert "5 images, 5 pictures, 7 targets" in done.out
    with_data(asked, again={"format": "reasonseg", "images": "again", "root": str(out)})
    assert asked.run("index", "--data", "again").code == 0
    before, after = (open_split(asked.store, name, "train") for name in ("tiny", "again"))
    assert before.image_ids == after.image_ids
    for record in before:
        others = after[record.image_id].rows("targets")
        for target, other in zip(record.rows("targets"), others, strict=True):
            same = ("texts", "is_sentence", "kind", "answer", "segmentation", "ignore", "absent", "instances")
            assert {name: target[name] for name in same} == {name: other[name] for name in same}
        assert regions(before, record.image_id) == regions(after, record.image_id)
    assert before["ant"].rows("targets")[0]["answer"] == "It waits."
    assert len(before["bee"].rows("targets")) == 3


@pytest.mark.parametrize("what", ["masks", "instances"])
def test_regions_come_back_from_labelme(finished: Any, tmp_path: Path, what: str) -> None:
    out = tmp_path / "labelme"
    done = export(finished, "labelme", out, "--split", "train", "--what", what, "--pictures", "link")
    assert done.code == 0, done.err
    assert all((out / "train" / path.name).is_symlink() for path in (finished.data / "train").glob("*.jpg"))
    with_data(finished, again={"format": "reasonseg", "images": "again", "root": str(out)})
    assert finished.run("index", "--data", "again").code == 0
    before, after = (open_split(finished.store, name, "train") for name in ("tiny", "again"))
    count = 0
    for record in before:
        expected = {each.segmentation for each in getattr(record, what)}
        assert {each.segmentation for each in after[record.image_id].instances} == expected
        count += len(expected)
    assert count > 5


def test_annotations_come_back_from_coco(asked: Any, tmp_path: Path) -> None:
    out = tmp_path / "coco"
    done = export(asked, "coco", out, "--split", "train", "--what", "instances", "--pictures", "copy")
    assert done.code == 0, done.err
    entry = {"format": "coco", "images": "again", "root": str(out), "file": "instances.json", "pictures": "pictures"}
    with_data(asked, again=entry)
    assert asked.run("index", "--data", "again").code == 0
    before, after = (open_split(asked.store, name, "train") for name in ("tiny", "again"))
    for record in before:
        assert regions(before, record.image_id) == regions(after, record.image_id)


def test_a_borrower_exports_the_pictures_of_its_holder(borrowed: Any, tmp_path: Path) -> None:
    done = export(borrowed, "labelme", tmp_path / "out", "--data", "words", "--split", "train", "--what", "masks")
    assert done.code == 0, done.err
    for name, where in (("ant", "train/ant.jpg"), ("fox", "val/fox.jpg")):
        assert (tmp_path / f"out/train/{name}.jpg").read_bytes() == (borrowed.data / where).read_bytes()
    masks = open_split(borrowed.store, "words", "train", columns=["masks"])["fox"].masks
    assert len(json.loads((tmp_path / "out/train/fox.json").read_text())["shapes"]) == len(masks)


def test_predictions_are_those_of_the_run(answered: Any, tmp_path: Path) -> None:
    done = export(answered, "coco", tmp_path / "out", "--split", "val", "--what", "predictions", "--system", "elisa")
    assert done.code == 0, done.err
    assert "predictions of elisa): 3 images, 0 pictures, 3 predictions" in done.out
    (empty,) = json.loads((tmp_path / "out/predictions_without_pixels.json").read_text())
    assert (empty["target_id"], empty["rejected"], empty["answer"]) == ("hen/0", True, "no")
    found = json.loads((tmp_path / "out/predictions_results.json").read_text())
    split = open_split(answered.store, "tiny", "val", columns=["targets"])
    expected = [split[name].rows("targets")[0]["segmentation"] for name in ("fox", "gnu")]
    assert [each["segmentation"]["counts"] for each in found] == expected
    png = export(answered, "png", tmp_path / "png", "--split", "val", "--what", "predictions", "--system", "elisa")
    assert png.code == 0, png.err
    scored = answered.run("evaluate", "--predictions", str(tmp_path / "png/predictions"), "--split", "val", "--json")
    assert scored.code == 0, scored.err


def test_kept_predictions_of_others_are_exported(answered: Any, tmp_path: Path) -> None:
    project = answered.copy(tmp_path / "copy")
    split = open_split(project.store, "tiny", "val", columns=["targets"])
    given = {
        target["target_id"]: {"size": [record.height_px, record.width_px], "counts": target["segmentation"]}
        for record in split
        for target in record.targets
    }
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps([{"target_id": name, "segmentation": mask} for name, mask in given.items()]))
    kept = project.run("evaluate", "--predictions", str(path), "--split", "val", "--keep", "theirs")
    assert kept.code == 0, kept.err
    what = ("--what", "predictions", "--name", "theirs")
    done = export(project, "coco", tmp_path / "out", "--split", "val", *what)
    assert done.code == 0, done.err
    assert "predictions of theirs): 3 images" in done.out
    found = json.loads((tmp_path / "out/predictions_results.json").read_text())
    assert {each["target_id"]: each["segmentation"] for each in found} == given
    refused = export(project, "coco", tmp_path / "other", "--split", "train", *what)
    assert refused.code == 2
    assert "theirs: its predictions are of tiny/val, not of tiny/train" in refused.err


@pytest.mark.parametrize("to", ["coco", "webdataset"])
def test_what_is_left_out_is_named(finished: Any, tmp_path: Path, to: str) -> None:
    (finished.data / "val/broken.jpg").write_bytes(b"no picture")
    finished.add_image("val", "plain", 4)
    finished.build(
        "index --split val --set run.max_failures=9", "extract --split val --stage masks --set run.max_failures=9"
    )
    (finished.data / "val/gnu.png").unlink()
    how = ("--split", "val", "--what", "masks,targets", "--pictures", "copy")
    done = export(finished, to, tmp_path / "out", *how)
    assert done.code == 1, "a picture that is gone is a failure of this command; an absent annotation is not"
    lines = done.out.splitlines()
    assert ": 3 images, 3 pictures, " in lines[0]
    assert any(re.fullmatch(r"  1 image left out: no readable header .*: broken", line) for line in lines)
    assert any(re.fullmatch(r"  1 image without targets: no annotation.*: plain", line) for line in lines)
    assert "  1 image left out, as the picture is missing: val/gnu.png: no such file: gnu" in lines
    found = json.loads((tmp_path / "out/export.json").read_text())
    assert {note["image_id"] for note in found["left_out"]} == {"broken", "plain", "gnu"}
    (finished.data / "val/gnu.png").write_bytes(b"another")
    again = export(finished, to, tmp_path / "again", *how)
    assert "  1 image left out, as the picture is missing: val/gnu.png: not the file that was indexed: gnu" in again.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--to", "cocoo"), r"--to: found 'cocoo', expected one of coco, .* \(did you mean 'coco'\?\)"),
        (("--to", "coco", "--split", "vall"), "--split: found 'vall'"),
        (("--to", "coco", "--what", "mask"), r"--what: found 'mask', expected masks, .* \(did you mean 'masks'\?\)"),
        (("--to", "labelme", "--what", "predictions"), "--what: found 'predictions', .*; labelme holds no predictions"),
        (("--to", "labelme", "--what", "masks,targets"), "expected one of them: labelme holds one thing at a time"),
        (("--to", "coco", "--proposer", "sum"), r"--proposer: found 'sum', .*: sam \(did you mean 'sam'\?\)"),
        (
            ("--to", "coco", "--encoder", "demo_sam"),
            "holds no vectors; expected one of hf, webdataset, fiftyone, numpy",
        ),
        (("--to", "numpy", "--encoder", "x"), r"--encoder: found 'x', expected one of demo_alphaclip, demo_sam"),
        (("--to", "numpy", "--what", "targets", "--encoder", "demo_sam"), "vectors are of masks and instances"),
        (("--to", "hf", "--pictures", "link"), "--pictures: found 'link', expected copy or none for hf"),
        (("--to", "coco", "--polygons"), "--polygons: found --to coco"),
        (("--to", "coco", "--what", "predictions"), "--what predictions: found no --system or --name"),
        (("--to", "coco", "--system", "elisa"), "found --system or --name without it"),
        (("--to", "coco", "--what", "predictions", "--system", "elisa"), "elisa is not trained; run: python cli.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_does_not_fit_is_said_and_nothing_is_written(
    finished_once: Any, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    split = () if "--split" in words else ("--split", "val")
    done = finished_once.run("export", *words, *split, "--out", str(tmp_path / "out"))
    assert (done.code, done.out) == (2, ""), done.err
    assert re.search(said, done.err), done.err
    assert list(tmp_path.iterdir()) == []


def test_one_split_a_folder(finished_once: Any, tmp_path: Path) -> None:
    done = export(finished_once, "coco", tmp_path / "out")
    assert done.code == 2
    assert "expected one split, found tiny/train, tiny/val; name one, such as --split train" in done.err
    inside = export(finished_once, "coco", finished_once.store / "export", "--split", "val")
    assert (inside.code, (finished_once.store / "export").exists()) == (2, False)
    assert "is in the store" in inside.err
    assert export(finished_once, "coco", tmp_path / "out", "--split", "val").code == 0
    before = files(tmp_path)
    again = export(finished_once, "coco", tmp_path / "out", "--split", "val")
    assert again.code == 2
    assert "holds a finished export; expected another folder, or remove it" in again.err
    assert files(tmp_path) == before


def test_masks_that_are_not_there_are_said_with_what_to_type(asked: Any, tmp_path: Path) -> None:
    done = export(asked, "coco", tmp_path / "out", "--split", "val")
    assert done.code == 2
    assert "no column of a proposer 'sam'; found none of any proposer" in done.err
    assert "; run: python cli.py extract --split val --stage masks" in done.err
    assert not (tmp_path / "out").exists()
    assert export(asked, "coco", tmp_path / "out", "--split", "val", "--what", "targets").code == 0


def test_pictures_alone_have_masks(finished_once: Any, tmp_path: Path) -> None:
    """The folder of the pictures is needed where they are wanted, and not else."""
    gone = ("--set", f"data.tiny.root={tmp_path / 'gone'}")
    done = finished_once.run(*gone, "export", "--to", "hf", "--split", "val", "--out", str(tmp_path / "out"))
    assert done.code == 2
    assert f"data.tiny.root: there is no folder {tmp_path / 'gone'}, and the pictures are wanted" in done.err
    done = finished_once.run(
        *gone, "export", "--to", "hf", "--split", "val", "--pictures", "none", "--out", str(tmp_path / "out")
    )
    assert done.code == 0, done.err


def test_ctrl_c_and_the_same_command_again(finished_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    import stages.export as formats

    whole = export(finished_once, "numpy", tmp_path / "whole", "--split", "train")
    assert whole.code == 0
    form = replace(formats.FORMATS["numpy"], unit_images=2)

    def stop(asked: Any, items: Any, number: int) -> Any:
        if number == 1:
            raise KeyboardInterrupt
        return form.unit(asked, items, number)

    monkeypatch.setitem(formats.FORMATS, "numpy", replace(form, unit=stop))
    stopped = export(finished_once, "numpy", tmp_path / "out", "--split", "train")
    assert stopped.code == 130
    assert "run the same command again to go on" in stopped.err
    assert len(files(tmp_path / "out")) == 3, "two images, and what is done"
    monkeypatch.setitem(formats.FORMATS, "numpy", form)
    other = export(finished_once, "numpy", tmp_path / "out", "--split", "val")
    assert other.code == 2
    assert "an unfinished export of something else (split, store)" in other.err
    assert export(finished_once, "numpy", tmp_path / "out", "--split", "train").code == 0
    for name in files(tmp_path / "whole"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert files(tmp_path / "whole") == files(tmp_path / "out")
