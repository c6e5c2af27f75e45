"""Parts that time extraction against the code it replaces, and each network for ``extract --plan``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.encoders import ENCODERS, EncoderInput, build
from tests.benchmarks.extract import flag
from tests.benchmarks.extraction import embedding, everything, pipeline
from tests.benchmarks.extraction.calibrated import generator_of, picture
from tests.benchmarks.extraction.everything import seconds
from tests.benchmarks.gpu.part import Found
from tests.benchmarks.gpu.room import peak_bytes, room_of


def everything_mode(
    device: str,
    model: str,
    side_px: int,
    points_per_side: int,
    precision: str,
    repeats: int,
    autocast: bool,
) -> Found:
    """Calibrated random weights: ours next to the unmodified generator, taking turns."""
    found = everything.run(
        model, side_px, points_per_side, device, getattr(torch, precision), repeats, autocast=autocast
    )
    spent, stages, post = found["seconds"], found["stages"], found["post"]
    times = {stage: stages["reference"][stage] / stages["ours"][stage] for stage in ("encode", "decode")}
    agreement = found["agreement"]
    outside = [name for name, value in found["work"].items() if flag(name, value)]
    made: Found = {
        "stock, ms per image": 1e3 * spent["reference"],
        "ours, ms per image": 1e3 * spent["ours"],
        "times stock": spent["reference"] / spent["ours"],
        "encoder, times stock": times["encode"],
        "decoder, times stock": times["decode"],
        "from identical logits to records, times stock": post["reference"] / post["ours"],
        "records of identical logits are identical": post["identical"],
        "mean best IoU": agreement["mean best IoU"],
        "mean best IoU of masks clear of the thresholds": agreement["of masks clear of the thresholds"],
        "masks, ours": agreement["masks"][0],
        "masks, stock": agreement["masks"][1],
        "works as hard as trained weights": not outside,
        **{f"{stage}, ms": 1e3 * alone for stage, alone in stages["ours"].items()},
    }
    if outside:
        made["not within the bands"] = ", ".join(f"{name} {found['work'][name]:.0f}" for name in outside)
    if autocast:
        made["times stock in bfloat16 autocast"] = spent["reference, bf16 autocast"] / spent["ours"]
    return made


def whole_images(
    device: str,
    precision: str,
    images: int,
    reference_images: int,
    points_per_side: int,
    card_gb: float,
) -> Found:
    """The stages masks and embed next to a script of the official code, with no more memory than a card of ``card_gb``."""
    with room_of(card_gb, device):
        found = pipeline.run(device, precision, images, reference_images, points_per_side)
        peak = peak_bytes(device)
    speed = found["images per second"]
    made = {
        "images/s": speed["ours"],
        "images/s, script of the official code": speed["reference"],
        "times the script": speed["ours"] / speed["reference"],
        "masks per image": found["masks per image"],
        f"peak with at most {card_gb:g} GB, GB": peak / 1e9,
    }
    if found["GPU busy, %"] is not None:
        made["GPU busy, %"] = found["GPU busy, %"]
    return made


def masks_embedded(
    device: str, options: dict[str, Any], dim: int, masks: int, precision: str, repeats: int, pooled: tuple[int, int],
) -> Found:  # fmt: skip
    """AlphaCLIP next to one forward per mask, and masked pooling next to upsampled features. ``pooled``: channels, grid."""
    alpha = embedding.alphaclip(options, dim, masks, device, repeats, getattr(torch, precision))
    channels, grid = pooled
    pool = embedding.pooling(50, channels, grid, (480, 640), device, repeats)
    return {
        f"{masks} masks, ms": 1e3 * alpha["ours"],
        "one forward per mask, ms": 1e3 * alpha["reference"],
        "times one forward per mask": alpha["reference"] / alpha["ours"],
        "least cosine": alpha["least cosine"],
        "pooling 50 masks, ms": 1e3 * pool["ours"],
        "pooling, times upsampled features": pool["reference"] / pool["ours"],
        "pooling, largest difference": pool["largest difference"],
    }


def networks(
    device: str, model: str, called: str, side_px: int, points_per_side: int, precision: str, encoders: Sequence[str],
    images: int, masks: int,
) -> Found:  # fmt: skip
    """Milliseconds of every network, as ``timed`` in pipeline/scale/profiles.yaml has them.

    A point is decoded, and its masks are measured and suppressed. ``called``: SAM's name in the params.
    """
    image, generator = generator_of(device, model, side_px, points_per_side, precision)
    ready = [generator.prepare(image)] * images
    generator.encode(ready)
    embedded = generator.encode(ready[:1])[0]
    generator.propose(image, embedded)
    lines = [
        (called, "image", seconds(lambda: generator.encode(ready)) / images),
        (called, "point", seconds(lambda: generator.propose(image, embedded)) / points_per_side**2),
    ]
    for name in encoders:
        per, spent = encoder_seconds(device, name, precision, images, masks)
        lines.append((name, per, spent))
    timed = [
        {"network": network, "precision": precision, "per": per, "ms": float(f"{1e3 * spent:.4g}")}
        for network, per, spent in lines
    ]
    return {**{f"{each['network']}, ms per {each['per']}": each["ms"] for each in timed}, "timed": timed}


def encoder_seconds(device: str, name: str, precision: str, images: int, masks: int) -> tuple[str, float]:
    """What an encoder takes, with its transforms: for a mask where each has a forward of its own, else for an image."""
    line = ENCODERS[name]
    with tempfile.TemporaryDirectory() as folder:
        paths = pipeline.save_states(pipeline.random_encoder(name, device), Path(folder))
        model = build(name, paths, device, 64, precision)  # type: ignore[arg-type]
    per = "mask" if line.module == "alphaclip" else "image"
    regions = embedding.masks_of(masks if per == "mask" else 1, 480, 640) if line.kind == "mask" else ()

    def items() -> list[EncoderInput]:  # an encoder keeps what its network made of an array
        return [EncoderInput(picture(480, 640, seed), regions) for seed in range(images)]

    model(items())
    fresh = items()
    return per, seconds(lambda: model(fresh)) / (images * (masks if per == "mask" else 1))


def batches(
    device: str, model: str, side_px: int, points_per_side: int, precision: str, points: Sequence[int], images: Sequence[int],
) -> Found:  # fmt: skip
    """Whether batches larger than the fixed ones would be faster."""
    image, generator = generator_of(device, model, side_px, points_per_side, precision)
    ready = generator.prepare(image)
    embedded = generator.encode([ready])[0]
    made: Found = {}
    for size in points:
        generator.points_per_batch = size
        generator.propose(image, embedded)
        made[f"{size} points at once, ms per image"] = 1e3 * seconds(lambda: generator.propose(image, embedded))
    for size in images:
        generator.images.images_per_batch = size
        generator.encode([ready] * size)
        spent = seconds(lambda count=size: generator.encode([ready] * count))
        made[f"{size} images at once in the encoder, ms per image"] = 1e3 * spent / size
    return made


def graphs(
    device: str,
    model: str,
    side_px: int,
    points_per_side: int,
    precision: str,
    points: int,
) -> Found:
    """Whether a CUDA graph of the decoder would be faster than the launches of its kernels one by one."""
    image, generator = generator_of(device, model, side_px, points_per_side, precision)
    with torch.inference_mode():
        shared = generator.decoder.image(generator.encode([generator.prepare(image)])[0])
        prompts = torch.rand(points, 2, dtype=torch.float64, device=device) * side_px

        def work() -> Tensor:
            return generator.decoder.masks(generator.decoder.decode(shared, prompts))

        right = work().clone()
        replay, made = captured(work, device)
        replay()
        same = float((made - right).abs().max())
        eager, replayed = (min(seconds(each) for _ in range(5)) for each in (work, replay))
    return {
        f"decoding {points} points, ms": 1e3 * eager,
        "as a CUDA graph, ms": 1e3 * replayed,
        "times without a graph": eager / replayed,
        "largest difference of a logit": same,
    }


def captured(work: Callable[[], Tensor], device: str) -> tuple[Callable[[], object], Tensor]:
    """What replays ``work``, and the tensor that it fills; on a processor, which has no graphs, the work itself."""
    if device == "cpu":
        return work, work()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = work()
    return graph.replay, made
