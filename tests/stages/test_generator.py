"""Everything mode: the records are SamAutomaticMaskGenerator's own, in the frame of the image, largest first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from stages.params import MasksParams
from stages.proposers.sam.model import build_sam, new_sam
from stages.proposers.sam.proposals import MaskGenerator
from store import rle

DEFAULTS: dict[str, Any] = {
    "model": "demo_sam",
    "max_side_px": 0,
    "save_features": False,
    "precision": "float32",
    "points_per_side": 4,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 1.0,
    "box_nms_thresh": 1.0,
    "crop_n_layers": 0,
    "crop_nms_thresh": 0.7,
    "crop_overlap_ratio": 512 / 1500,
    "crop_n_points_downscale_factor": 1,
    "min_mask_region_area": 0,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, with the IoU head shifted so that predictions pass a threshold of 0."""
    torch.manual_seed(0)
    sam = new_sam("demo_sam")
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
        for layer in sam.mask_decoder.output_hypernetworks_mlps:
            layer.layers[-1].weight *= 30
    path = tmp_path_factory.mktemp("weights") / "sam.pth"
    torch.save(sam.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(1)
    return cv2.resize(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8), (130, 90), interpolation=cv2.INTER_CUBIC)


def reference(checkpoint: Path, image: np.ndarray, **changes: Any) -> list[dict[str, Any]]:
    """The unmodified generator's records, binary masks, without those that have no pixel."""
    ours = {"model", "max_side_px", "save_features", "precision"}
    options = {key: value for key, value in {**DEFAULTS, **changes}.items() if key not in ours}
    sam = build_sam("demo_sam", checkpoint, "cpu")
    records = SamAutomaticMaskGenerator(sam, points_per_batch=16, **options).generate(image)
    return sorted((record for record in records if record["area"] > 0), key=lambda record: -record["area"])


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"points_per_side": 7},
        {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.2, "stability_score_offset": 0.5},
        {"box_nms_thresh": 0.95},
        {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.2, "crop_nms_thresh": 1.0},
        {"min_mask_region_area": 60},
    ],
    ids=lambda changes: ",".join(changes) or "defaults",
)
def test_records_are_the_official_ones(checkpoint: Path, image: np.ndarray, changes: dict[str, Any]) -> None:
    want = reference(checkpoint, image, **changes)
    got = segment(checkpoint, image, **changes)
    assert want, "the test needs masks"
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_array_equal(rle.decode(ours["segmentation"], *image.shape[:2]), theirs["segmentation"])
        for name in ("area", "bbox", "predicted_iou", "stability_score", "point_coords", "crop_box"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, err_msg=name)
    areas = [record["area"] for record in got]
    assert areas == sorted(areas, reverse=True)


def segment(checkpoint: Path, image: np.ndarray, **changes: Any) -> list[dict[str, Any]]:
    generator = MaskGenerator(MasksParams(**{**DEFAULTS, **changes}), checkpoint, "cpu", 16)
    (found,) = generator([generator.prepare(image)])
    return found.records()


def test_the_embedding_is_sams_with_and_without_records(checkpoint: Path, image: np.ndarray) -> None:
    generator = MaskGenerator(MasksParams(**DEFAULTS), checkpoint, "cpu", 16)
    predictor = SamPredictor(build_sam("demo_sam", checkpoint, "cpu"))
    predictor.set_image(image)
    want = predictor.get_image_embedding()[0].numpy()
    for want_records in (True, False):
        (found,) = generator([generator.prepare(image)], want_records)
        np.testing.assert_allclose(found.embedding, want, atol=1e-5)
        assert bool(found.records()) == want_records


def test_images_that_go_together_give_what_each_gives_alone(checkpoint: Path, image: np.ndarray) -> None:
    generator = MaskGenerator(MasksParams(**DEFAULTS), checkpoint, "cpu", 16)
    generator.generator.images_per_batch = 2
    images = [image, image[::-1].copy(), image[:40]]
    for found, alone in zip(generator([generator.prepare(each) for each in images]), images, strict=True):
        want = segment(checkpoint, alone)
        records = found.records()
        assert [record["segmentation"] for record in records] == [record["segmentation"] for record in want]


def test_a_limited_side_gives_masks_in_the_frame_of_the_image(checkpoint: Path, image: np.ndarray) -> None:
    height, width = image.shape[:2]
    small = cv2.resize(image, (64, int(height * 64 / width)), interpolation=cv2.INTER_AREA)
    want = reference(checkpoint, small)
    got = segment(checkpoint, image, max_side_px=64)
    assert len(got) == len(want) > 1
    enlarged = {
        cv2.resize(record["segmentation"].astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST).tobytes()
        for record in want
    }
    for record in got:
        mask = rle.decode(record["segmentation"], height, width)
        assert np.ascontiguousarray(mask, np.uint8).tobytes() in enlarged
        rows, columns = np.nonzero(mask)
        assert record["area"] == len(rows)
        if len(rows):
            box = [columns.min(), rows.min(), np.ptp(columns), np.ptp(rows)]  # as SAM's own records have it
            assert record["bbox"] == box
        assert record["crop_box"] == [0, 0, width, height]
        x, y = record["point_coords"][0]
        assert 0 <= x < width
        assert 0 <= y < height


def test_counts_are_what_pycocotools_reads(checkpoint: Path, image: np.ndarray) -> None:
    records = segment(checkpoint, image)
    size = list(image.shape[:2])
    for record in records:
        assert coco.area({"size": size, "counts": record["segmentation"]}) == record["area"]
