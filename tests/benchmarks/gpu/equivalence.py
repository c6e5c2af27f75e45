"""Parts that compare: the kernel with the CPU, everything mode and the encoders on the demo with segment_anything and the CPU."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import torch

from pipeline.config import ROOT
from tests.benchmarks.gpu.part import Found

THRESHOLDS = (-1.0, 0.0, 1.0)


def kernel(device: str, masks: int, low: int, image_px: tuple[int, int]) -> Found:
    """The kernel for masks: compiled, compared with the CPU on its small input and at real size, timed.

    In a rehearsal Triton's interpreter runs it (``TRITON_INTERPRET=1``).
    """
    from stages.proposers.sam import cells, first_use, kernels
    from stages.proposers.sam.postprocess import Frame
    from stages.transforms import longest_side

    start = time.perf_counter()
    trouble = first_use.fault(torch.device(device))
    first_s = time.perf_counter() - start
    height, width = image_px
    frame = Frame(low, 4 * low, longest_side((height, width), 4 * low), (0, 0, width, height), (height, width))
    noise = torch.randn(masks, 1, low // 8, low // 8, generator=torch.Generator().manual_seed(0))
    logits = 5 * torch.nn.functional.interpolate(noise, (low, low), mode="bicubic")[:, 0].contiguous()
    there = logits.to(device)
    counts, boxes = kernels.measure(there, frame.rows, frame.columns, THRESHOLDS)
    right_counts, right_boxes = map(
        torch.from_numpy, cells.measure(logits.numpy(), frame.rows, frame.columns, THRESHOLDS)
    )
    times: dict[str, list[float]] = {"kernel": [], "CPU": []}
    for _ in range(3):
        start = time.perf_counter()  # what the kernel found comes to the CPU, so nothing is left to wait for
        kernels.measure(there, frame.rows, frame.columns, THRESHOLDS)
        middle = time.perf_counter()
        cells.measure(logits.numpy(), frame.rows, frame.columns, THRESHOLDS)
        times["kernel"].append(middle - start)
        times["CPU"].append(time.perf_counter() - middle)
    return {
        "the small input as on the CPU": trouble is None,
        **({"trouble": trouble} if trouble else {}),
        "pixels that differ, of a million": 1e6
        * float((counts - right_counts).abs().sum())
        / (2 * masks * height * width),
        "largest difference of a box, px": int((boxes - right_boxes).abs().max()),
        "first use, s": first_s,
        f"{masks} masks by the kernel, ms": 1e3 * statistics.median(times["kernel"]),
        "by the CPU, ms": 1e3 * statistics.median(times["CPU"]),
    }


def demo(device: str, precision: str, images: int, points_per_side: int) -> Found:
    """Everything mode of the demo's SAM next to segment_anything's own on the CPU in float32, and vectors next to the CPU's."""
    from segment_anything import SamAutomaticMaskGenerator

    from demo.data.scenes import scene
    from pipeline.params_file import load_settings
    from stages.encoders import ENCODERS, EncoderInput, build
    from stages.proposers.sam.generator import AutomaticMaskGenerator
    from stages.proposers.sam.model import build_sam
    from stages.weights import locate
    from tests.benchmarks.extraction.everything import not_empty
    from tests.stages.proposers.sam.agreement import agreement

    settings = load_settings(ROOT / "params.yaml")
    proposer: Any = settings.proposers["demo_sam"]
    names = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
    options = {name: getattr(proposer, name) for name in names}
    options |= {"points_per_side": points_per_side, "output_mode": "coco_rle"}
    pictures = [scene(seed).image for seed in range(images)]

    def weights(name: str) -> Any:
        return locate(name, ROOT / "data/weights", ROOT / "weights.lock")

    ours = AutomaticMaskGenerator(
        build_sam("demo_sam", weights("demo_sam"), device), dtype=getattr(torch, precision), **options
    )
    stock = SamAutomaticMaskGenerator(build_sam("demo_sam", weights("demo_sam"), "cpu"), **options)
    right = [not_empty(stock.generate(picture)) for picture in pictures]
    found = [agreement(ours.generate(picture), each) for picture, each in zip(pictures, right, strict=True)]
    least = {}
    for name in ("demo_alphaclip", "demo_dinov2", "demo_sam", "demo_clip"):
        line = ENCODERS[name]
        paths = {each: weights(each) for each in line.weights}
        made = []
        for where, how in ((device, precision), ("cpu", "float32")):
            model = build(name, paths, where, 64, how)  # type: ignore[arg-type]
            items = [
                EncoderInput(picture.copy(), masks_of(each) if line.kind == "mask" else ())
                for picture, each in zip(pictures, right, strict=True)
            ]
            made.append(np.concatenate(model(items)))
        least[f"least cosine, {name}"] = least_cosine(*made)
    return {
        "mean best IoU": statistics.mean(each.worst for each in found),
        "masks, ours": sum(each.count_ours for each in found),
        "masks, segment_anything": sum(each.count_theirs for each in found),
        **least,
    }


def masks_of(records: list[dict[str, Any]]) -> list[np.ndarray]:
    """The masks of records with RLE, bool [H, W]."""
    from store import rle

    return [rle.decode(each["segmentation"]["counts"], *each["segmentation"]["size"]) for each in records]


def least_cosine(ours: np.ndarray, right: np.ndarray) -> float:
    """Smallest cosine between corresponding rows of two arrays [n, D]."""
    ours, right = ours.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(right, axis=1)
    return float(((ours * right).sum(axis=1) / lengths).min())


def page_locked() -> Found:
    """The tests that need a CUDA device: a batch is on the device what it was in the store, however late it is copied."""
    tests = "tests/store/test_page_locked.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", tests],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]])[-1]
    return {"passed": done.returncode == 0 and "passed" in last and "skipped" not in last, "pytest says": last}
