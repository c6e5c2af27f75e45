"""Encoders -> mask_embeddings/<proposer>, instance_embeddings, image_features. An image is decoded once for all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.base import VECTORS_PER_CHUNK, Collector, ColumnSpec, Pixels, RleMasks, Runner, ShardInput, row_trouble
from stages.dense import DenseCollector, dense_columns, dense_specs, widened
from stages.encoders import (
    ENCODERS,
    Encoder,
    EncoderInput,
    Model,
    Vectors,
    build,
    encoder_line,
    imported_line,
)
from stages.encoders.imported import Imported
from stages.fields import Dense
from stages.images import ImageFailure
from stages.masks import masks_column
from stages.names import did_you_mean
from stages.params import Sections
from stages.proposers.sam import features_column
from store.format.arrays import AnyArray
from store.format.column import ArrayLayout
from store.format.names import without_proposer
from store.format.schema import FAILED
from store.write.writer import ShardData

VERSION = 2
MASKS_PER_BATCH = 64
IMAGES_PER_BATCH = {"cpu": 1, "cuda": 8}
"""Images whose masks are embedded together: one image is enough to fill a CPU."""


def columns(params: Sections) -> list[ColumnSpec]:
    """For every mask encoder a column per proposer and one for the instances; for every image encoder one column."""
    specs = []
    for name, (encoder, proposers, instances) in _mask_encoders(params).items():
        features = _features(params, name, encoder)
        tables = {f"mask_embeddings/{proposer}/{name}": masks_column(proposer) for proposer in proposers}
        if instances:
            tables[f"instance_embeddings/{name}"] = "instances"
        for column, reads in tables.items():
            limit = params.embed.max_instances if reads == "instances" else params.embed.max_masks
            what = "instance" if reads == "instances" else "mask"
            layout = ArrayLayout(
                (limit, encoder.dim), VECTORS_PER_CHUNK, "float16", dimension_names=("image", what, "dim")
            )
            options = {"encoder": _options(encoder), "limit": limit}
            if name not in params.embed.imported:  # these are used unchanged
                options["precision"] = params.embed.precision
            inputs = ("images", reads, *features)
            specs.append(ColumnSpec(column, "embed", inputs, options, VERSION, encoder.weights, layout=layout))
    for name in params.embed.image_encoders:
        encoder = encoder_line(name, "image")
        layout = ArrayLayout(
            (encoder.tokens, encoder.dim), encoder.tokens, "float16", dimension_names=("image", "token", "dim")
        )
        options = {"encoder": _options(encoder), "precision": params.embed.precision}
        spec = ColumnSpec(
            f"image_features/{name}", "embed", ("images",), options, VERSION, encoder.weights, layout=layout
        )
        specs += dense_specs(spec, params.embed.dense)
    return specs


def _mask_encoders(params: Sections) -> Mapping[str, tuple[Encoder, Sequence[str], bool]]:
    """Name -> encoder, the proposers whose masks it embeds, and whether it embeds instances; imported ones come last.

    Raises:
        ValueError: an encoder or proposer is unknown, or two encoders have the same name.
    """
    every: dict[str, tuple[Encoder, Sequence[str], bool]] = {
        name: (encoder_line(name, "mask"), tuple(params.proposers), True) for name in params.embed.mask_encoders
    }
    for name, imported in params.embed.imported.items():
        if name in every or name in ENCODERS:
            raise ValueError(f"embed.imported.{name}: {name} is the name of an encoder; choose another one")
        if unknown := [one for one in imported.proposers if one not in params.proposers]:
            raise ValueError(
                f"embed.imported.{name}.proposers: found {unknown[0]!r}, expected one of "
                f"{', '.join(params.proposers) or 'section proposers'}"
                f"{did_you_mean(unknown[0], params.proposers)}"
            )
        every[name] = imported_line(imported.sha256, imported.dim), imported.proposers, imported.instances
    return every


def _options(encoder: Encoder) -> dict[str, Any]:
    return {key: value for key, value in asdict(encoder).items() if key not in ("weights", "text")}


def _features(params: Sections, name: str, encoder: Encoder) -> tuple[str, ...]:
    """The columns that SAM pooling reads: the same model's image embedding, in float16 if stored so; empty if not stored."""
    if encoder.reads_sam_features and name in params.embed.sam_features:
        form: Dense = "float16" if "float16" in params.embed.dense else "int8"
        return dense_columns(features_column(name), form)
    return ()


