"""Every set of the demo's mixture, in its official format: pictures are computed once, whatever asks about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demo.data.mixture import MixtureSizes, draw, make_mixture
from stages.proposers.sam import proposals
from store import open_split, rle
from store.split import Split

ROOT = Path(__file__).resolve().parents[2]
SIZES = MixtureSizes(mixed=6, reasoned=2, asked=3)
BORROWERS = {"stuff": 6, "paco": 6, "refcoco": 9, "grefcoco": 9, "llava": 6}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, project_at: Any) -> Any:
    """All sets, indexed and extracted; ``seen`` is how many pictures SAM saw."""
    folder = tmp_path_factory.mktemp("mixed")
    make_mixture(folder / "data/mixture", SIZES)
    text = (ROOT / "params/mixture_demo.yaml").read_text().replace("data/mixture", f"{folder}/data/mixture")
    values = yaml.safe_load(text.replace("data/train", f"{folder}/train"))
    values["proposers"]["demo_sam"] |= {"points_per_side": 2, "pred_iou_thresh": 0.0}
    values["shard_images"] = 4
    values["run"] |= {"cache_dir": str(folder / "cache"), "threads": 1, "executor": "local"}
    project = project_at(folder)
    project.values = values
    project.params.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        seen: list[int] = []
        real = proposals.MaskGenerator.propose

        def counted(self: Any, images: Any, memo: Any) -> Any:
            seen.append(len(images))
            return real(self, images, memo)

        patch.setattr(proposals.MaskGenerator, "propose", counted)
        project.build("index", "extract")
        project.seen = sum(seen)
    return project


def opened(project: Any, dataset: str, split: str) -> Split:
    return open_split(project.values["store"], dataset, split)


def test_sam_sees_each_picture_once(mixed: Any) -> None:
    """Nine pictures of COCO, which five sets ask about, and five of ReasonSeg."""
    assert mixed.seen == 9 + 5
    store = Path(mixed.values["store"])
    for column in ("masks", "mask_embeddings", "image_features", "sam_features"):
        assert {path.parent.name for path in store.glob(f"*/{column}") if any(path.rglob("column.json"))} == {
            "coco",
            "reasonseg",
        }
    for name in BORROWERS:
        assert (store / name / "match").is_dir() or name == "llava"


def test_every_set_has_its_questions_and_the_masks_of_the_shared_pictures(mixed: Any) -> None:
    info = mixed.info()["splits"]
    for name, images in BORROWERS.items():
        found = sum(info[f"{name}/{split}"]["images"] for split in ("train", "val") if f"{name}/{split}" in info)
        assert found == images
    assert all(column["status"].keys() == {"ok"} for split in info.values() for column in split["columns"].values())
    split = opened(mixed, "refcoco", "val")
    assert len(split[0].masks) > 0
    assert len(split[0]["mask_embeddings/demo_alphaclip"]) > 0


def test_what_the_formats_say_is_what_was_drawn(mixed: Any) -> None:
    """Label maps are exact; polygons of COCO's form lose pixels at the border alone."""
    drawn = {f"{number:012d}": draw(number) for number in range(1, 7)}
    for record in opened(mixed, "stuff", "train"):
        for target in record.rows("targets"):
            (label,) = target["texts"]
            objects = drawn[record.image_id].scene.objects
            want = np.logical_or.reduce([thing.visible for thing in objects if thing.label == label])
            found = decoded(record, target)
            assert (found == want).all()
    for record in opened(mixed, "paco", "train"):
        objects = drawn[record.image_id].scene.objects
        assert len(record.rows("targets")) == len(objects)
        for number, thing in enumerate(objects):
            found = decoded(record, record.rows("targets")[number])
            assert (found & thing.visible).sum() / (found | thing.visible).sum() > 0.75
    for record in opened(mixed, "refcoco", "train"):
        assert all(target["kind"] == "refer" and not target["absent"] for target in record.rows("targets"))
    absent = [target["absent"] for record in opened(mixed, "grefcoco", "train") for target in record.rows("targets")]
    assert any(absent)
    assert not all(absent)
    for record in opened(mixed, "llava", "train"):
        (target,) = record.rows("targets")
        assert len(target["turns"]) == 4
        assert target["kind"] == "vqa"


def decoded(record: Any, target: dict[str, Any]) -> np.ndarray:
    return rle.decode(target["segmentation"], record.height_px, record.width_px)


def test_each_set_has_a_page_without_any_mean(mixed: Any, tmp_path: Path) -> None:
    for name in ("refcoco", "llava", "coco"):
        split = "all" if name == "coco" else "train"
        done = mixed.run("report", "--data", name, "--split", split, "--cases", "2", "--out", str(tmp_path))
        assert done.code == 0, done.err
        assert (tmp_path / name / f"{split}.html").is_file()


def test_the_mixture_draws_from_all_of_them(mixed: Any) -> None:
    from pipeline.params_file import load_settings
    from stages.train.run import batches, system_class

    settings = load_settings(mixed.params, [])
    from pipeline.runs import resolve

    run = resolve(settings, None, "lisa_mixture")
    splits = {name: open_split(mixed.values["store"], *name.split("/")) for name in run.params.splits}
    schedule = batches(run.params, system_class("lisa"), splits).stream.schedule
    drawn = schedule.drawn(1)  # type: ignore[attr-defined]
    assert sum(one["samples"] for one in drawn.values()) == 200 * 2
    assert all(one["samples"] for one in drawn.values())
    assert drawn["llava/train"]["questions"] == drawn["llava/train"]["samples"]
    assert drawn["stuff/train"]["samples"] + drawn["paco/train"]["samples"] == pytest.approx(225, abs=35)
