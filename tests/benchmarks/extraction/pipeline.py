"""Whole images: the unchanged stages masks and embed, compared with a script that calls the official code image by image."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from segment_anything import SamAutomaticMaskGenerator
from torch.nn import functional as F

from demo.data.scenes import scene
from pipeline.config import ROOT
from pipeline.params_file import load_settings
from stages import embed, masks
from stages.base import ShardInput
from stages.encoders import ENCODERS, alphaclip, clip, dinov2
from stages.encoders.alpha_transforms import alpha_map, image_pixels
from stages.encoders.clip_vit import to_alphaclip, to_openai
from stages.encoders.dinov2_vit import to_official
from stages.params import Sections
from stages.proposers.sam import SAM_MODELS
from stages.proposers.sam.model import build_sam, new_sam
from stages.transforms import IMAGENET_STATS, padded_input
from stages.weights import locate
from store import rle
from store.write.writer import ShardData
from tests.benchmarks.extraction.calibrated import calibrate, picture
from tests.benchmarks.extraction.everything import seconds
from tests.benchmarks.extraction.plain import plain_alphaclip, upsampled_pooling

MODELS = {
    "cpu": ("demo_sam", "demo_alphaclip", "demo_dinov2"),
    "cuda": ("sam_vit_h", "alphaclip_vit_l14", "dinov2_vitl14"),
}

BUSY_IMAGES = 32
"""Number of profiled images; a profile has thousands of kernels per image, so more would make it large."""


def run(device: str, precision: str, images: int, reference_images: int, points_per_side: int) -> dict[str, Any]:
    """Images per second of both, masks per image, and on a GPU the share of time that it was busy.

    The two alternate, so that a temporarily busy machine affects both.

    Args:
        images: for ours, in as many shards as there are turns.
        reference_images: the number of turns; the reference, which is slower, computes the first image of each shard.
    """
    sam, alpha, dino = MODELS[device]
    with tempfile.TemporaryDirectory() as folder:
        if device == "cpu":  # the demo's models are trained, on scenes like these
            names = (sam, alpha, dino)
            weights = {name: locate(name, ROOT / "data/weights", ROOT / "weights.lock") for name in names}
            options: dict[str, Any] = {"points_per_side": points_per_side}
            pictures = [scene(seed).image for seed in range(images)]
        else:
            side = SAM_MODELS[sam].image_size
            weights, options = random_weights(Path(folder), (sam, alpha, dino), device, points_per_side)
            pictures = [picture(side, side, seed) for seed in range(images)]
        demo = load_settings(ROOT / "params.yaml").proposers["demo_sam"].model_dump()
        proposer = {**demo, "model": sam, "precision": precision, **options}
        settings = load_settings(ROOT / "params.yaml", [
            "train.proposer=null", f"proposers={{sam: {json.dumps(proposer)}}}", "embed.sam_features=[]",
            f"embed.mask_encoders=[{alpha}, {dino}]", "embed.image_encoders=[]", f"embed.precision={precision}",
            f"run.device={device}",
        ]).of("demo")  # fmt: skip
        stages = ours(settings, weights)
        script = reference(settings, weights, device)
        stages(pictures[:2])  # loads, compiles
        script(pictures[0])
        spent: dict[str, list[float]] = {"ours": [], "reference": []}
        counts: list[int] = []
        for places in np.array_split(np.arange(images), reference_images):
            part = [pictures[place] for place in places]
            began = time.perf_counter()
            counts += stages(part)["masks/sam"].counts
            spent["ours"].append(time.perf_counter() - began)
            spent["reference"].append(seconds(lambda image=part[0]: script(image)))
        busy = gpu_busy(lambda: stages(pictures[:BUSY_IMAGES])) if device == "cuda" else None
    sides = sorted(side for image in pictures for side in image.shape[:2])
    return {
        "setting": ", ".join(
            [
                *MODELS[device],
                f"{sides[0]} to {sides[-1]} px",
                f"{points_per_side**2} points",
                precision,
                f"{images} images",
            ]
        ),
        "images per second": {
            "ours": images / sum(spent["ours"]),
            "reference": reference_images / sum(spent["reference"]),
        },
        "masks per image": statistics.mean(counts),
        "GPU busy, %": busy,
    }


def random_weights(
    folder: Path, names: Sequence[str], device: str, points_per_side: int
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Checkpoints with the publishers' keys, by name, and the generator's options that suit SAM's random weights."""
    torch.manual_seed(0)
    sam, alpha, dino = names
    with torch.device(device):
        made = new_sam(sam).eval()
    calibrated = calibrate(made, picture(*2 * (SAM_MODELS[sam].image_size,)), points_per_side)
    paths = save_states({SAM_MODELS[sam].weights: calibrated.sam.state_dict()}, folder)
    for name in (alpha, dino):
        paths |= save_states(random_encoder(name, device), folder)
    return paths, calibrated.options