def start(params: Sections, wanted: Sequence[str], weights: Mapping[str, Path], root: Path) -> Runner:
    """Load the encoders of the ``wanted`` columns; return the function that embeds a shard."""
    from stages.batch_size import ahead, groups
    from stages.device import resolve_device

    specs = {spec.name: spec for spec in columns(params) if spec.name in wanted}
    device = resolve_device(params.run)
    names = dict.fromkeys(name.rpartition("/")[2] for name in specs)
    at_once = params.run.masks_per_batch or MASKS_PER_BATCH
    imported = {
        name: encoder for name, (encoder, *_) in _mask_encoders(params).items() if name in params.embed.imported
    }
    models: dict[str, Model | Imported] = {
        name: Imported(imported[name], weights)
        if name in imported
        else build(name, weights, device, at_once, params.embed.precision)
        for name in names
    }
    size = params.run.images_per_batch or IMAGES_PER_BATCH[device]

    def compute(shard: ShardInput) -> dict[str, ShardData]:
        out = shard.collectors(specs)
        rows = {table: shard.rows(table) for table in dict.fromkeys(_regions(column.spec) for column in out.values())}
        places = zip(itertools.count(), shard.indices, shard.rows("images"), shard.pixels(), strict=False)
        for group in ahead(groups(places, size)):
            array = cache(shard.array)  # SAM's embedding of an image serves its proposals and its instances
            for name, model in models.items():
                if features := DenseCollector(out, f"image_features/{name}"):
                    _embed_images(model, features, group)
                for column, collector in out.items():
                    if column.rpartition("/")[2] == name and (regions := _regions(specs[column])) != "images":
                        _embed(model, collector, group, shard, rows[regions], array)
            shard.tick(len(group))
        return {name: collector.data() for name, collector in out.items()}

    return compute


Place = tuple[int, int, dict[str, Any], Pixels | None]
"""Position in the shard, image_index, row of the table images, and its pixels."""


def _regions(spec: ColumnSpec) -> str:
    """The table whose rows have the column's vectors: masks, instances, or images for features of whole images."""
    return next((read for read in spec.reads if without_proposer(read) in ("masks", "instances")), "images")


def _embed_images(model: Model | Imported, features: DenseCollector, group: Sequence[Place]) -> None:
    """The patch tokens of some images, which go through the network together, in whichever forms are wanted."""
    troubles = [row_trouble(row, "image") for _, _, row, _ in group]
    images = [image for (*_, image), trouble in zip(group, troubles, strict=True) if trouble is None]
    assert not isinstance(model, Imported), "imported vectors are of masks"
    vectors = iter(model([EncoderInput(image) for image in images if image is not None]))
    for (_, index, _, _), trouble in zip(group, troubles, strict=True):
        if trouble:
            features.failed(index, *trouble)
        else:
            features.array(index, next(vectors))


def _embed(
    model: Model | Imported,
    collector: Collector,
    group: Sequence[Place],
    shard: ShardInput,
    rows: Sequence[Mapping[str, Any]],
    array: Callable[[str, int], AnyArray],
) -> None:
    """One column of some images. Columns are computed separately, as a column's bytes must not depend on the others.

    So the images and masks that go through a network together are this column's own, and a network whose output serves
    two columns sees one image at a time (:func:`stages.encoders.common.once_an_image`). A mask without a pixel has a zero
    vector, whatever the encoder.
    """
    spec, regions = collector.spec, _regions(collector.spec)
    assert spec.layout is not None
    limit, dim = spec.layout.row_shape
    stored = [read for read in spec.reads if read.startswith("sam_features/")]
    troubles: list[tuple[str, str] | None] = []
    items: list[EncoderInput] = []
    wanted: list[tuple[Mapping[str, Any], Sequence[str]]] = []  # for each item, its row and its masks
    filled: list[list[int]] = []  # for each image, which of its masks have a pixel
    for position, _, image_row, image in group:
        row = rows[position]
        trouble = row_trouble(image_row, "image") or row_trouble(row, without_proposer(regions))
        troubles.append(trouble or (shard.trouble(stored[0], position) if stored else None))
        filled.append([k for k, area in enumerate(row["area"][:limit]) if area])
        if troubles[-1]:
            continue
        assert image is not None
        if filled[-1]:
            masks = RleMasks([row["segmentation"][k] for k in filled[-1]], *image.shape[:2])
            features = widened(stored[0], [array(each, position) for each in stored]) if stored else None
            items.append(EncoderInput(image, masks, features))
            wanted.append((image_row, masks.counts))
    made = _looked_up(model, wanted) if isinstance(model, Imported) else model(items)
    vectors: Iterator[Vectors | ImageFailure] = iter(made)
    for (position, index, _, _), trouble, places in zip(group, troubles, filled, strict=True):
        if trouble:
            collector.failed(index, *trouble)
        else:
            count = len(rows[position]["segmentation"])
            found = np.zeros((min(count, limit), dim), np.float32)
            if places:
                of_masks = next(vectors)
                if isinstance(of_masks, ImageFailure):
                    collector.failed(index, FAILED, str(of_masks))
                    continue
                found[places] = of_masks
            collector.array(index, found, max(0, count - limit))


def _looked_up(
    imported: Imported, wanted: Sequence[tuple[Mapping[str, Any], Sequence[str]]]
) -> Iterator[Vectors | ImageFailure]:
    """The imported vectors of images, or why they are missing."""
    for image_row, masks in wanted:
        try:
            yield imported.vectors(image_row["sha256"], masks)
        except ImageFailure as failure:
            yield failure
