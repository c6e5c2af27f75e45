"""Masks x targets and masks x instances -> iou, iop. From run lengths: no image is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.base import Collector, ColumnSpec, Runner, ShardInput, row_trouble
from stages.params import Sections
from store.format import schema
from store.overlap import against_instances, against_targets
from store.write.writer import ShardData

VERSION = 1


def columns(params: Sections) -> list[ColumnSpec]:
    """One table a target, one an image."""
    return [
        ColumnSpec("match/targets", "match", ("masks", "targets"), {}, VERSION, schema=schema.MATCH_TARGETS),
        ColumnSpec("match/instances", "match", ("masks", "instances"), {}, VERSION, schema=schema.MATCH_INSTANCES),
    ]


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Return the function that matches a shard."""
    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = shard.collectors(specs)
        instances = shard.rows("instances") if "match/instances" in out else [None] * len(shard.indices)
        targets = shard.rows("targets") if "match/targets" in out else []
        for position, (index, masks, annotated) in enumerate(
            zip(shard.indices, shard.rows("masks"), instances, strict=True)
        ):
            trouble = row_trouble(masks, "masks")
            if "match/targets" in out:
                asked = [target for target in targets if target["image_index"] == index]
                unasked = trouble or shard.trouble("targets", position)
                _match_targets(out["match/targets"], index, unasked, masks["segmentation"], asked)
            if annotated is not None:
                trouble = trouble or row_trouble(annotated, "instances")
                if trouble:
                    out["match/instances"].failed(index, *trouble)
                else:
                    iou, iop = against_instances(masks["segmentation"], annotated["segmentation"])
                    out["match/instances"].ok(index, {"iou": iou.tolist(), "iop": iop.tolist()})
            shard.tick(1)
        return {name: collector.data() for name, collector in out.items()}

    return compute


def _match_targets(
    column: Collector, index: int, trouble: tuple[str, str] | None, masks: list[str], targets: list[dict[str, str]]
) -> None:
    if trouble:
        column.failed(index, *trouble)
        return
    names = ("iou", "iop", "iou_valid", "iop_valid")
    rows = []
    for target in targets:
        values = against_targets(masks, target["segmentation"], target["ignore"])
        rows.append(
            {
                "target_id": target["target_id"],
                **{name: value.tolist() for name, value in zip(names, values, strict=True)},
            }
        )
    column.ok(index, rows)
