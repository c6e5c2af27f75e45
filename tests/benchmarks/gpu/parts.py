"""The parts of ``make check-gpu``, most important first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.gpu.part import YES, Goal, Part

_MODULES = "tests.benchmarks.gpu"
REAL_SAM = {"model": "vit_h", "side_px": 1024, "points_per_side": 32}
TINY_SAM = {"model": "small", "side_px": 128, "points_per_side": 4}
L14 = {"input_px": 224, "patch_px": 14, "width": 1024, "layers": 24, "heads": 16}
TINY_CLIP = {"input_px": 32, "patch_px": 16, "width": 64, "layers": 2, "heads": 2}
ENCODERS = (
    "alphaclip_vit_b16", "alphaclip_vit_b16_mask_only", "alphaclip_vit_l14", "dinov2_vitl14", "clip_vit_l14", "clip_vit_l14_336",
)  # fmt: skip
"""Those of params/reasonseg.yaml, and the large AlphaCLIP."""
DEMO_ENCODERS = ("demo_alphaclip", "demo_dinov2", "demo_clip")
SYSTEMS = {"elisa": "ELISA", "llmseg": "LLM-Seg", "lisa": "LISA"}
CARD_GB = 24
"""Memory, 1e9 bytes, that the parts which have to run on an RTX 3090 may take."""
STEPS = {"warm_up": 4, "steps": 8}
TINY_STEPS = {"warm_up": 1, "steps": 1}
BATCH_SIZE = 2
"""The same as in training.real_size, which is not imported here because it imports torch."""
_SAME = Goal(at_least=0.995, everywhere=True)
_NEARLY = Goal(at_least=0.95, everywhere=True)


def parts() -> tuple[Part, ...]:
    """All of them, in their order."""
    return tuple(_parts())


def _parts() -> Iterator[Part]:
    yield Part(
        "kernel", f"{_MODULES}.equivalence:kernel",
        "the Triton kernel for masks compiled, and compared with the CPU",
        {"masks": 192, "low": 256, "image_px": (768, 1024)},
        {"masks": 3, "low": 32, "image_px": (40, 70)},
        {
            "the small input as on the CPU": YES,
            "pixels that differ, of a million": Goal(at_most=5, everywhere=True),
            "largest difference of a box, px": Goal(at_most=1, everywhere=True),
        },
        gpu_gb=1, seconds=10, packages=("triton",),
    )  # fmt: skip
    for precision in ("float32", "float16", "bfloat16"):
        exact = precision == "float32"
        yield Part(
            f"demo, {precision}", f"{_MODULES}.equivalence:demo",
            "masks and vectors of the demo's models next to segment_anything and the CPU in float32",
            {"precision": precision, "images": 8, "points_per_side": 12},
            {"precision": precision, "images": 1, "points_per_side": 4},
            {
                "mean best IoU": _SAME if exact else _NEARLY,
                **{
                    f"least cosine, {name}": Goal(at_least=0.9999 if exact else 0.999, everywhere=True)
                    for name in ("demo_alphaclip", "demo_dinov2", "demo_sam", "demo_clip")
                },
            },
            gpu_gb=1, seconds=12,
        )  # fmt: skip
    yield from (_everything(precision) for precision in ("float16", "bfloat16", "float32"))
    yield Part(
        "out of memory, injected", f"{_MODULES}.room:injected",
        "decoder, encoder and AlphaCLIP find no room for their batches, and go on with smaller ones",
        {**REAL_SAM, "precision": "float16", "most": 24, "alphaclip": L14, "dim": 768},
        {**TINY_SAM, "precision": "float32", "most": 5, "alphaclip": TINY_CLIP, "dim": 16},
        {
            "went on with smaller batches": YES,
            "mean best IoU": _NEARLY,
            "SAM's encoder, largest relative difference": Goal(at_most=0.02, everywhere=True),
            "AlphaCLIP, largest relative difference": Goal(at_most=0.001, everywhere=True),
        },
        gpu_gb=12, seconds=15,
    )  # fmt: skip
    yield Part(
        "out of memory, real", f"{_MODULES}.room:real",
        "the GPU's memory is limited to less than a batch takes",
        {**REAL_SAM, "precision": "float16", "small": 64, "large": 512},
        {**TINY_SAM, "precision": "float32", "small": 4, "large": 16},
        {
            "memory ran out and work went on": YES,
            "mean best IoU": _NEARLY,
            "the same again, with all the memory": _NEARLY,
        },
        gpu_gb=20, seconds=20,
    )  # fmt: skip
    yield Part(
        "whole images, float16", f"{_MODULES}.extraction:whole_images",
        "pixels to stored vectors with SAM ViT-H, AlphaCLIP L/14 and DINOv2 L/14 on a card of 24 GB",
        {"precision": "float16", "images": 64, "reference_images": 4, "points_per_side": 32, "card_gb": CARD_GB},
        {"precision": "float32", "images": 2, "reference_images": 1, "points_per_side": 4, "card_gb": CARD_GB},
        {"images/s": Goal(at_least=8, aim=13), "GPU busy, %": Goal(at_least=85, aim=95)},
        gpu_gb=CARD_GB - 1, seconds=75,
    )  # fmt: skip
    yield from _trainings()
    yield Part(
        "AlphaCLIP L/14 and pooling, float16", f"{_MODULES}.extraction:masks_embedded",
        "75 masks of an image, next to one forward per mask; pooling next to upsampled features",
        {"options": L14, "dim": 768, "masks": 75, "precision": "float16", "repeats": 5, "pooled": (1024, 64)},
        {"options": TINY_CLIP, "dim": 16, "masks": 5, "precision": "float32", "repeats": 1, "pooled": (16, 8)},
        {
            "times one forward per mask": Goal(at_least=8, aim=15),
            "least cosine": Goal(at_least=0.999, everywhere=True),
            "pooling, largest difference": Goal(at_most=1e-3, everywhere=True),
        },
        gpu_gb=4, seconds=10,
    )  # fmt: skip
    for precision in ("float16", "bfloat16"):
        yield Part(
            f"networks, {precision}", f"{_MODULES}.extraction:networks",
            "milliseconds of each network, for `timed` in pipeline/scale/profiles.yaml",
            {**REAL_SAM, "called": "sam_vit_h", "precision": precision, "encoders": ENCODERS, "images": 8, "masks": 64},
            {
                **TINY_SAM, "called": "demo_sam", "precision": precision, "encoders": DEMO_ENCODERS, "images": 1, "masks": 2,
            },
            gpu_gb=10, seconds=25,
        )  # fmt: skip
    yield Part(
        "batches, float16", f"{_MODULES}.extraction:batches", "larger batches than the fixed ones, of points and of images",
        {**REAL_SAM, "precision": "float16", "points": (64, 256, 1024), "images": (1, 4, 8)},
        {**TINY_SAM, "precision": "float32", "points": (4, 16), "images": (1, 2)},
        gpu_gb=20, seconds=15,
    )  # fmt: skip
    yield Part(
        "CUDA graph, float16", f"{_MODULES}.extraction:graphs", "the decoder replayed, next to its kernels launched one by one",
        {**REAL_SAM, "precision": "float16", "points": 64},
        {**TINY_SAM, "precision": "float32", "points": 4},
        {"largest difference of a logit": Goal(at_most=0.05, everywhere=True)},
        gpu_gb=8, seconds=15,
    )  # fmt: skip
    for image_px, most, aim in ((4096, 8, 4), (8192, 24, 12)):
        yield Part(
            f"an image of {image_px} px", f"{_MODULES}.room:large_images",
            "peak memory of everything mode in float16",
            {**REAL_SAM, "precision": "float16", "image_px": image_px},
            {**TINY_SAM, "precision": "float32", "image_px": image_px // 16},
            {"peak, GB": Goal(at_most=most, aim=aim)},
            gpu_gb=most, seconds=25,
        )  # fmt: skip
    yield Part(
        "page-locked batches", f"{_MODULES}.equivalence:page_locked",
        "the tests that need a CUDA device",
        tiny=None, goals={"passed": YES}, gpu_gb=1, seconds=15,
    )  # fmt: skip
    yield from _larger_llava()


def _everything(precision: str) -> Part:
    """SAM ViT-H next to the unmodified generator."""
    sixteen = precision != "float32"
    speed = {
        "times stock": Goal(at_least=10, aim=20) if sixteen else Goal(at_least=3.5, aim=5),
        "from identical logits to records, times stock": Goal(at_least=20, aim=60),
    }
    if sixteen:
        speed |= {"encoder, times stock": Goal(at_least=6, aim=9), "decoder, times stock": Goal(at_least=6, aim=12)}
    if precision == "float16":
        speed["times stock in bfloat16 autocast"] = Goal(at_least=6, aim=12)
    equal = {
        "records of identical logits are identical": YES,
        "mean best IoU": Goal(at_least=0.95) if sixteen else _SAME,  # a rehearsal has few masks
        "mean best IoU of masks clear of the thresholds": Goal(at_least=0.98) if sixteen else _SAME,
        "works as hard as trained weights": Goal(at_least=True),
    }
    return Part(
        f"ViT-H, {precision}", f"{_MODULES}.extraction:everything_mode",
        "everything mode of calibrated random ViT-H, 1024 points, next to the unmodified SamAutomaticMaskGenerator",
        {**REAL_SAM, "precision": precision, "repeats": 3, "autocast": precision == "float16"},
        {**TINY_SAM, "precision": precision, "repeats": 1, "autocast": precision == "float16"},
        {**speed, **equal},
        gpu_gb=14, seconds=35,
    )  # fmt: skip


def _trainings() -> Iterator[Part]:
    """The three systems at real size; what others do in each step next to it; 8 and 4 bit."""
    module, images = f"{_MODULES}.training", BATCH_SIZE * (STEPS["warm_up"] + STEPS["steps"])
    yield Part(
        "training: weights", f"{module}:weights",
        "LLaVA-Gemma 2B, CLIP L/14-336, DINOv2 L/14, AlphaCLIP B/16 and SAM ViT-H with random weights, bfloat16",
        {"tiny": False}, {"tiny": True}, gpu_gb=12, seconds=40,
    )  # fmt: skip
    yield Part(
        "training: store", f"{module}:store", "demo scenes through the pipeline with them",
        {"tiny": False, "images": images}, {"tiny": True, "images": BATCH_SIZE * sum(TINY_STEPS.values())},
        gpu_gb=16, seconds=50, after=("training: weights",),
    )  # fmt: skip
    for system in SYSTEMS:
        yield _steps(system, "a", "from the store", {})
    for how, override in (
        ("4 bit", "train.base=4bit"),
        ("8 bit", "train.base=8bit"),
        ("int8 features", "train.dense=int8"),
    ):
        yield _steps("lisa", "a", f"{how}, from the store", {"overrides": (override,)})
    for system in SYSTEMS:
        yield _steps(system, "c1", "with the original's encoders in each step", {})
    yield _steps("lisa", "c2", "with everything in each step", {})


def _steps(
    system: str,
    side: str,
    how: str,
    more: Mapping[str, Any],
    after: tuple[str, ...] = (),
) -> Part:
    stored = side == "a"
    goals: dict[str, Goal] = {"difference of the first loss from the store's, %": Goal(at_most=1, everywhere=True)}
    if stored:
        goals = {
            "waiting for data, % of a step": Goal(at_most=2),
            "measured, part of what is planned for these tokens": Goal(at_most=1),
        }
    if side == "c2":
        goals["from the store, times as fast"] = Goal(at_least=10)
    name = SYSTEMS[system]
    packages = ("bitsandbytes",) if any("bit" in each for each in more.get("overrides", ())) else ()
    own = {"system": system, "side": side, "card_gb": CARD_GB, **more}
    return Part(
        f"{name}, {how}", f"{_MODULES}.training:steps",
        "training steps of two samples on a card of 24 GB" + (", and memory next to the plan" if stored else ""),
        {**own, **STEPS, "tiny": False}, {**own, **TINY_STEPS, "tiny": True}, goals,
        gpu_gb=16, seconds=20 if stored else 25 if side == "c1" else 30, packages=packages,
        after=("training: store", *after, *(() if stored else (f"{name}, from the store",))),
    )  # fmt: skip


def _larger_llava() -> Iterator[Part]:
    yield Part(
        "LLaVA 7B: weights", f"{_MODULES}.training:larger_llava", "random weights of LLaVA 7B, bfloat16",
        {"text": "LLaVA 7B", "tiny": False}, {"text": "", "tiny": True}, gpu_gb=15, seconds=45,
    )  # fmt: skip
    more = {"overrides": ("train.base=4bit",), "larger": True}
    yield _steps("lisa", "a", "LLaVA 7B in 4 bit", more, ("LLaVA 7B: weights",))
