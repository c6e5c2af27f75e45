"""What pycocotools makes of the files, and that its COCOeval runs on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.export import FORMATS
from stages.export.content import Asked
from store import open_split, rle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def evaluated(truth: COCO, results: COCO, **params: Any) -> Any:
    run = COCOeval(truth, results, "segm")
    for name, value in params.items():
        setattr(run.params, name, value)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats


def test_pycocotools_reads_the_masks_that_were_written(known: Known, export: Any, tmp_path: Path) -> None:
    summary = export("coco", tmp_path / "out")
    truth = COCO(str(tmp_path / "out/instances.json"))
    split = open_split(known.store, "d", "val")
    assert [truth.imgs[k]["image_id"] for k in sorted(truth.imgs)] == list(split.image_ids)
    for record in split:
        found = truth.loadAnns(truth.getAnnIds(imgIds=[record.image_index]))
        assert len(found) == len(record.instances)
        for annotation, instance in zip(found, record.instances, strict=True):
            np.testing.assert_array_equal(truth.annToMask(annotation).astype(bool), instance.decode())
            assert annotation["bbox"] == list(instance["bbox"])
            assert annotation["area"] == instance["area"] == int(truth.annToMask(annotation).sum())
    results = truth.loadRes(str(tmp_path / "out/masks_results.json"))
    for record in split:
        found = results.loadAnns(results.getAnnIds(imgIds=[record.image_index]))
        assert [annotation["score"] for annotation in found] == [mask["predicted_iou"] for mask in record.masks]
        for annotation, mask in zip(found, record.masks, strict=True):
            np.testing.assert_array_equal(results.annToMask(annotation).astype(bool), mask.decode())
            assert annotation["area"] == mask["area"], "of the mask, not of its box"
    stats = evaluated(truth, results, useCats=0, maxDets=[1, 10, 100])
    assert 0 < stats[8] <= 1, "the first proposal is often an instance"
    assert summary.counts["masks"] == sum(map(len, known.masks)) == len(results.anns)


def test_an_answer_is_matched_with_its_own_question(known: Known, export: Any, tmp_path: Path) -> None:
    export("coco", tmp_path / "out")
    truth = COCO(str(tmp_path / "out/targets.json"))
    asked = [target for own in known.targets for target in own]
    there = [target for target in asked if rle.area(target["segmentation"])]
    assert [each["target_id"] for each in truth.anns.values()] == [target["target_id"] for target in there]
    assert [each["texts"] for each in truth.anns.values()] == [target["texts"] for target in there]
    for annotation, target in zip(truth.anns.values(), there, strict=True):
        assert annotation["segmentation"]["counts"] == target["segmentation"]
        assert annotation["ignored_pixels"]["counts"] == target["ignore"]
        assert annotation["category_id"] == int(target["target_id"].rpartition("/")[2]) + 1
    without = read(tmp_path / "out", "targets_without_pixels.json")
    assert len(without) + len(there) == len(asked)
    results = read(tmp_path / "out", "predictions_results.json")
    own = {(each["image_id"], each["category_id"]) for each in results}
    found = truth.loadRes(results)
    stats = evaluated(truth, found)
    assert stats[0] == stats[1] > 0, "an answer is the annotated one, or none"
    shares = [_recall(truth, own, category) for category in {each["category_id"] for each in truth.anns.values()}]
    assert stats[8] == pytest.approx(np.mean(shares))
    refused = read(tmp_path / "out", "predictions_without_pixels.json")
    assert len(refused) + len(results) == len(asked)
    assert {each["rejected"] for each in refused} >= {True}


def _recall(truth: COCO, answered: set[tuple[int, int]], category: int) -> float:
    """Of the questions with this number, the share that was answered; every answer is the annotated one."""
    asked = [(each["image_id"], category) for each in truth.anns.values() if each["category_id"] == category]
    return float(np.mean([each in answered for each in asked]))


def test_images_of_coco_keep_their_number(item: Any, tmp_path: Path) -> None:
    form = FORMATS["coco"]
    asked = Asked("coco", "all", ("masks",), 2, "none", "sam")
    masks = [np.eye(4, 6, dtype=bool)]
    entries = form.unit(asked, [item("000000000139", masks), item("000000000285", masks)], 0).entries
    entries[1]["image"]["image_index"] = 1
    files = {name: json.loads(b"".join(blocks)) for name, blocks in form.finish(asked, lambda: iter(entries))}
    assert [each["id"] for each in files["images.json"]["images"]] == [139, 285]
    assert [each["image_id"] for each in files["masks_results.json"]] == [139, 285]
    assert [each["file_name"] for each in files["images.json"]["images"]] == ["000000000139.jpg", "000000000285.jpg"]
