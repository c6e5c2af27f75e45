"""Proposers -> masks/<proposer>; SAM's image encoder -> sam_features/<model>. An image is decoded once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from stages.base import Collector, ColumnSpec, Pixels, Runner, ShardInput, row_trouble
from stages.dense import DenseCollector, dense_specs, every_form
from stages.params import Sections
from stages.proposers import ROWS, Found, Memo, Proposer, build, identity, largest_first
from stages.proposers.sam import features_column, sam_model
from store.format import schema
from store.format.column import ArrayLayout
from store.format.schema import FAILED
from store.write.writer import ShardData

VERSION = 2
RECORD_FIELDS = ("segmentation", "bbox", "area", "predicted_iou", "stability_score", "point_coords", "crop_box")
Group = Sequence[tuple[int, tuple[str, str] | None, Future[dict[Any, Any]] | None]]
"""image_index, (status, reason) where there are no pixels, and the prepared image: function -> its result."""


def masks_column(proposer: str) -> str:
    """Column of a proposer's masks."""
    return f"masks/{proposer}"


def columns(params: Sections) -> list[ColumnSpec]:
    """A table of masks per proposer, and SAM's image embeddings where the params ask for them."""
    specs = []
    for name, proposer in params.proposers.items():
        options, column = identity(proposer), masks_column(name)
        specs.append(ColumnSpec(column, "masks", ("images",), options, VERSION, proposer.weights, schema=schema.MASKS))
    for name in params.embed.sam_features:
        model = sam_model(name)
        layout = ArrayLayout(
            (model.embed_dim, model.grid, model.grid),
            model.embed_dim,
            "float16",
            dimension_names=("image", "channel", "y", "x"),
        )
        options = {"model": name, "precision": params.embed.precision}
        column = features_column(name)
        spec = ColumnSpec(column, "masks", ("images",), options, VERSION, (model.weights,), layout=layout)
        specs += dense_specs(spec, params.embed.dense)
    return specs


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Load the proposers and SAMs of the ``wanted`` columns, each SAM once; return the function that segments a shard."""
    from stages.batch_size import ahead, groups
    from stages.device import resolve_device
    from stages.proposers.sam import first_use, generator
    from stages.proposers.sam.proposals import Features

    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    device = resolve_device(params.run)
    first_use.remember_in(root / params.run.cache_dir)
    shared: Memo = {}
    proposers: dict[str, Proposer] = {
        masks_column(name): build(proposer, weights, device, params.run.points_per_batch, shared)
        for name, proposer in params.proposers.items()
        if masks_column(name) in specs
    }
    features = {
        features_column(name): Features(name, params.embed.precision, weights, device, shared)
        for name in params.embed.sam_features
        if every_form(features_column(name)) & specs.keys()
    }
    every = [proposer.prepare for proposer in proposers.values()] + [each.prepare for each in features.values()]
    prepares = tuple(dict.fromkeys(every))

    def prepare(image: Pixels) -> dict[Any, Any]:
        return {each: each(image) for each in prepares}

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        with ThreadPoolExecutor(1, thread_name_prefix="masks") as background:
            return segment(shard, background)

    def segment(shard: ShardInput, background: Executor) -> dict[str, ShardData]:
        out, rows = shard.collectors(specs), shard.rows("images")
        later = Later(background)

        def prepared() -> Iterator[tuple[int, tuple[str, str] | None, Future[dict[Any, Any]] | None]]:
            for index, row, image in zip(shard.indices, rows, shard.pixels(), strict=True):
                job = None if image is None else background.submit(prepare, image)
                yield index, row_trouble(row, "image"), job

        for group in ahead(groups(prepared(), generator.IMAGES_PER_BATCH[device])):
            ready = [job.result() for _, _, job in group if job]
            memo: Memo = {ROWS: [rows[index - shard.indices.start] for index, _, job in group if job]}
            for name, proposer in proposers.items():
                if name not in out:
                    continue
                found = proposer.propose([each[proposer.prepare] for each in ready], memo)
                _add_masks(out[name], group, found, later)
            for name, embed in features.items():
                if not (column := DenseCollector(out, name)):
                    continue
                vectors = iter(embed([each[embed.prepare] for each in ready], memo))
                for index, trouble, _ in group:
                    if trouble:
                        column.failed(index, *trouble)
                    else:
                        column.array(index, next(vectors))
            shard.tick(len(group))
        later.finish()
        return {name: collector.data() for name, collector in out.items()}

    return compute


class Later:
    """Turns one image's records into a row in another thread, while the next image is processed."""

    def __init__(self, background: Executor) -> None:
        self.background = background
        self._waiting: list[tuple[Collector, int, Future[list[dict[str, Any]]]]] = []  # at most one

    def add(self, column: Collector, index: int, records: Callable[[], Sequence[dict[str, Any]]]) -> None:
        """Add a row once its records are made; earlier rows are added first."""
        self.finish()
        self._waiting.append((column, index, self.background.submit(lambda: largest_first(records()))))

    def finish(self) -> None:
        """Add the row that is still waiting."""
        while self._waiting:
            column, index, job = self._waiting.pop()
            found = job.result()
            column.ok(index, {name: [_field(record, name) for record in found] for name in RECORD_FIELDS})


def _add_masks(column: Collector, group: Group, found: Iterator[Found], later: Later) -> None:
    for index, trouble, _ in group:
        made = None if trouble else next(found)
        if made is not None and made.trouble is None:
            later.add(column, index, made.records)  # the records of the image before were made meanwhile
            continue
        later.finish()
        if trouble:
            column.failed(index, *trouble)
        elif made is not None:
            column.failed(index, FAILED, str(made.trouble))


def _field(record: Mapping[str, Any], name: str) -> Any:
    """SAM gives a mask's single prompt as a list of points; the table keeps the point."""
    return record[name][0] if name == "point_coords" else record[name]
