"""Stages that compute no model: a mask, a vector and a match for each image go through the real pipeline into the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.graph import STAGES
from stages.base import Collector, Runner, ShardInput
from store import rle
from store.write.writer import ShardData

SIDE_PX = 20
"""Side of the pictures."""
MASK = np.zeros((SIDE_PX, SIDE_PX), bool)
MASK[5:15, 5:15] = True
MATCHED = {"iou": [0.5], "iop": [0.5], "iou_valid": [0.5], "iop_valid": [0.5]}
FOUND = {
    "segmentation": [rle.encode(MASK)],
    "bbox": [[5, 5, 10, 10]],
    "area": [100],
    "crop_box": [[0, 0, 20, 20]],
    "predicted_iou": [0.9],
    "stability_score": [0.9],
    "point_coords": [[10.0, 10.0]],
}


@contextmanager
def installed(
    load: Callable[[str], None] = lambda stage: None, work: Callable[[str, int], None] = lambda stage, image: None
) -> Iterator[None]:
    """Make the stages masks, embed and match compute stand-ins, in this process while the block runs.

    Args:
        load: called with the stage where its models would be loaded.
        work: called with the stage and the number of the first image where a shard would be computed.
    """
    real = {stage: STAGES[stage].start for stage in ("masks", "embed", "match")}  # type: ignore[union-attr]
    for stage in real:
        STAGES[stage].start = partial(_start, stage, load, work)  # type: ignore[union-attr, method-assign]
    try:
        yield
    finally:
        for stage, start in real.items():
            STAGES[stage].start = start  # type: ignore[union-attr, method-assign]


def _start(
    stage: str,
    load: Callable[[str], None],
    work: Callable[[str, int], None],
    params: Any,
    wanted: Sequence[str],
    weights: Mapping[str, Path],
    root: Path,
) -> Runner:
    load(stage)
    specs = {spec.name: spec for spec in STAGES[stage].columns(params) if spec.name in wanted}

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        work(stage, shard.indices.start)
        out = shard.collectors(specs)
        asked: dict[int, list[str]] = {}
        for row in shard.rows("targets") if any(name.endswith("/targets") for name in out) else ():
            asked.setdefault(row["image_index"], []).append(row["target_id"])
        for index in shard.indices:
            for column in out.values():
                _add(column, index, asked.get(index, ()))
        shard.tick(len(shard.indices))
        return {name: column.data() for name, column in out.items()}

    return compute


def _add(column: Collector, index: int, asked: Sequence[str]) -> None:
    name, layout = column.spec.name, column.spec.layout
    if name.endswith("/targets"):
        column.ok(index, [{"target_id": each, **MATCHED} for each in asked])
    elif name.endswith("/instances"):
        column.ok(index, {"iou": [[0.5]], "iop": [[0.5]]})
    elif layout is None:
        column.ok(index, FOUND)
    else:
        column.array(index, np.full((1, *layout.row_shape[1:]), index % 100, np.float32))
