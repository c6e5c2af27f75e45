"""Boxes become masks by SAM's box prompt, in a file that is read like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from segment_anything import SamPredictor

from stages.proposers.sam.model import build_sam
from store import open_split, rle

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory, project_at: Any) -> Any:
    """Five pictures with two boxes each, but the last one, which has none; indexed."""
    project = project_at(tmp_path_factory.mktemp("boxed"))
    images, annotations = [], []
    for number in range(1, 6):
        made = project.add_image("train", f"p{number}", 2 * number)
        images.append({"id": number, "file_name": made.name, "height": 48, "width": 64})
        if number < 5:
            for box in ([10, 8, 20, 16], [2, 2, 12, 9]):
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box, "iscrowd": 0}
                )
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "mug"}]}
    (project.data / "train.json").write_text(json.dumps(document))
    project.configure()
    entry = {"format": "coco", "images": "ego", "root": str(project.data), "targets": "instance"}
    project.values["data"] = {"ego": {**entry, "splits": ["train"]}}
    project.values |= {"means": {}, "runs": {}}
    project.values["train"]["train"] = []
    project.params.write_text(yaml.safe_dump(project.values))
    project.build("index")
    return project


def boxes(project: Any, out: Path) -> Any:
    return project.run("boxes", "--data", "ego", "--model", "demo_sam", "--out", str(out))


def test_masks_are_those_of_the_official_predictor_and_can_be_read(boxed: Any) -> None:
    out = boxed.data / "masks_train.json"
    done = boxes(boxed, out)
    assert done.code == 0, done.err
    assert "8 masks of 4 images" in done.out
    assert not out.with_name("masks_train.json.part").exists()
    found = json.loads(out.read_text())
    predictor = SamPredictor(build_sam("demo_sam", ROOT / "demo/models/demo_sam.safetensors", "cpu"))
    predictor.set_image(np.asarray(Image.open(boxed.data / "train" / found["images"][0]["file_name"]).convert("RGB")))
    masks, scores, _ = predictor.predict(box=np.array([10, 8, 30, 24]), multimask_output=False)
    first = found["annotations"][0]
    got = rle.decode(first["segmentation"]["counts"], 48, 64)
    assert (got & masks[0]).sum() >= 0.99 * (got | masks[0]).sum()
    assert first["predicted_iou"] == pytest.approx(float(scores[0]), abs=1e-4)
    boxed.values["data"]["ego2"] = {**boxed.values["data"]["ego"], "images": "ego", "file": "masks_{split}.json"}
    boxed.params.write_text(yaml.safe_dump(boxed.values))
    assert boxed.run("index", "--data", "ego2").code == 0
    split = open_split(boxed.store, "ego2", "train")
    assert [target["kind"] for record in split for target in record.rows("targets")] == ["object"] * 8
    assert boxes(boxed, out).code == 2


def test_it_goes_on_where_it_was_stopped(boxed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.boxes

    real, seen = stages.boxes.BoxPrompts.masks, []

    def counted(self: Any, image: Any, asked: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(asked))
        return real(self, image, asked)

    monkeypatch.setattr(stages.boxes.BoxPrompts, "masks", counted)
    out = tmp_path / "out.json"
    assert boxes(boxed, out).code == 130
    part = tmp_path / "out.json.part"
    part.write_text(part.read_text() + '{"image_id": "half')
    monkeypatch.setattr(
        stages.boxes.BoxPrompts, "masks", lambda self, image, asked: (seen.append(0), real(self, image, asked))[1]
    )
    assert boxes(boxed, out).code == 0
    assert len(seen) == 4
    assert len(json.loads(out.read_text())["annotations"]) == 8


def test_what_does_not_fit_is_said(boxed: Any, finished_once: Any, tmp_path: Path) -> None:
    done = boxed.run("boxes", "--data", "ego", "--model", "demo_sum", "--out", str(tmp_path / "x.json"))
    assert done.code == 2
    assert "--model: unknown SAM model 'demo_sum'" in done.err
    done = finished_once.run("boxes", "--split", "val", "--model", "demo_sam", "--out", str(tmp_path / "y.json"))
    assert done.code == 2
    assert "tiny/val has no boxes" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("begun", ["", '{"split": "ego/train", "mod', "[1]\nno JSON\n", "mine"])
def test_only_what_the_same_call_began_is_gone_on_with(boxed: Any, tmp_path: Path, begun: str) -> None:
    out, part = tmp_path / "out.json", tmp_path / "out.json.part"
    part.write_text(begun)
    done = boxes(boxed, out)
    if begun in ("", '{"split": "ego/train", "mod'):  # a kill while the first line was written
        assert done.code == 0, done.err
        assert not part.exists()
    else:
        assert done.code == 2
        assert f"{part} is there, but was begun for another split, index or model" in done.err
        assert part.read_text() == begun
        assert not out.exists()


def test_pictures_whose_boxes_are_done_are_not_decoded_again(
    boxed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.commands.boxes as verb
    import pipeline.inputs as inputs

    out, part = tmp_path / "out.json", tmp_path / "out.json.part"
    with monkeypatch.context() as patched:
        patched.setattr(verb, "replace_file", lambda path, data: (_ for _ in ()).throw(KeyboardInterrupt))
        assert boxes(boxed, out).code == 130
    assert len(part.read_text().splitlines()) == 5
    monkeypatch.setattr(inputs, "read_image", lambda *words: pytest.fail("a picture is decoded again"))
    assert boxes(boxed, out).code == 0
    assert len(json.loads(out.read_text())["annotations"]) == 8
