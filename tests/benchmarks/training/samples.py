"""The batches that every side gets, without their vectors: the same samples in the same order, in memory before the clock starts.

The originals hold questions, polygons and proposals in memory as well. So only the store is charged for reading them, which
puts it at a disadvantage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.train.run import batches, system_class
from store import Split
from tests.benchmarks.training.setting import Setting

Light = dict[str, Any]
"""A batch without ``features``, ``sam`` and images' own pixels, with ``about``: for each sample, the inputs of a re-run."""


def write_samples(setting: Setting, system: str, count: int, path: str) -> dict[str, Any]:
    """Write the first ``count`` batches of an epoch; returns how many an epoch has.

    Raises:
        ValueError: an epoch has fewer.
    """
    split = setting.open()
    loader = batches(setting.settings.train, system_class(system), {str(setting.split): split})  # type: ignore[arg-type]
    if len(loader) < count:
        raise ValueError(f"{len(loader)} batches an epoch, expected {count} (--warm-up and --steps): take fewer steps")
    found = []
    for _, batch in zip(range(count), loader, strict=False):
        light = {key: portable(value) for key, value in batch.items() if key not in ("features", "sam")}
        pairs = zip(batch["image_index"].tolist(), batch["target"].tolist(), strict=True)
        light["about"] = [about(split, image, target) for image, target in pairs]
        found.append(light)
    torch.save(found, Path(path))
    return {"batches": len(loader)}


def read_samples(path: Path) -> list[Light]:
    """What :func:`write_samples` wrote."""
    found: list[Light] = torch.load(path, weights_only=True)
    return found


def about(split: Split, image: int, target: int) -> dict[str, Any]:
    """File, proposals, instances and the target of a sample; masks as COCO RLE counts."""
    record = split[image]
    asked = record.targets[target]
    return {
        "path": record.path,
        "masks": [mask.segmentation for mask in record.masks],
        "instances": [instance.segmentation for instance in record.instances],
        "target": {name: asked[name] for name in ("target_id", "segmentation", "ignore")},
    }


def portable(value: Any) -> Any:
    """Arrays as tensors, so that a file of plain tensors holds them."""
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, np.generic):
        return value.item()
    return [portable(item) for item in value] if isinstance(value, list) else value
