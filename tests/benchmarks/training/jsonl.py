"""Features as decimal numbers in JSON, a line per image, as ELISA's preprocessing writes them (DavidC001/ELISA, ``preprocess.py``).

A line has ELISA's ``img``, ``gt_embs``, ``sam_embs``, ``gt_shapes`` and ``sam_shapes``. LLM-Seg and LISA have no such file; for
them it has ``image_features`` and ``sam_features`` in the same form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from pipeline.graph import all_specs, is_reduced
from store import Record
from store.read.column import open_column
from store.stream.request import companion
from tests.benchmarks.training.setting import Setting, as_embedded, vector_columns


def write_jsonl(setting: Setting, system: str, path: str) -> dict[str, Any]:
    """Write the whole split, vectors as the encoder made them (not centred); returns its bytes."""
    columns = vector_columns(setting, system)
    with Path(path).open("w") as file:
        for record in setting.open():
            file.write(json.dumps(_line(record, columns, system)) + "\n")
    return {"bytes": Path(path).stat().st_size}


def _line(record: Record, columns: dict[str, str], system: str) -> dict[str, Any]:
    line: dict[str, Any] = {"img": record.path}
    if "masks" in columns:
        name = as_embedded(columns["masks"])
        line |= {"sam_embs": record[name].tolist(), "gt_embs": record[companion(name)].tolist()}
        line |= {"sam_shapes": [shapes(mask.decode()) for mask in record.masks[: len(line["sam_embs"])]]}
        line |= {"gt_shapes": [shapes(instance.decode()) for instance in record.instances]}
    if system != "elisa":
        line["image_features"] = record[columns["features"]].tolist()
    if "sam" in columns:
        line["sam_features"] = record[columns["sam"]].tolist()
    return line


def shapes(mask: np.ndarray) -> list[list[list[int]]]:
    """Polygons of a mask bool [H, W]: outlines and holes alike, as released."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    return [contour[:, 0].tolist() for contour in contours]


class Lines:
    """A file of :func:`write_jsonl`, whole in memory as the original holds it; tensors are made at each use."""

    def __init__(self, setting: Setting, system: str, path: Path) -> None:
        with path.open() as file:
            self.lines = {line["img"]: line for line in map(json.loads, file)}
        self.mean = _mean(setting, vector_columns(setting, system).get("masks", ""))

    def masks(self, image: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors float32 [K, D] of proposals and [G, D] of instances, minus the train mean where the system wants that."""
        found = [torch.tensor(self.lines[image][name]) for name in ("sam_embs", "gt_embs")]
        proposals, instances = (part - self.mean if len(part) else part for part in found)
        return proposals, instances

    def image(self, image: str, name: str) -> torch.Tensor:
        """Float32, ``image_features`` [P, C] or ``sam_features`` [C, h, w]."""
        return torch.tensor(self.lines[image][name])


def _mean(setting: Setting, column: str) -> torch.Tensor:
    """The train mean float32 [D] of a centred column, as ELISA's model subtracts it; 0 for any other."""
    read = all_specs(setting.settings)[column].reads if column else ()
    means = [name for name in read if is_reduced(setting.settings, name)]
    if not means:
        return torch.zeros(1)
    (place,) = means
    return torch.from_numpy(np.asarray(open_column(setting.settings.store_path, place).array(0), np.float32))
