"""Everything mode end to end: the records of the unmodified ``SamAutomaticMaskGenerator``."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam
from segment_anything.utils.amg import rle_to_mask

from demo.data.scenes import scene
from demo.measure.quality import MODEL
from stages.proposers.sam.decoder import PointDecoder
from stages.proposers.sam.generator import AutomaticMaskGenerator
from stages.proposers.sam.model import build_sam, new_sam
from store import rle
from tests.stages.proposers.sam.agreement import agreement

LOOSE: dict[str, Any] = {
    "points_per_side": 5,
    "pred_iou_thresh": 0.3,
    "stability_score_thresh": 0.3,
    "box_nms_thresh": 1.0,
}


@pytest.fixture(scope="module")
def random_sam() -> Sam:
    """Random weights whose IoU predictions pass a threshold and whose masks have borders."""
    torch.manual_seed(0)
    sam = new_sam("demo_sam")
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias += 0.5
        for layer in sam.mask_decoder.output_hypernetworks_mlps:
            layer.layers[-1].weight *= 30
    return sam


@pytest.fixture(scope="module")
def demo_sam() -> Sam:
    return build_sam("demo_sam", MODEL, "cpu")


def picture(height: int, width: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (9, 13, 3), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def both(
    sam: Sam, image: np.ndarray, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[list[Any], list[Any]]:
    """Our records and the reference's, without those of its masks that have no pixel: these are no proposals here."""
    ours = AutomaticMaskGenerator(sam, dtype=dtype, **options).generate(image)
    theirs = SamAutomaticMaskGenerator(sam, points_per_batch=16, **options).generate(image)
    return ours, [record for record in theirs if record["area"] > 0]


def assert_same(ours: list[Any], theirs: list[Any]) -> None:
    """Count and order, and every value but for rounding in the networks: it may tip a pixel that lies on the border."""
    assert len(ours) == len(theirs)
    for mine, official in zip(ours, theirs, strict=True):
        assert mine.keys() == official.keys()
        assert all(type(mine[name]) is type(value) for name, value in official.items())
        for name in ("predicted_iou", "point_coords", "crop_box"):
            np.testing.assert_allclose(mine[name], official[name], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(mine["stability_score"], official["stability_score"], atol=1e-3)
        differ = pixels(mine["segmentation"]) ^ pixels(official["segmentation"])
        assert differ.sum() <= max(2, 1e-4 * differ.size)
        assert abs(mine["area"] - official["area"]) <= differ.sum()
        assert mine["area"] == pixels(mine["segmentation"]).sum()
        assert np.abs(np.subtract(mine["bbox"], official["bbox"])).max() <= (1 if differ.any() else 0)


def pixels(segmentation: Any) -> np.ndarray:
    """Any of the output modes as bool [H, W]."""
    if isinstance(segmentation, np.ndarray):
        return segmentation
    if isinstance(segmentation["counts"], str):
        return rle.decode(segmentation["counts"], *segmentation["size"])
    return rle_to_mask(segmentation)


PARAMETERS = [
    {},
    {"points_per_side": 8},
    {"points_per_side": None, "point_grids": [np.array([[0.2, 0.3], [0.9, 0.99], [0.0, 0.0]])]},
    {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0},
    {"pred_iou_thresh": 1.0},
    {"stability_score_thresh": 1.0},
    {"stability_score_offset": 0.25, "stability_score_thresh": 0.6},
    {"stability_score_offset": 0.0},
    {"box_nms_thresh": 0.95},
    {"box_nms_thresh": 0.0},
    {"crop_n_layers": 1, "crop_n_points_downscale_factor": 2},
    {"crop_n_layers": 2, "crop_overlap_ratio": 0.1, "crop_nms_thresh": 0.9, "points_per_side": 3},
    {"min_mask_region_area": 60},
    {"min_mask_region_area": 100_000},
    {"min_mask_region_area": 20, "crop_n_layers": 1},
]


def named(options: dict[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in options.items())[:60] or "defaults"


@pytest.mark.parametrize("options", PARAMETERS, ids=named)
def test_every_parameter(random_sam: Sam, options: dict[str, Any]) -> None:
    assert_same(*both(random_sam, picture(90, 130), output_mode="binary_mask", **{**LOOSE, **options}))


@pytest.mark.parametrize("mode", ["coco_rle", "uncompressed_rle"])
def test_every_form_of_masks(random_sam: Sam, mode: str) -> None:
    for options in PARAMETERS[0], PARAMETERS[-1]:
        assert_same(*both(random_sam, picture(90, 130), output_mode=mode, **{**LOOSE, **options}))


@pytest.mark.slow
@pytest.mark.parametrize("options", PARAMETERS, ids=named)
@pytest.mark.parametrize("mode", ["coco_rle", "uncompressed_rle"])
def test_every_parameter_in_every_form(random_sam: Sam, options: dict[str, Any], mode: str) -> None:
    assert_same(*both(random_sam, picture(90, 130), output_mode=mode, **{**LOOSE, **options}))


def test_the_parameters_above_leave_masks(random_sam: Sam) -> None:
    assert len(AutomaticMaskGenerator(random_sam, **LOOSE).generate(picture(90, 130))) > 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (2, 3), (300, 200)])
