"""A mask without a pixel is no proposal, stored scores are numbers, and a zero vector has no vote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from pipeline.config import ROOT
from pipeline.params_file import load_settings
from stages import masks
from stages.base import ShardInput
from stages.center import center
from stages.means import part, whole
from stages.proposers.sam.decoder import Decoded, PointDecoder
from stages.proposers.sam.encoder import FastEncoder
from stages.proposers.sam.generator import AutomaticMaskGenerator
from stages.proposers.sam.model import build_sam, new_sam
from store import rle
from store.write.writer import ShardData

THRESHOLD_0: dict[str, Any] = {
    "points_per_side": 4,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
}


@pytest.fixture(scope="module")
def sparse_sam() -> Sam:
    """Random weights: of their masks some are empty, and some only at the threshold of the mask itself."""
    torch.manual_seed(0)
    sam = new_sam("demo_sam")
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
        for number, layer in enumerate(sam.mask_decoder.output_hypernetworks_mlps):
            layer.layers[-1].weight *= 30 if number == 3 else 1
    return sam


@pytest.fixture(scope="module")
def weights(sparse_sam: Sam, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("weights") / "sam.pth"
    torch.save(sparse_sam.state_dict(), path)
    return {"demo_sam": path}


def one_colour(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), (90, 140, 30), np.uint8)


def negative(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Let the first ``share`` of a batch's masks have no pixel; every second of these has none at the lower threshold, either."""
    whole = PointDecoder.masks

    def call(self: PointDecoder, decoded: Decoded, rows: torch.Tensor | None = None) -> torch.Tensor:
        logits = whole(self, decoded, rows).clone()
        flat = logits.flatten(0, 1)
        count = int(share * len(flat))
        flat[:count:2], flat[1:count:2] = -9.0, -0.5
        return logits

    monkeypatch.setattr(PointDecoder, "masks", call)


def assert_whole(records: list[dict[str, Any]], height: int, width: int) -> None:
    for record in records:
        mask = record["segmentation"]
        counts = mask["counts"] if isinstance(mask, dict) else mask
        assert rle.decode(counts, height, width).any()
        assert record["area"] == rle.area(counts) > 0
        assert np.isfinite([record["predicted_iou"], record["stability_score"], *record["bbox"]]).all()
        assert 0 <= record["stability_score"] <= 1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"crop_n_layers": 1},
        {"min_mask_region_area": 30},
        {"min_mask_region_area": 30, "crop_n_layers": 1, "crop_nms_thresh": 1.0},
        {"box_nms_thresh": 0.0},
        {"stability_score_offset": 0.0},
        {"stability_score_thresh": 1e-9},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
@pytest.mark.parametrize("size", [(60, 80), (1, 1), (1, 7), (3, 2)])
def test_an_image_of_one_colour(
    sparse_sam: Sam, options: dict[str, Any], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    negative(monkeypatch, 0.5)
    asked = {**THRESHOLD_0, **options, "output_mode": "coco_rle"}
    records = AutomaticMaskGenerator(sparse_sam, **asked).generate(one_colour(*size))
    assert_whole(records, *size)


@pytest.mark.parametrize("offset", [1.0, 0.0])
def test_what_is_left_is_the_reference_s_without_its_empty_masks(offset: float) -> None:
    """The one difference at threshold 0: the reference keeps masks without a pixel, with a stability score of NaN."""
    sam = build_sam("demo_sam", ROOT / "demo/models/demo_sam.safetensors", "cpu")
    image = np.full((96, 128, 3), 128, np.uint8)
    image[20:60, 30:90] = 200, 30, 30
    options = {**THRESHOLD_0, "stability_score_offset": offset, "output_mode": "coco_rle"}
    theirs = SamAutomaticMaskGenerator(sam, points_per_batch=16, **options).generate(image)
    left = [record for record in theirs if record["area"] > 0]
    assert 0 < len(left) < len(theirs), "the test needs empty masks, and others"
    assert any(np.isnan(record["stability_score"]) for record in theirs)
    ours = AutomaticMaskGenerator(sam, **options).generate(image)
    assert_whole(ours, 96, 128)
    assert len(ours) == len(left)
    for mine, official in zip(ours, left, strict=True):
        assert mine["point_coords"] == official["point_coords"]
        masks_of_both = [rle.decode(each["segmentation"]["counts"], 96, 128) for each in (mine, official)]
        assert (masks_of_both[0] ^ masks_of_both[1]).sum() <= 2


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5)])
@pytest.mark.parametrize("layers", [1, 2])
def test_crops_of_images_that_have_few_pixels(sparse_sam: Sam, size: tuple[int, int], layers: int) -> None:
    """Some of these crops have no pixel; the reference fails on them."""
    options = {**THRESHOLD_0, "crop_n_layers": layers, "points_per_side": 2, "crop_nms_thresh": 1.0}
    assert_whole(
        AutomaticMaskGenerator(sparse_sam, output_mode="coco_rle", **options).generate(one_colour(*size)), *size
    )


def segment(weights: dict[str, Path], images: list[np.ndarray], *changes: str) -> dict[str, ShardData]:
    """The stage on these images."""
    params = load_settings(
        ROOT / "params.yaml",
        [
            "run.device=cpu",
            "train.proposer=sam",
            "proposers={sam: {model: demo_sam, points_per_side: 4, pred_iou_thresh: 0, stability_score_thresh: 0}}",
            "proposers.sam.box_nms_thresh=1",
            *changes,
        ],
    ).of("demo")
    shard = ShardInput(
        range(len(images)),
        lambda table: [{"status": "ok", "error": None} for _ in images],
        lambda column, place: np.empty(0),
        lambda column, place: None,
        lambda: iter(images),
        lambda done: None,
    )
    names = [spec.name for spec in masks.columns(params)]
    return masks.start(params, names, weights, ROOT)(shard)


