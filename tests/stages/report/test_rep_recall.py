"""AR@K against pycocotools' COCOeval on the same masks."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factory import Known, full_store, write_images, write_table
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from stages.report.recall import NEVER, THRESHOLDS, found_at, proposal_recall
from store import Split, open_split, rle
from store.overlap import against_instances

Image = tuple[list[dict[str, Any]], list[float], list[dict[str, Any]]]
"""Proposals, their predicted_iou, and instances, as pycocotools takes them."""
COLUMNS = ["images", "instances", "targets", "masks", "match/sam/instances"]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return full_store(tmp_path_factory.mktemp("recall"), images=40, seed=3)


def opened(known: Known, columns: list[str] = COLUMNS) -> Split:
    return open_split(known.store, "d", "val", columns=columns)


def contents(split: Split) -> Iterator[Image]:
    for record in split:
        scores = [region["predicted_iou"] for region in record.masks]
        yield [region.coco() for region in record.masks], scores, [region.coco() for region in record.instances]


def cocoeval(contents: Iterable[Image], limits: list[int]) -> dict[int, float]:
    """AR@K by COCOeval, classes aside, masks as segmentations."""
    images, truth, found = [], [], []
    for number, (masks, scores, instances) in enumerate(contents):
        about = {"image_id": number, "category_id": 1}
        height_px, width_px = (instances or masks or [{"size": (1, 1)}])[0]["size"]
        images.append({"id": number, "height": height_px, "width": width_px})
        for each in instances:
            fields = {"iscrowd": 0, "id": len(truth) + 1, "area": 1, "bbox": [0, 0, 1, 1]}
            truth.append({**about, **fields, "segmentation": each})
        found += [{**about, "segmentation": mask, "score": s} for mask, s in zip(masks, scores, strict=True)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": truth, "categories": [{"id": 1, "name": "it"}], "info": {}}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.params.useCats = 0
        evaluation.params.maxDets = limits
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    recall = evaluation.eval["recall"]  # [T, 1, 1, limits]
    return {limit: float(recall[:, 0, 0, place].mean()) for place, limit in enumerate(limits)}


@pytest.mark.parametrize("columns", [COLUMNS, COLUMNS[:-1]], ids=["stored IoU", "computed IoU"])
def test_it_is_that_of_cocoeval(known: Known, columns: list[str]) -> None:
    recall = proposal_recall(opened(known, columns))
    limits = [1, 2, 3, 5, 8, 13, recall.most]
    expected = cocoeval(contents(opened(known)), limits)
    assert recall.instances == sum(len(own) for own in known.instances)
    assert 0 < expected[1] < expected[recall.most] < 0.9
    for limit in limits:
        assert recall.at("predicted_iou", limit) == pytest.approx(expected[limit], abs=1e-12)


def test_it_is_that_of_cocoeval_at_every_threshold() -> None:
    """Shifted rectangles, so that every IoU occurs and several instances want the same proposal."""
    rng = np.random.default_rng(0)

    def rectangle() -> dict[str, Any]:
        mask = np.zeros((40, 40), np.uint8, order="F")
        top, left = rng.integers(0, 9, 2)
        mask[top : top + rng.integers(20, 28), left : left + rng.integers(20, 28)] = 1
        coded = coco_mask.encode(mask)
        return {"size": coded["size"], "counts": coded["counts"].decode()}

    images: list[Image] = []
    for _ in range(30):
        masks = [rectangle() for _ in range(rng.integers(0, 12))]
        scores = (rng.integers(0, 5, len(masks)) / 5).tolist()  # some are equal
        images.append((masks, scores, [rectangle() for _ in range(rng.integers(0, 5))]))
    found = []
    for masks, scores, instances in images:
        best_first = np.argsort(-np.array(scores), kind="stable")
        counts = [[region["counts"] for region in each] for each in (masks, instances)]
        found.append(found_at(against_instances(*counts)[0][best_first]))
    ranks = np.concatenate(found, axis=1)
    expected = cocoeval(images, [1, 2, 4, 11])
    assert 0.05 < expected[1] < 0.3 < expected[11] < 0.8
    for limit, value in expected.items():
        assert (ranks <= limit).mean() == pytest.approx(value, abs=1e-12)


def test_an_instance_is_found_by_one_proposal_and_finds_one() -> None:
    """Two instances that the same proposal meets: COCO counts one."""
    iou = np.array([[0.9, 0.8], [0.6, 0.0]], np.float32)
    found = found_at(iou)
    assert found[0].tolist() == [1, NEVER]  # the second proposal meets the first instance alone, which is taken
    assert found_at(iou[::-1])[0].tolist() == [1, 2]
    assert found[THRESHOLDS.tolist().index(np.float32(0.95))].tolist() == [NEVER, NEVER]


def test_an_iou_that_is_the_threshold_reaches_it() -> None:
    parts = np.array([[10, 11, 12, 13, 14, 15, 16, 17, 18, 19]]) / 20
    found = found_at(parts.T.astype(np.float32)[:, :1])
    for number, row in enumerate(found):
        assert row.tolist() == [number + 1]


def test_images_without_proposals_or_whose_masks_failed_are_missed_and_failed_images_have_none(tmp_path: Path) -> None:
    """Four images with the same instance: found, no proposals, masks failed, image failed."""
    region = rle.encode(np.ones((4, 6), bool))
    one: dict[str, Any] = {"segmentation": [region], "bbox": [[0, 0, 6, 4]], "area": [24]}
    scores = {
        "predicted_iou": [0.5],
        "stability_score": [0.5],
        "point_coords": [[1.0, 1.0]],
        "crop_box": [[0, 0, 6, 4]],
    }

    def rows(fields: dict[str, Any], without: dict[int, str | None]) -> list[list[dict[str, Any]]]:
        found = []
        for image in range(4):
            about = {"image_index": image, "status": "ok", "error": None}
            lists = {name: [] if without.get(image) == "" else value for name, value in fields.items()}
            if without.get(image):
                about, lists = {**about, "status": "failed", "error": without[image]}, dict.fromkeys(fields)
            found.append([{**about, **lists}])
        return found

    above = {"images": write_images(tmp_path, 4, failed={3: "broken"})}
    write_table(
        tmp_path, "d/instances/val", rows({**one, "label": ["target"]}, {3: "broken"}), above, failed={3: "broken"}
    )
    masks = rows({**one, **scores}, {1: "", 2: "not finite", 3: "broken"})
    write_table(tmp_path, "d/masks/sam/val", masks, above, failed={2: "not finite", 3: "broken"})
    recall = proposal_recall(open_split(tmp_path, "d", "val", columns=["images", "instances", "masks"]))
    assert (recall.instances, recall.without, recall.most) == (3, 1, 1)
    assert recall.at("area", 1) == recall.at("predicted_iou", 7) == pytest.approx(1 / 3)


def test_nothing_annotated_is_no_number(known: Known) -> None:
    recall = replace(proposal_recall(opened(known)), instances=0)
    assert np.isnan(recall.at("area", 1))
