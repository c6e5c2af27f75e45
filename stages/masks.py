"""SAM everything mode -> masks, sam_features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.base import Collector, ColumnSpec, Runner, ShardInput, row_trouble
from stages.names import did_you_mean
from stages.params import Sections
from stages.proposers.sam import SAM_MODELS, SamModel
from store.format import schema
from store.format.column import ArrayLayout
from store.format.schema import FAILED
from store.write.writer import ShardData

if TYPE_CHECKING:
    from stages.proposers.sam.proposals import Prepared

VERSION = 2
RECORD_FIELDS = ("segmentation", "bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box")


def columns(params: Sections) -> list[ColumnSpec]:
    """The table of masks and, when asked for, SAM's image embedding."""
    model = sam_model(params.masks.model)
    options = params.masks.model_dump(exclude={"save_features"})
    specs = [ColumnSpec("masks", "masks", ("images",), options, VERSION, (model.weights,), schema=schema.MASKS)]
    if params.masks.save_features:
        layout = ArrayLayout(
            (model.embed_dim, model.grid, model.grid),
            model.embed_dim,
            "float16",
            dimension_names=("image", "channel", "y", "x"),
        )
        name = features_column(params.masks.model)
        options = {"model": params.masks.model, "precision": params.masks.precision}
        specs.append(ColumnSpec(name, "masks", ("images",), options, VERSION, (model.weights,), layout=layout))
    return specs


def sam_model(name: str) -> SamModel:
    """The line of a SAM model; ValueError, naming the choices, for an unknown one."""
    if name not in SAM_MODELS:
        raise ValueError(
            f"unknown SAM model {name!r}; choose one of: {', '.join(SAM_MODELS)}{did_you_mean(name, SAM_MODELS)}"
        )
    return SAM_MODELS[name]


def features_column(model: str) -> str:
    """Column of a SAM model's image embeddings."""
    return f"sam_features/{model}"


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Load SAM; return the function that segments a shard."""
    from stages.batch_size import ahead, groups
    from stages.device import resolve_device
    from stages.proposers.sam.generator import POINTS_PER_BATCH
    from stages.proposers.sam.proposals import MaskGenerator

    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    device = resolve_device(params.run)
    path = weights[SAM_MODELS[params.masks.model].weights]
    generate = MaskGenerator(params.masks, path, device, params.run.points_per_batch or POINTS_PER_BATCH)
    features = features_column(params.masks.model)

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        with ThreadPoolExecutor(1, thread_name_prefix="masks") as background:
            return segment(shard, background)

    def segment(shard: ShardInput, background: Executor) -> dict[str, ShardData]:
        out = {name: Collector(spec) for name, spec in specs.items()}
        behind: list[tuple[int, Future[list[dict[str, Any]]]]] = []  # at most one image

        def collect() -> None:
            while behind:
                index, records = behind.pop()
                found = records.result()
                out["masks"].ok(index, {name: [_field(record, name) for record in found] for name in RECORD_FIELDS})

        def prepared() -> Iterator[tuple[int, tuple[str, str] | None, Future[Prepared] | None]]:
            for index, row, image in zip(shard.indices, shard.rows("images"), shard.pixels(), strict=True):
                job = None if image is None else background.submit(generate.prepare, image)
                yield index, row_trouble(row, "image"), job

        for group in ahead(groups(prepared(), generate.generator.images_per_batch)):
            found = generate([job.result() for _, _, job in group if job], "masks" in out)
            for index, trouble, _ in group:
                made = None if trouble else next(found)
                collect()  # while this image was at work, the one before it was encoded
                if trouble:
                    for column in out.values():
                        column.failed(index, *trouble)
                if made and made.trouble and "masks" in out:
                    out["masks"].failed(index, FAILED, made.trouble)
                elif made and "masks" in out:
                    behind.append((index, background.submit(made.records)))
                if made and features in out:
                    out[features].array(index, made.embedding)
            shard.tick(len(group))
        collect()
        return {name: collector.data() for name, collector in out.items()}

    return compute


def _field(record: Mapping[str, Any], name: str) -> Any:
    """SAM gives the one prompt of a mask as a list of points; the table keeps the point."""
    return record[name][0] if name == "point_coords" else record[name]
