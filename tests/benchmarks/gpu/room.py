"""Parts about memory: it runs out, injected and for real; large images; and a small card made of a larger one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from stages import batch_size
from stages.encoders.clip_vit import AlphaVisionTransformer, make_alphaclip
from stages.proposers.sam.generator import AutomaticMaskGenerator
from tests.benchmarks.extraction import memory
from tests.benchmarks.extraction.calibrated import generator_of
from tests.benchmarks.gpu.part import Found
from tests.stages.proposers.sam.agreement import agreement

GIGABYTE = 10**9


@contextmanager
def room_of(card_gb: float, device: str) -> Iterator[None]:
    """Limit the GPU's memory to that of a card of ``card_gb``; no limit on a CPU."""
    if device == "cpu":
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.cuda.set_per_process_memory_fraction(min(1.0, card_gb * GIGABYTE / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def peak_bytes(device: str) -> int:
    """Peak of the GPU memory that torch reserved; 0 on a CPU."""
    return torch.cuda.max_memory_reserved() if device == "cuda" else 0


@contextmanager
def said() -> Iterator[list[str]]:
    """What :mod:`stages.batch_size` says of memory that ran out."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    batch_size._say_halved.cache_clear()
    log = logging.getLogger(batch_size.__name__)
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)


@contextmanager
def without_room(owner: Any, name: str, size: Callable[..., int], most: int) -> Iterator[None]:
    """A function runs out of memory where its arguments are of more than ``most`` items."""
    function = getattr(owner, name)

    def scarce(*args: Any, **kwargs: Any) -> Any:
        if size(*args) > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory, injected: {size(*args)} at once, room for {most}")
        return function(*args, **kwargs)

    setattr(owner, name, scarce)
    try:
        yield
    finally:
        setattr(owner, name, function)


def injected(
    device: str, model: str, side_px: int, points_per_side: int, precision: str, most: int, alphaclip: dict[str, Any], dim: int,
) -> Found:  # fmt: skip
    """Decoder, SAM's encoder and AlphaCLIP run out of memory above some size: nothing is lost, and the results are the same."""
    image, generator = generator_of(device, model, side_px, points_per_side, precision)
    ready = [generator.prepare(image), generator.prepare(image[::-1].copy()), generator.prepare(image[:, ::-1].copy())]
    generator.images.images_per_batch = len(ready)
    encoded, right = generator.encode(ready), generator.generate(image)
    with said() as lines:
        with without_room(generator.decoder, "decode", lambda shared, prompts: len(prompts), most):
            found = generator.generate(image)
        with without_room(generator.images, "encoder", len, 1):
            again = generator.encode(ready)
    return {
        "went on with smaller batches": len(lines) > 1,
        "mean best IoU": agreement(found, right).worst,
        "masks": len(found),
        "SAM's encoder, largest relative difference": relative(again, encoded),
        "AlphaCLIP, largest relative difference": alphaclip_without_room(device, alphaclip, dim, most),
    }


def alphaclip_without_room(device: str, options: dict[str, Any], dim: int, most: int) -> float:
    """Largest relative difference of the vectors when AlphaCLIP's batches have to be smaller."""
    torch.manual_seed(0)
    tower = make_alphaclip(options, dim).eval().to(device)
    side, count = options["input_px"], 2 * most + 1
    pixels = torch.randn(1, 3, side, side, device=device)
    alphas = torch.randn(count, 1, side, side, device=device)

    @torch.inference_mode()
    def embed() -> torch.Tensor:
        parts = batch_size.over(count, count, lambda part: tower(pixels, alphas[part], [0] * len(alphas[part])))
        return torch.cat(parts)

    right = embed()
    with without_room(AlphaVisionTransformer, "forward", lambda self, image, alpha, of: len(alpha), most):
        return relative(embed(), right)


def relative(found: torch.Tensor, right: torch.Tensor) -> float:
    """Largest difference, next to the largest number."""
    return float((found - right).abs().max() / right.abs().max())


def real(
    device: str,
    model: str,
    side_px: int,
    points_per_side: int,
    precision: str,
    small: int,
    large: int,
) -> Found:
    """Limit the GPU's memory to between what batches of ``small`` and ``large`` points take; a rehearsal injects the error."""
    image, generator = generator_of(device, model, side_px, points_per_side, precision)
    peaks = {size: peak_of(generator, image, size, device) for size in (small, large)}
    generator.points_per_batch = small
    right = generator.generate(image)
    generator.points_per_batch = large
    between = (peaks[small] + peaks[large]) / 2 / GIGABYTE
    limit: Any = (
        room_of(between, device)
        if device == "cuda"
        else without_room(generator.decoder, "decode", lambda shared, prompts: len(prompts), small)
    )
    with said() as lines, limit:
        found = generator.generate(image)
    after = generator.generate(image)
    return {
        "memory ran out and work went on": bool(lines),
        "mean best IoU": agreement(found, right).worst,
        "the same again, with all the memory": agreement(after, right).worst,
        f"peak with {small} points at once, GB": peaks[small] / GIGABYTE,
        f"peak with {large}, GB": peaks[large] / GIGABYTE,
        "the limit, GB": between if device == "cuda" else "injected",
    }


def peak_of(generator: AutomaticMaskGenerator, image: np.ndarray, points: int, device: str) -> int:
    """Peak of the GPU's memory, weights included, while an image is computed with this many points at once."""
    generator.points_per_batch = points
    with room_of(float("inf"), device):
        generator.generate(image)
        return peak_bytes(device)


def large_images(
    device: str,
    model: str,
    side_px: int,
    points_per_side: int,
    precision: str,
    image_px: int,
) -> Found:
    """Peak memory of an image of many pixels."""
    above = memory.measure("ours", model, side_px, points_per_side, device, precision, image_px)
    whole = torch.cuda.max_memory_allocated() if device == "cuda" else above
    return {"peak, GB": whole / GIGABYTE, "of it above the model, GB": above / GIGABYTE}