@pytest.mark.parametrize(
    "changes", [(), ("proposers.sam.max_side_px=16", "embed.sam_features=[]")], ids=["", "reduced"]
)
def test_stored_proposals_have_pixels_and_scores(
    weights: dict[str, Path], changes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    negative(monkeypatch, 0.7)
    images = [one_colour(60, 80), one_colour(1, 1), one_colour(40, 1), one_colour(33, 90)]
    found = segment(weights, images, *changes)["masks/sam"]
    assert found.status == ["ok"] * 4
    assert sum(found.counts) > 0
    for row, image in zip(found.rows, images, strict=True):
        assert min(row["area"], default=1) > 0
        assert [rle.area(each) for each in row["segmentation"]] == row["area"]
        assert all(rle.decode(each, *image.shape[:2]).any() for each in row["segmentation"])
        assert np.isfinite(row["stability_score"]).all()
        assert np.isfinite(row["predicted_iou"]).all()


def test_an_image_of_which_every_mask_is_empty_has_no_proposal(
    weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    negative(monkeypatch, 1.0)
    found = segment(weights, [one_colour(30, 40)])["masks/sam"]
    assert (found.status, found.counts) == (["ok"], [0])


def spoil_embedding(value: float) -> tuple[type, str, Callable[..., Any]]:
    whole = FastEncoder.__call__

    def call(self: FastEncoder, pixels: torch.Tensor) -> torch.Tensor:
        found = whole(self, pixels)
        return torch.where((pixels.amax() < 2) & torch.ones_like(found).bool(), value, found)

    return FastEncoder, "__call__", call


def spoil_iou(value: float) -> tuple[type, str, Callable[..., Any]]:
    whole = PointDecoder.decode

    def call(self: PointDecoder, image: Any, points: torch.Tensor) -> Decoded:
        found = whole(self, image, points)
        found.iou[-1, 2] = value
        return found

    return PointDecoder, "decode", call


def spoil_logits(value: float) -> tuple[type, str, Callable[..., Any]]:
    whole = PointDecoder.masks

    def call(self: PointDecoder, decoded: Decoded, rows: torch.Tensor | None = None) -> torch.Tensor:
        found = whole(self, decoded, rows).clone()
        found[0, 0, 3, 3] = value
        return found

    return PointDecoder, "masks", call


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spoil", [spoil_iou, spoil_logits])
@pytest.mark.parametrize("thresholds", ["0.0", "0.4"])
def test_predictions_that_are_no_numbers_fail_the_image_with_the_reason(
    weights: dict[str, Path], value: float, spoil: Any, thresholds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*spoil(value))
    found = segment(weights, [one_colour(30, 40), one_colour(40, 30)], f"proposers.sam.pred_iou_thresh={thresholds}")
    assert found["masks/sam"].status == ["failed", "failed"]
    assert "NaN or infinite" in found["masks/sam"].errors[0]
    assert found["sam_features/demo_sam"].status == ["ok", "ok"]


def test_one_image_that_fails_leaves_the_others(weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*spoil_embedding(np.nan))  # of dark images
    monkeypatch.setattr("stages.proposers.sam.generator.IMAGES_PER_BATCH", {"cpu": 1})
    bright, dark = np.full((30, 40, 3), 255, np.uint8), one_colour(30, 40)
    bright[5:9, 5:9] = 0
    found = segment(weights, [bright, dark, bright])
    assert found["masks/sam"].status == ["ok", "failed", "ok"]
    assert found["sam_features/demo_sam"].status == ["ok", "failed", "ok"]
    assert "predicted_iou" in found["masks/sam"].errors[1]


def test_a_zero_vector_has_no_vote_and_stays_zero() -> None:
    rng = np.random.default_rng(0)
    proposals, instances = (rng.standard_normal((count, 6)).astype(np.float16) for count in (5, 3))
    with_zeros = [
        np.insert(proposals, [0, 3, 5], 0, axis=0),
        np.zeros((2, 6), np.float16),
        np.empty((0, 6), np.float16),
    ]
    found = whole([part(with_zeros), part([np.insert(instances, 1, 0, axis=0)])])
    assert found.extra["count"] == 8
    (mean,), (plain,) = found.rows, whole([part([proposals]), part([instances])]).rows
    assert mean.tobytes() == plain.tobytes()
    moved = center(with_zeros[0], mean)
    assert moved.any(axis=1).tolist() == with_zeros[0].any(axis=1).tolist()
    np.testing.assert_array_equal(moved[moved.any(axis=1)], proposals.astype(np.float64) - mean)
    assert center(np.empty((0, 6), np.float16), mean).shape == (0, 6)


def test_a_mean_of_zero_vectors_alone_is_an_error() -> None:
    with pytest.raises(ValueError, match="other than zero"):
        whole([part([np.zeros((4, 3), np.float16)])])


def test_an_image_of_one_colour_as_it_was_found() -> None:
    """The demo's own model finds nothing but empty masks there: the reference keeps 48, each with a score of NaN."""
    sam = build_sam("demo_sam", ROOT / "demo/models/demo_sam.safetensors", "cpu")
    assert AutomaticMaskGenerator(sam, **THRESHOLD_0).generate(np.full((96, 128, 3), 128, np.uint8)) == []
