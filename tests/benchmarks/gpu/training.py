"""Parts that train the three systems at real size with random weights: time waiting for data, and memory compared with its plan."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.gpu.part import Found
from tests.benchmarks.gpu.room import GIGABYTE, room_of
from tests.benchmarks.training import real_size
from tests.benchmarks.training.real_size import REAL, Sizes
from tests.benchmarks.training.samples import write_samples
from tests.benchmarks.training.setting import Setting
from tests.benchmarks.training.sources import SAMPLES
from tests.benchmarks.training.step import timed
from tests.benchmarks.training.tables import seconds

TINY = Sizes("demo_sam", "demo_alphaclip", "demo_dinov2", "demo_clip", 64, 4, "float32")
_WEIGHTS = "weights.json"
_BOTH_FORMS = ("embed.dense=[float16, int8]",)


def weights(device: str, folder: str, tiny: bool) -> Found:
    """Random weights of the real shapes, made on the device: vision models and a LLaVA."""
    where = Path(folder) / "training"
    where.mkdir(parents=True, exist_ok=True)
    made = real_size.make_weights(TINY if tiny else REAL, str(where), device)
    (where / _WEIGHTS).write_text(json.dumps(made))
    return {"weights, GB": size_of(where), "made": str(where / _WEIGHTS)}


def larger_llava(device: str, folder: str, text: str, tiny: bool) -> Found:
    """Random weights of a larger LLaVA."""
    where = Path(folder) / "larger_llava"
    real_size.make_llava(replace(TINY if tiny else REAL, text=96 if tiny else text), where, device)
    return {"weights, GB": size_of(where), "made": str(where)}


def store(device: str, folder: str, images: int, tiny: bool) -> Found:
    """A store of demo scenes, made with these weights by the project's pipeline."""
    setting = setting_of(device, folder, tiny)
    real_size.make_store(setting.settings, setting.paths or {}, images)
    return {
        "images": images,
        "store, MB": 1e3 * size_of(setting.settings.store_path),
        "made": str(setting.settings.store_path),
    }


def size_of(folder: Path) -> float:
    """Size of a folder's files in 1e9 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / GIGABYTE


def setting_of(device: str, folder: str, tiny: bool, overrides: Sequence[str] = ()) -> Setting:
    """What :func:`weights` and :func:`store` made; the store holds dense features in both forms."""
    where = Path(folder) / "training"
    made = json.loads((where / _WEIGHTS).read_text())
    settings = real_size.settings_of(TINY if tiny else REAL, where, device, made["options"], [*_BOTH_FORMS, *overrides])
    return Setting(settings, {name: Path(path) for name, path in made["paths"].items()})


def steps(
    device: str, folder: str, system: str, side: str, warm_up: int, steps: int, card_gb: float, tiny: bool,
    earlier: Mapping[str, Found], overrides: Sequence[str] = (), larger: bool = False,
) -> Found:  # fmt: skip
    """Some training steps of a system, with no more memory than a card of ``card_gb``.

    Args:
        side: where vectors come from, of :data:`tests.benchmarks.training.setting.SIDES`.
        overrides: of the params.
        larger: with the language model of :func:`larger_llava`.
        earlier: for a side other than (a): the figures of (a), to compare with.
    """
    llava = [f"train.llava={Path(folder) / 'larger_llava'}"] if larger else []
    setting = setting_of(device, folder, tiny, [*overrides, *llava])
    own = Path(folder) / f"samples-{system}"
    if side != "a":
        own.mkdir(exist_ok=True)
        write_samples(setting, system, warm_up + steps, str(own / SAMPLES))
    threads = len(os.sched_getaffinity(0))
    with room_of(card_gb, device):
        found = timed(setting, system, side, str(own), warm_up, steps, threads)
        taken = peak_with_context() if device == "cuda" else None
    whole, waiting = seconds([found], "whole"), seconds([found], "waiting")
    made: Found = {"steps/s": 1 / whole, "loss of the first step": found["loss"][0]}
    if side == "a":
        made["waiting for data, % of a step"] = 100 * waiting / whole
        made["waiting for data, ms"] = 1e3 * waiting
        made |= memory(found, taken)
    else:
        first = next(figures for figures in earlier.values() if "steps/s" in figures)
        made["from the store, times as fast"] = first["steps/s"] * whole
        made["encoders, ms"] = 1e3 * seconds([found], "encoding")
        made["difference of the first loss from the store's, %"] = 100 * abs(
            found["loss"][0] / first["loss of the first step"] - 1
        )
    return made


def peak_with_context() -> int:
    """Bytes of the GPU's memory that this process had at most: torch's, and what CUDA takes if no other process uses the card."""
    free, total = torch.cuda.mem_get_info()
    context = max(0, total - free - torch.cuda.memory_reserved())
    return torch.cuda.max_memory_reserved() + context


def memory(found: Mapping[str, Any], taken: int | None) -> Found:
    """What the memory plan says, next to what was taken (not in a rehearsal)."""
    plans = found["planned_bytes"]
    made: Found = {
        "memory planned for the longest question, GB": plans["printed"] / GIGABYTE,
        f"planned for the {found['longest']} tokens there are, GB": plans["for these lengths"] / GIGABYTE,
    }
    if taken is not None:
        made["memory measured, GB"] = taken / GIGABYTE
        made["measured, part of what is planned for these tokens"] = taken / plans["for these lengths"]
    return made