def test_sizes(random_sam: Sam, height: int, width: int) -> None:
    assert_same(*both(random_sam, picture(height, width), output_mode="coco_rle", **LOOSE))


def test_a_line_that_the_reference_cannot_take(random_sam: Sam) -> None:
    """It would resize this to a height of 0 px."""
    with pytest.raises(ValueError, match="0"):
        SamAutomaticMaskGenerator(random_sam, **LOOSE).generate(picture(1, 1000))
    for record in AutomaticMaskGenerator(random_sam, **LOOSE).generate(picture(1, 1000)):
        assert record["segmentation"].shape == (1, 1000)


@pytest.mark.slow
def test_a_large_image(random_sam: Sam) -> None:
    """Of 15 million pixels a few lie on the border within rounding of the network: nearly the same masks."""
    ours, theirs = both(random_sam, picture(3000, 5000), output_mode="coco_rle", **{**LOOSE, "points_per_side": 2})
    assert len(ours) == len(theirs) > 0
    assert agreement(ours, theirs).worst > 0.9999
    for mine, official in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine["stability_score"], official["stability_score"], rtol=1e-4)
        assert np.abs(np.subtract(mine["bbox"], official["bbox"])).max() <= 1


@pytest.mark.parametrize(
    "options",
    [{"box_nms_thresh": 0.5}, {"crop_n_layers": 1, "crop_nms_thresh": 0.5}, {"min_mask_region_area": 50}, {}],
    ids=lambda options: next(iter(options), "defaults"),
)
def test_trained_weights(demo_sam: Sam, options: dict[str, Any]) -> None:
    image = scene(910_000_000).image
    loose = {"points_per_side": 8, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.5}
    ours, theirs = both(demo_sam, image, output_mode="coco_rle", **{**loose, **options})
    assert len(ours) == len(theirs) > 5
    assert agreement(ours, theirs).worst > 0.999


def test_a_black_image(random_sam: Sam, demo_sam: Sam) -> None:
    black = np.zeros((64, 80, 3), np.uint8)
    assert_same(*both(random_sam, black, **LOOSE))
    assert_same(*both(demo_sam, black, points_per_side=4))


@pytest.mark.parametrize("points_per_batch", [1, 3, 64])
def test_the_batch_changes_nothing_but_rounding(random_sam: Sam, points_per_batch: int) -> None:
    image = picture(90, 130)
    ours = AutomaticMaskGenerator(random_sam, points_per_batch=points_per_batch, **LOOSE).generate(image)
    assert_same(ours, SamAutomaticMaskGenerator(random_sam, points_per_batch=16, **LOOSE).generate(image))


