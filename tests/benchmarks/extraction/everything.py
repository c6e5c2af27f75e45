"""Everything mode: our generator and the unmodified one on the same weights, in alternation."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import segment_anything.automatic_mask_generator as official
import torch
from segment_anything import SamAutomaticMaskGenerator

from stages.proposers.sam import generator as ours
from stages.proposers.sam import postprocess
from stages.proposers.sam.decoder import Decoded, PointDecoder
from stages.proposers.sam.generator import AutomaticMaskGenerator
from tests.benchmarks.extraction.calibrated import Calibrated, calibrate, new_model, picture
from tests.benchmarks.extraction.stopwatch import Place, stopwatch, wait
from tests.stages.proposers.sam.agreement import agreement

CLEAR = 0.005
STAGES = ("encode", "decode", "post", "NMS", "masks + RLE", "host")


def run(
    model: str,
    side_px: int,
    points_per_side: int,
    device: str,
    dtype: torch.dtype,
    repeats: int,
    autocast: bool = False,
) -> dict[str, Any]:
    """Seconds by stage and in total, for both; how well the records agree; how much work there was.

    Args:
        autocast: whether the reference runs once more under bfloat16 autocast (its masks differ then).
    """
    calibrated = calibrate(new_model(model, side_px, device), picture(side_px, side_px), points_per_side)
    image = picture(side_px, side_px)
    theirs = SamAutomaticMaskGenerator(calibrated.sam, output_mode="coco_rle", **calibrated.options)
    mine = AutomaticMaskGenerator(calibrated.sam, output_mode="coco_rle", dtype=dtype, **calibrated.options)
    records = {"reference": theirs.generate(image), "ours": mine.generate(image)}
    whole: dict[str, list[float]] = {"reference": [], "ours": []}
    parts: dict[str, list[dict[str, float]]] = {"reference": [], "ours": []}
    for _ in range(repeats):
        for name, generate, places in (
            ("reference", theirs.generate, places_of_reference(theirs)),
            ("ours", mine.generate, places_of_ours(mine)),
        ):
            whole[name].append(seconds(lambda call=generate: call(image)))
            with stopwatch(places) as spent:
                generate(image)
            parts[name].append(dict(spent))
    if autocast:
        whole["reference, bf16 autocast"] = in_bfloat16(theirs, image, repeats)
    wanted = not_empty(records["reference"])
    found = agreement(records["ours"], wanted)
    clear = agreement(records["ours"], wanted, keep=[clear_of_thresholds(record, calibrated) for record in wanted])
    return {
        "seconds": {name: statistics.median(values) for name, values in whole.items()},
        "stages": {
            name: {stage: statistics.median(each.get(stage, 0.0) for each in values) for stage in STAGES}
            for name, values in parts.items()
        },
        "agreement": {
            "mean best IoU": found.worst,
            "of masks clear of the thresholds": clear.worst,
            "masks": [found.count_ours, found.count_theirs],
        },
        "work": workload(calibrated, records["reference"], image),
        "points_per_batch": mine.points_per_batch,
        "post": post_on_identical_logits(calibrated, image, repeats),
    }


def in_bfloat16(theirs: SamAutomaticMaskGenerator, image: np.ndarray, repeats: int) -> list[float]:
    """Seconds of the reference under autocast. The output of its networks is converted to float32, as numpy has no bfloat16."""
    predict = theirs.predictor.predict_torch

    def widened(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
        return tuple(found.float() for found in predict(*args, **{**kwargs, "return_logits": True}))

    theirs.predictor.predict_torch = widened
    try:
        with torch.autocast(theirs.predictor.device.type, torch.bfloat16):
            theirs.generate(image)
            return [seconds(lambda: theirs.generate(image)) for _ in range(repeats)]
    finally:
        theirs.predictor.predict_torch = predict


def places_of_reference(generator: SamAutomaticMaskGenerator) -> list[Place]:
    """The official functions by stage."""
    sam = generator.predictor.model
    return [
        (sam.image_encoder, "forward", "encode"),
        (sam.prompt_encoder, "forward", "decode"),
        (sam.prompt_encoder, "get_dense_pe", "decode"),
        (sam.mask_decoder, "forward", "decode"),
        (sam, "postprocess_masks", "post"),
        (official, "calculate_stability_score", "post"),
        (official, "batched_mask_to_box", "post"),
        (official, "is_box_near_crop_edge", "post"),
        (official, "uncrop_masks", "post"),
        (official.MaskData, "filter", "post"),
        (official, "batched_nms", "NMS"),
        (official, "mask_to_rle_pytorch", "masks + RLE"),
        (official, "coco_encode_rle", "masks + RLE"),
        (official, "area_from_rle", "masks + RLE"),
    ]


def places_of_ours(generator: AutomaticMaskGenerator) -> list[Place]:
    """Our functions by stage."""
    return [
        (generator.images, "encode", "encode"),
        (generator.decoder, "image", "decode"),
        (generator.decoder, "decode", "decode"),
        (generator.decoder, "masks", "decode"),
        (postprocess, "measure", "post"),
        (ours, "is_box_near_crop_edge", "post"),
        (ours, "_suppress", "NMS"),
        (postprocess, "runs", "masks + RLE"),
        (ours.rle, "from_runs", "masks + RLE"),
    ]


def workload(calibrated: Calibrated, records: list[dict[str, Any]], image: np.ndarray) -> dict[str, float]:
    """The figures that :data:`calibrated.BANDS` limits."""
    counts: dict[str, int] = {"all": 0, "iou": 0, "stable": 0}
    kept = official.MaskData.filter

    def counting(self: Any, keep: torch.Tensor) -> None:
        if keep.dtype == torch.bool and "rles" not in self._stats:
            name = "iou" if "stability_score" not in self._stats else "stable"
            counts["all"] += len(keep) if name == "iou" else 0
            counts[name] += int(keep.sum()) if len(keep) else 0
        kept(self, keep)

    official.MaskData.filter = counting
    try:
        SamAutomaticMaskGenerator(calibrated.sam, output_mode="uncompressed_rle", **calibrated.options).generate(image)
    finally:
        official.MaskData.filter = kept
    from store import rle

    lengths = [len(rle.to_runs(record["segmentation"]["counts"])) for record in records]
    return {
        "candidates": counts["all"],
        "pass IoU, %": 100 * counts["iou"] / max(1, counts["all"]),
        "of those stable, %": 100 * counts["stable"] / max(1, counts["iou"]),
        "masks": len(records),
        "runs per mask": float(np.mean(lengths)) if lengths else 0.0,
    }


def post_on_identical_logits(calibrated: Calibrated, image: np.ndarray, repeats: int) -> dict[str, Any]:
    """Seconds from low-resolution logits to records; both get the same logits, and no network runs."""
    options = {**calibrated.options, "output_mode": "coco_rle"}
    sam = calibrated.sam
    decoder = PointDecoder(sam)
    mine = AutomaticMaskGenerator(sam, **options)
    theirs = SamAutomaticMaskGenerator(sam, **options)
    points = torch.as_tensor(theirs.point_grids[0] * np.array(image.shape[1::-1])[None])
    scale = mine.side_px / max(image.shape[:2])
    prompts = (points * scale).to(sam.device)
    with torch.inference_mode():
        embedding = mine.encode([mine.prepare(image)])
        shared = decoder.image(embedding[0])
        decoded = [decoder.decode(shared, part) for part in prompts.split(4)]
        logits = torch.cat([decoder.masks(part) for part in decoded])
        iou = torch.cat([part.iou for part in decoded])
        del decoded
    at = {"reference": 0, "ours": 0}

    def reference_decoder(sparse_prompt_embeddings: torch.Tensor, **rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        first = at["reference"]
        at["reference"] += len(sparse_prompt_embeddings)
        return logits[first : at["reference"]], iou[first : at["reference"]]

    def our_decoder(shared: Any, part: torch.Tensor) -> Decoded:
        first = at["ours"]
        at["ours"] += len(part)
        return Decoded(iou[first : at["ours"]], torch.arange(first, at["ours"]), torch.empty(0))

    def our_masks(decoded: Decoded, rows: torch.Tensor | None = None) -> torch.Tensor:
        return logits[decoded.hyper if rows is None else decoded.hyper[rows.cpu()]]

    def again(name: str, call: Callable[[], Any]) -> Any:
        at[name] = 0
        return call()

    mine.decoder.decode, mine.decoder.masks = our_decoder, our_masks  # type: ignore[method-assign]
    whole = sam.mask_decoder.forward
    sam.mask_decoder.forward = reference_decoder
    encode = sam.image_encoder.forward
    sam.image_encoder.forward = lambda pixels: embedding
    try:
        runs = {
            "reference": lambda: again("reference", lambda: theirs.generate(image)),
            "ours": lambda: again("ours", lambda: mine.generate(image, embedding[0])),
        }
        found = {name: work() for name, work in runs.items()}
        found["reference"] = not_empty(found["reference"])
        same = [a["segmentation"] == b["segmentation"] for a, b in zip(found["ours"], found["reference"], strict=False)]
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, work in runs.items():
                times[name].append(seconds(work))
    finally:
        sam.mask_decoder.forward, sam.image_encoder.forward = whole, encode
    return {
        **{name: statistics.median(values) for name, values in times.items()},
        "identical": len(found["ours"]) == len(found["reference"]) and all(same),
    }


def clear_of_thresholds(record: dict[str, Any], calibrated: Calibrated) -> bool:
    """Whether both scores of a record are so far from their thresholds that rounding to 16 bit cannot matter."""
    scores = {"pred_iou_thresh": record["predicted_iou"], "stability_score_thresh": record["stability_score"]}
    return all(abs(score - calibrated.options[name]) > CLEAR for name, score in scores.items())


def not_empty(records: list[Any]) -> list[Any]:
    """The reference's records of masks with a pixel, as the others are not proposals here."""
    return [record for record in records if record["area"]]


def seconds(work: Callable[[], object]) -> float:
    """Seconds that a piece of work takes."""
    wait()
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start