def random_encoder(name: str, device: str) -> dict[str, dict[str, torch.Tensor]]:
    """Name of a checkpoint -> its tensors with the publisher's keys, for the encoders of AlphaCLIP, CLIP and DINOv2."""
    line = ENCODERS[name]
    make, to_published = {
        "alphaclip": (alphaclip.make_model, to_alphaclip),
        "clip": (clip.make_model, to_openai),
        "dinov2": (dinov2.make_model, to_official),
    }[line.module]
    with torch.device(device):
        tower = make(line).state_dict()
    states = {line.weights[-1]: to_published(tower)}
    if len(line.weights) > 1:  # the official AlphaCLIP files need OpenAI's
        plain = {key: value for key, value in tower.items() if key != "conv1_alpha.weight"}
        states[line.weights[0]] = to_openai(plain)
    return states


def save_states(states: Mapping[str, Mapping[str, torch.Tensor]], folder: Path) -> dict[str, Path]:
    """Write each checkpoint; returns name -> file."""
    paths = {name: folder / f"{name}.safetensors" for name in states}
    for name, state in states.items():
        save_file({key: value.cpu().contiguous() for key, value in state.items()}, paths[name])
    return paths


def ours(settings: Sections, weights: dict[str, Path]) -> Callable[[Sequence[np.ndarray]], dict[str, ShardData]]:
    """The stages masks and embed over one shard of images in memory."""
    runners = [
        (stage, [spec.name for spec in stage.columns(settings) if "instances" not in spec.reads])
        for stage in (masks, embed)
    ]
    started = [stage.start(settings, wanted, weights, ROOT) for stage, wanted in runners]

    def run_all(images: Sequence[np.ndarray]) -> dict[str, ShardData]:
        done = {"images": ShardData([{"status": "ok", "error": None}] * len(images), [1] * len(images), [])}
        shard = ShardInput(
            indices=range(len(images)),
            rows=lambda name: list(done[name].rows),
            array=lambda name, position: done[name].rows[position],
            trouble=lambda name, position: None,
            pixels=lambda: iter(images),
            tick=lambda count: None,
        )
        for stage in started:
            done |= stage(shard)
        return done

    return run_all


def reference(settings: Sections, weights: dict[str, Path], device: str) -> Callable[[np.ndarray], list[Any]]:
    """As the published scripts do it: the unmodified generator, one AlphaCLIP forward per mask, pooling of upsampled features."""
    proposer: Any = settings.proposers["sam"]
    sam, (alpha, dino) = proposer.model, settings.embed.mask_encoders
    names = ("points_per_side", "pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
    generator = SamAutomaticMaskGenerator(
        build_sam(sam, weights[SAM_MODELS[sam].weights], device),
        output_mode="coco_rle",
        **{name: getattr(proposer, name) for name in names},
    )
    towers = [make.make_model(ENCODERS[name]).eval().to(device) for make, name in ((alphaclip, alpha), (dinov2, dino))]
    sides = [ENCODERS[name].options["input_px"] for name in (alpha, dino)]

    @torch.inference_mode()
    def script(image: np.ndarray) -> list[Any]:
        found = [rle.decode(each["segmentation"]["counts"], *image.shape[:2]) for each in generator.generate(image)]
        pixels = image_pixels(image, sides[0], False, device)
        vectors = [
            F.normalize(plain_alphaclip(towers[0], pixels, alpha_map(mask, sides[0], device)[None]), dim=-1).cpu()
            for mask in found
        ]
        features = towers[1](padded_input(image, sides[1], sides[1], IMAGENET_STATS, device))[0]
        return [vectors, upsampled_pooling(features, found, image.shape[:2]) if found else None]

    return script


def gpu_busy(work: Callable[[], object]) -> float:
    """Share of the time, in percent, in which at least one kernel or copy was at work on the GPU."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        spent = seconds(work)
    spans = (
        (event.time_range.start, event.time_range.end)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return 100 * covered(spans) / (1e6 * spent)


def covered(spans: Iterator[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, reach = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reach))
        reach = max(reach, end)
    return total
