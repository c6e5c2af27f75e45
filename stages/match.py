"""IoU and IoP of each proposer's masks with the targets, and with the instances, from run lengths: no image is decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stages.base import Collector, ColumnSpec, Runner, ShardInput, row_trouble
from stages.masks import masks_column
from stages.params import Sections
from store.format import schema
from store.overlap import against_instances, against_targets
from store.write.writer import ShardData

VERSION = 1


def columns(params: Sections) -> list[ColumnSpec]:
    """For every proposer a table with a row per target, and one with a row per image."""
    schemas = {"targets": schema.MATCH_TARGETS, "instances": schema.MATCH_INSTANCES}
    return [
        ColumnSpec(_column(proposer, table), "match", (masks_column(proposer), table), {}, VERSION, schema=rows)
        for proposer in params.proposers
        for table, rows in schemas.items()
    ]


def _column(proposer: str, table: str) -> str:
    return f"match/{proposer}/{table}"


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Return the function that matches a shard."""
    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = shard.collectors(specs)
        read = {read for name in out for read in specs[name].reads}
        instances = shard.rows("instances") if "instances" in read else []
        targets = shard.rows("targets") if "targets" in read else []
        proposed = {
            proposer: shard.rows(masks_column(proposer))
            for proposer in params.proposers
            if masks_column(proposer) in read
        }
        for position, index in enumerate(shard.indices):
            asked = [target for target in targets if target["image_index"] == index]
            for proposer, rows in proposed.items():
                masks, trouble = rows[position], row_trouble(rows[position], "masks")
                if of_targets := out.get(_column(proposer, "targets")):
                    unasked = trouble or shard.trouble("targets", position)
                    _match_targets(of_targets, index, unasked, masks["segmentation"], asked)
                if of_instances := out.get(_column(proposer, "instances")):
                    annotated = instances[position]
                    trouble = trouble or row_trouble(annotated, "instances")
                    if trouble:
                        of_instances.failed(index, *trouble)
                    else:
                        iou, iop = against_instances(masks["segmentation"], annotated["segmentation"])
                        of_instances.ok(index, {"iou": iou.tolist(), "iop": iop.tolist()})
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