def test_a_stored_embedding_takes_the_encoders_place(random_sam: Sam) -> None:
    image = picture(90, 130)
    generator = AutomaticMaskGenerator(random_sam, crop_n_layers=1, **LOOSE)
    want = generator.generate(image)
    embedding = generator.encode([generator.prepare(image)])[0]
    calls = []
    encode = generator.encode
    generator.encode = lambda images: (calls.append(len(images)), encode(images))[1]  # type: ignore[method-assign]
    assert_same(generator.generate(image, embedding), want)
    assert calls == [4]  # the crops alone, in one go


@pytest.mark.slow
def test_many_scenes_agree(demo_sam: Sam) -> None:
    """The bar of strict float32: no image left out, masks without a partner count 0."""
    same_count, scores = 0, []
    for seed in range(20):
        image = scene(900_000_000 + seed).image
        options = {"points_per_side": 10, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.6, "box_nms_thresh": 0.8}
        found = agreement(*both(demo_sam, image, output_mode="coco_rle", **options))
        same_count += found.count_ours == found.count_theirs
        scores.append(found)
    assert sum(found.count_theirs for found in scores) > 100
    assert same_count >= 0.98 * len(scores)
    assert np.mean([found.ours for found in scores]) >= 0.995
    assert np.mean([found.theirs for found in scores]) >= 0.995


def under_autocast(sam: Sam, image: np.ndarray, dtype: torch.dtype, **options: Any) -> list[Any]:
    """The reference's records with the processor's own products in 16 bit."""
    generator = SamAutomaticMaskGenerator(sam, points_per_batch=16, **options)
    predict = generator.predictor.predict_torch

    def as_floats(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(value.float() for value in predict(*args, **kwargs))

    generator.predictor.predict_torch = as_floats
    with torch.autocast("cpu", dtype):
        return [record for record in generator.generate(image) if record["area"] > 0]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_on_scenes(demo_sam: Sam, dtype: torch.dtype) -> None:
    """Near to float32; where the processor's 16 bit allows less, as near as the reference itself is under autocast."""
    options = {"points_per_side": 8, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.6, "box_nms_thresh": 0.8}
    every, sure, found = [], [], []
    for seed in range(6):
        image = scene(900_000_000 + seed).image
        ours, theirs = both(demo_sam, image, dtype, output_mode="coco_rle", **options)
        keep = [record["predicted_iou"] > 0.405 and record["stability_score"] > 0.605 for record in theirs]
        every.append(agreement(ours, theirs).worst)
        sure.append(agreement(ours, theirs, keep).worst)
        found.append((image, theirs, keep))
    assert np.mean(every) >= 0.95
    if np.mean(sure) < 0.98:
        official = [(under_autocast(demo_sam, image, dtype, output_mode="coco_rle", **options), *rest)
            for image, *rest in found]  # fmt: skip
        assert np.mean(sure) >= np.mean([agreement(*records).worst for records in official])


def test_no_image_is_lost_when_memory_runs_out(random_sam: Sam, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(90, 130)
    want = AutomaticMaskGenerator(random_sam, **LOOSE).generate(image)
    decode, tried = PointDecoder.decode, []

    def crowded(self: PointDecoder, shared: Any, points: torch.Tensor) -> Any:
        tried.append(len(points))
        if len(points) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, shared, points)

    monkeypatch.setattr(PointDecoder, "decode", crowded)
    generator = AutomaticMaskGenerator(random_sam, points_per_batch=16, **LOOSE)
    assert_same(generator.generate(image), want)
    assert tried[:4] == [16, 8, 4, 2]
    first = tried.copy()
    tried.clear()
    assert_same(generator.generate(image), want)
    assert tried == first, "what ran out of memory before decides nothing"


def test_wrong_arguments(random_sam: Sam) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        AutomaticMaskGenerator(random_sam, points_per_side=None)
    with pytest.raises(ValueError, match="exactly one"):
        AutomaticMaskGenerator(random_sam, points_per_side=4, point_grids=[np.zeros((1, 2))])
    with pytest.raises(ValueError, match="binary_mask, uncompressed_rle, coco_rle"):
        AutomaticMaskGenerator(random_sam, output_mode="png")
